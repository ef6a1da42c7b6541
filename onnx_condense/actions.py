"""What an operator does to channels: the actions that rows of the operator table turn nodes into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import numpy as np


class Kind(Enum):
    """What an elementwise function lets pass exactly (design: activation classes; f is applied per element)."""

    LINEAR = "linear"
    """f(x) = x: any relation between two channels passes."""
    HOMOGENEOUS = "homogeneous"
    """f(s x) = s f(x) for s > 0: Relu, LeakyRelu, PRelu."""
    ABSOLUTE = "absolute"
    """f(s x) = |s| f(x): Abs."""
    ODD = "odd"
    """f(-x) = -f(x): Tanh, Erf, Softsign, Clip(-a, a). Bounded: beyond exactness rows must be equal or opposite."""
    UNBOUNDED = "unbounded"
    """Nearly homogeneous far from zero: ReLU6, Gelu, Silu, Elu. Beyond exactness it takes the paper's ratio."""
    BOUNDED = "bounded"
    """Everything else, Sigmoid first: beyond exactness rows must be nearly equal."""


@dataclass(frozen=True)
class Contraction:
    """A linear map: letters name axes. In data and weight: contracted; in weight and output: produced; in data and
    output: carried; "*" is a window axis along which channels must not vary; "." is an axis of the weight alone.

    y = alpha · (data ∘ weight) + beta · bias
    """

    data: int
    weight: int
    bias: int | None
    data_axes: str
    weight_axes: str
    output_axes: str
    padded: bool = False
    alpha: float = 1.0
    beta: float = 1.0
    scattered: int = 0
    """ConvTranspose: output places per input place; every input place multiplies the whole weight. 0 for the others."""
    groups: int = 1
    """Grouped convolution: channels and outputs fall into as many blocks, each reading the block of its own."""
    lookup: bool = False
    """The data are row numbers of the weight, nothing is contracted: Gather from a table."""

    @property
    def weights(self) -> tuple[int, ...]:
        return (self.weight,)

    @property
    def inner(self) -> str:
        """The letter that is contracted."""
        return next(letter for letter in self.data_axes if letter in self.weight_axes)

    @property
    def outer(self) -> str:
        """The letter that is produced."""
        return next(letter for letter in self.weight_axes if letter in self.output_axes)


@dataclass(frozen=True)
class Product:
    """A product of two tensors of data, inputs 0 and 1: letters name axes, those that the output lacks are summed."""

    left: str
    right: str
    output: str


@dataclass(frozen=True)
class Reader:
    """A consumer whose own channels stay: data's `data_axis` is contracted with `weight_axis` of the weight.

    reason: why its own channels stay, completing "LAYER ...". Constants are not folded into it.
    held: inputs that are weights of its own channels alone.
    """

    data: int
    weight: int
    data_axis: int
    weight_axis: int
    reason: str
    held: tuple[int, ...] = ()

    @property
    def weights(self) -> tuple[int, ...]:
        return self.weight, *self.held


@dataclass(frozen=True)
class Recurrent:
    """LSTM, GRU, RNN: units h(t) that follow from the data x(t) and from h(t-1), in one or two directions.

    Input 0 is x, 1 is W [directions, gates · units, in], 2 is R [directions, gates · units, units].

    candidate: the gate whose function is of `kind`, through to the unit; units with equal other gates are related
    by their candidates.
    bias: input of [directions, 2 · gates · units]: of W, then of R. apart: the candidate's two are not added up.
    peepholes: input of [directions, 3 · units].
    states: inputs that are constant initial states, [directions, batch, units].
    zeros: inputs that are initial states of zeros, as they would be by default.
    given: inputs that are initial states from data. reason: why units stay where those do, completing "LAYER ...".
    """

    gates: int
    candidate: int
    kind: Kind
    bias: int | None = None
    apart: bool = False
    peepholes: int | None = None
    states: tuple[int, ...] = ()
    zeros: tuple[int, ...] = ()
    given: tuple[int, ...] = ()
    reason: str = ""

    data: ClassVar[int] = 0
    data_axis: ClassVar[int] = 2
    weight: ClassVar[int] = 1
    weight_axis: ClassVar[int] = 2
    weights: ClassVar[tuple[int, ...]] = (1, 2)


