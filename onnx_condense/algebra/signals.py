"""Signals: how the value of one channel follows from the weights that produce it.

A signal is a small expression, shared by all channels of a tensor that are computed alike. Evaluated over the units
(channels) of one cell it answers four questions, all in numpy:

* constants.py: which channels are constant, and between which bounds the others lie;
* relations.py: the exact affine relation x_j = ratio · x_m + constant between two channels, where there is one;
* directions.py: which vectors must point the same way for two channels to condense, how strictly, and the relation that
  follows from the paper's norm ratios, where rows are only similar.

A question is a function of a signal and the `Numbers` behind it, with a rule for every kind of signal; what it means
for an operation between two tensors is a row of operations.py.

Signals share what they are made of, and may lie as deep as a network: a question is answered once for each of them, for
those below it first (`Answers` in numbers.py). A rule asks for the answers of what lies directly below, never deeper by
itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx_condense.arrays import Floats, Ints
from onnx_condense.operators.actions import Activation
from onnx_condense.operators.answers import Kind
from onnx_condense.operators.between import Operation


@dataclass(frozen=True, eq=False)
class Signal:
    """Base of all signals; identity is what distinguishes two."""

    @property
    def below(self) -> tuple[Signal, ...]:
        """The signals that it is made of."""
        return ()


@dataclass(frozen=True, eq=False)
class Step(Signal):
    """A signal that is made of one other."""

    child: Signal

    @property
    def below(self) -> tuple[Signal, ...]:
        """That one."""
        return (self.child,)


@dataclass(frozen=True, eq=False)
class Rows(Signal):
    """Rows of a producer's weight: node and weight input index, its atoms in order of the produced axis.

    low, high: bounds of every element of the data that the rows multiply.
    """

    node: int
    atoms: Ints
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Recurrence(Signal):
    """Units of one direction of a recurrent node, or its cells: atoms[i] is the unit at index `first` + i.

    kind: of the function from a unit's candidate to the unit.
    """

    node: int
    atoms: Ints
    first: int
    kind: Kind


@dataclass(frozen=True, eq=False)
class Shared(Signal):
    """A tensor that is the same for every channel (broadcast), as a summand."""


@dataclass(frozen=True, eq=False)
class Restricted(Step):
    """The child at these atoms of each unit: one branch of an Add, whose branches hold different atoms of a unit.

    The innermost restriction counts: it says which atoms stood at the places that the child was computed from.
    """

    atoms: Ints


@dataclass(frozen=True, eq=False)
class Stated:
    """What a BatchNormalization states of the channels that it makes, [positions] each."""

    mean: Floats
    deviation: Floats


@dataclass(frozen=True, eq=False)
class Affine(Step):
    """scale · child + shift per channel; scale, shift and magnitude are [positions, q], q > 1 where they vary in space.

    magnitude: the size of the terms that shift was computed from, which bounds its rounding error. stated: what the
    result is like, where a BatchNormalization makes it.
    """

    atoms: Ints
    scale: Floats
    shift: Floats
    magnitude: Floats
    stated: Stated | None = None


@dataclass(frozen=True, eq=False)
class Centred(Step):
    """The child with its mean taken off, divided by its deviation: InstanceNormalization."""


@dataclass(frozen=True, eq=False)
class Filtered(Step):
    """A kernel per channel (depthwise Conv): kernels[i] is the one that atoms[i] meets."""

    node: int
    atoms: Ints
    kernels: Ints
    padded: bool


@dataclass(frozen=True, eq=False)
class Activated(Step):
    """An elementwise function; `function` evaluates it on numbers, `slope` is [positions] for PRelu."""

    action: Activation
    function: Callable[[Floats], Floats]
    atoms: Ints | None = None
    slope: Floats | None = None


@dataclass(frozen=True, eq=False)
class Pooled(Step):
    """A window over other axes than the channel's: linear or monotone; see operators.Window."""

    linear: bool
    padded: bool
    scale_free: bool


@dataclass(frozen=True, eq=False)
class Mapped(Step):
    """The same linear map along another axis for every channel; `biased` when it also adds a bias."""

    biased: bool


@dataclass(frozen=True, eq=False)
class Modulated(Step):
    """The child times a tensor that is the same for every channel."""


@dataclass(frozen=True, eq=False)
class Combined(Signal):
    """left operation right, channel by channel: a row of `operations.OPERATIONS`."""

    operation: Operation
    left: Signal
    right: Signal

    @property
    def below(self) -> tuple[Signal, ...]:
        """Both."""
        return self.left, self.right
