"""Signals: how the value of one channel follows from the weights that produce it.

A signal is a small expression, shared by all channels of a tensor that are computed alike. Evaluated over the units
(channels) of one cell it answers four questions, all in numpy:

* constants.py: which channels are constant, and between which bounds the others lie;
* relations.py: the exact affine relation x_j = ratio · x_m + constant between two channels, where there is one;
* factors.py: which vectors must point the same way for two channels to condense, how strictly, and the relation that
  follows from the paper's norm ratios, where rows are only similar.

A question is a function of a signal and the `Numbers` behind it, with a rule for every kind of signal; what it means
for an operation between two tensors is a row of operations.py.
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
class Restricted(Signal):
    """The child at these atoms of each unit: one branch of an Add, whose branches hold different atoms of a unit.

    The innermost restriction counts: it says which atoms stood at the places that the child was computed from.
    """

    child: Signal
    atoms: Ints


@dataclass(frozen=True, eq=False)
class Stated:
    """What a BatchNormalization states of the channels that it makes, [positions] each."""

    mean: Floats
    deviation: Floats


@dataclass(frozen=True, eq=False)
class Affine(Signal):
    """scale · child + shift per channel; scale, shift and magnitude are [positions, q], q > 1 where they vary in space.

    magnitude: the size of the terms that shift was computed from, which bounds its rounding error. stated: what the
    result is like, where a BatchNormalization makes it.
    """

    child: Signal
    atoms: Ints
    scale: Floats
    shift: Floats
    magnitude: Floats
    stated: Stated | None = None


@dataclass(frozen=True, eq=False)
class Centred(Signal):
    """The child with its mean taken off, divided by its deviation: InstanceNormalization."""

    child: Signal


@dataclass(frozen=True, eq=False)
class Filtered(Signal):
    """A kernel per channel (depthwise Conv): kernels[i] is the one that atoms[i] meets."""

    child: Signal
    node: int
    atoms: Ints
    kernels: Ints
    padded: bool


@dataclass(frozen=True, eq=False)
class Activated(Signal):
    """An elementwise function; `function` evaluates it on numbers, `slope` is [positions] for PRelu."""

    child: Signal
    action: Activation
    function: Callable[[Floats], Floats]
    atoms: Ints | None = None
    slope: Floats | None = None


@dataclass(frozen=True, eq=False)
class Pooled(Signal):
    """A window over other axes than the channel's: linear or monotone; see operators.Window."""

    child: Signal
    linear: bool
    padded: bool
    scale_free: bool


@dataclass(frozen=True, eq=False)
class Mapped(Signal):
    """The same linear map along another axis for every channel; `biased` when it also adds a bias."""

    child: Signal
    biased: bool


@dataclass(frozen=True, eq=False)
class Modulated(Signal):
    """The child times a tensor that is the same for every channel."""

    child: Signal


@dataclass(frozen=True, eq=False)
class Combined(Signal):
    """left operation right, channel by channel: a row of `operations.OPERATIONS`."""

    operation: Operation
    left: Signal
    right: Signal