@dataclass(frozen=True)
class Filter:
    """Depthwise Conv: every data channel has `multiplier` kernels of its own."""

    multiplier: int
    padded: bool


@dataclass(frozen=True)
class Activation:
    """An elementwise function of one tensor. `slope` is the input that holds one parameter per channel (PRelu).

    low, high: bounds of its output; flat: (from, to) outside of which it is constant (Relu: below 0).
    uniform_axes: it mixes the places along these axes (Softmax), on which channels may not lie: it `across`.
    """

    kind: Kind
    low: float = -np.inf
    high: float = np.inf
    flat: tuple[float, float] = (-np.inf, np.inf)
    slope: int | None = None
    uniform_axes: tuple[int, ...] = ()
    across: str = "mixes channels"


@dataclass(frozen=True)
class Elementwise:
    """Neg, or add, sub, mul, div, max, min or compare with broadcasting."""

    operation: str


@dataclass(frozen=True)
class Normalization:
    """y = (x - mean) · scale / sqrt(var + epsilon) + shift, per channel on axis 1: BatchNormalization in inference.

    scale, shift, mean, var are input indices. Without mean and var it takes the channel's own: InstanceNormalization.
    """

    epsilon: float
    scale: int = 1
    shift: int = 2
    mean: int | None = 3
    var: int | None = 4


@dataclass(frozen=True)
class Window:
    """Pooling and the like: channels pass, `axes` are mixed. Linear (AveragePool) or monotone (MaxPool).

    `padded`: zeros from beyond the border enter the mean, so a constant channel is no longer constant.
    `dropped`: axes that vanish from the shape.
    """

    axes: tuple[int, ...]
    linear: bool
    padded: bool = False
    dropped: bool = False
    scale_free: bool = True
    """Whether a constant passes unchanged: true of a mean, not of a sum."""
    across: str = ""
    """What it does when channels lie on one of the axes, for which they are pinned; empty: they are united."""
    before: Activation | None = None
    """A function of each element before they are mixed."""
    sized: tuple[int, tuple[int, ...]] | None = None
    """(input index, axes): an input that states the sizes of these output axes."""


@dataclass(frozen=True)
class Padding:
    """Zeros before and after every axis, in numbers of places. Along an axis of channels they are new channels.

    stated: the axes that the amounts are stated for, in their order. window: what it is along the other axes.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    stated: tuple[int, ...]
    window: Window


@dataclass(frozen=True)
class Move:
    """Data movement: run on labels by `movers.apply`, its constants rewritten by `movers.edits`.

    parameters: what the movement needs, by the names that movers.py knows.
    """

    name: str
    parameters: Mapping[str, Any]

    @property
    def indexed(self) -> tuple[int, ...]:
        """The axes of the input along which places are taken by their number."""
        if self.name == "slice":
            return tuple(axis for axis, *_ in self.parameters["slices"])
        return (self.parameters["axis"],) if self.name in ("split", "gather") else ()


@dataclass(frozen=True)
class Refused:
    """This use of the operator is not understood: `reason` completes the sentence "NODE ..."."""

    reason: str


@dataclass(frozen=True)
class Chosen:
    """Where: data (input 1 or 2) chosen by a condition (input 0)."""


Action = (
    Contraction
    | Product
    | Reader
    | Recurrent
    | Filter
    | Activation
    | Elementwise
    | Normalization
    | Window
    | Padding
    | Move
    | Chosen
    | Refused
)

RELU = Activation(Kind.HOMOGENEOUS, 0.0, flat=(0.0, np.inf))
UNBOUNDED = Activation(Kind.UNBOUNDED)
BOUNDED = Activation(Kind.BOUNDED)
MAGNITUDE = Activation(Kind.ABSOLUTE, 0.0)
