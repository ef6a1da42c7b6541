"""What an operator does to channels: what the table's rows turn nodes into; see between.py and moves.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from onnx_condense.arrays import Floats, Shape
from onnx_condense.operators.answers import ANYTHING, Action, Interval, Kind, Role, with_zero
from onnx_condense.operators.products import Term, multiplied
from onnx_condense.operators.reasons import Reason


@dataclass(frozen=True)
class Contraction(Action):
    """A linear map, y = alpha · (data ∘ weight) + beta · bias, whose axes are named by letters.

    In data and weight: contracted; in weight and output: produced; in data and output: carried. "*" is a window axis
    along which channels must not vary; "." is an axis of the weight alone.
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
    from_table: bool = False
    """The data are row numbers of the weight, nothing is contracted: Gather from a table."""

    @property
    def weights(self) -> tuple[int, ...]:
        return (self.weight,)

    @property
    def linear_map(self) -> Contraction | None:
        return self

    @property
    def lookup(self) -> bool:
        return self.from_table

    @property
    def convolves(self) -> bool:
        return self.weight_axes.endswith("..")

    @property
    def made_axis(self) -> int | None:
        return None if self.from_table else self.output_axis

    @property
    def is_kernel(self) -> bool:
        """Whether the weight is that of a convolution, of any rank."""
        return self.weight_axes.endswith(".")

    @property
    def inner(self) -> str:
        """The letter that is contracted."""
        return next(letter for letter in self.data_axes if letter in self.weight_axes)

    @property
    def outer(self) -> str:
        """The letter that is produced."""
        return next(letter for letter in self.weight_axes if letter in self.output_axes)

    @property
    def data_axis(self) -> int:
        """The axis of the data that is contracted."""
        return self.data_axes.index(self.inner)

    @property
    def output_axis(self) -> int:
        """The axis of the output that is produced."""
        return self.output_axes.index(self.outer)

    def axis(self, role: Role) -> int:
        """The axis of the weight that is contracted or produced."""
        return self.weight_axes.index(self.inner if role is Role.CONTRACTED else self.outer)

    def multiplications(self, position: int, inputs: Sequence[Shape], output: Shape) -> int:
        if position != self.weight or self.from_table:
            return 0
        if self.scattered:
            return prod(inputs[self.data]) // max(1, inputs[self.data][self.data_axis])
        return prod(output) // max(1, output[self.output_axis])


@dataclass(frozen=True)
class Product(Action):
    """A product of two tensors of data, inputs 0 and 1: letters name axes, those that the output lacks are summed."""

    left: str
    right: str
    output: str

    def products(self, inputs: Sequence[Shape], output: Shape) -> int:
        return multiplied([((0, self.left), (1, self.right))], inputs, output)


@dataclass(frozen=True)
class Reader(Action):
    """A consumer whose own channels stay: data's `data_axis` is contracted with `weight_axis` of the weight.

    reason: why its own channels stay. Constants are not folded into it.
    held: inputs that are weights of its own channels alone.
    """

    data: int
    weight: int
    data_axis: int
    weight_axis: int
    reason: Reason
    held: tuple[int, ...] = ()

    @property
    def weights(self) -> tuple[int, ...]:
        return self.weight, *self.held

    @property
    def reader(self) -> Reader | None:
        return self

    def multiplications(self, position: int, inputs: Sequence[Shape], output: Shape) -> int:
        return _per_line(self, position, inputs)


@dataclass(frozen=True)
class GateRows:
    """Gates of a recurrent node whose rows read the same: data, the state before, or both.

    reset: the gate whose value scales the state first.
    """

    gates: tuple[int, ...]
    data: bool = True
    state: bool = True
    reset: int | None = None


@dataclass(frozen=True)
class Recurrent(Action):
    """LSTM, GRU, RNN: units h(t) that follow from the data x(t) and from h(t-1), in one or two directions.

    Input 0 is x, 1 is W [directions, gates · units, in], 2 is R [directions, gates · units, units].

    candidate: the gate whose function is of `kind`, through to the unit; units with equal other gates are related
    by their candidates.
    bias: input of [directions, 2 · gates · units]: of W, then of R. apart: the candidate's two are not added up.
    peepholes: input of [directions, 3 · units].
    states: inputs that are constant initial states, [directions, batch, units].
    zeros: inputs that are initial states of zeros, as they would be by default.
    given: inputs that are initial states from data. reason: why units stay where those do.
    backward: for each direction, whether it begins at the last step.
    reset: the gate that scales the state which the candidate reads. sigmoid: whether its function is that one.
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
    reason: Reason = Reason.STATE_FROM_DATA
    backward: tuple[bool, ...] = (False,)
    reset: int | None = None
    sigmoid: bool = True

    @property
    def gate_rows(self) -> tuple[GateRows, ...]:
        """The gates by what their rows read, as far as that is known."""
        if self.reset is None:
            return (GateRows(tuple(range(self.gates))),)
        candidate = (self.candidate,)
        others = GateRows(tuple(gate for gate in range(self.gates) if gate != self.candidate))
        if self.apart:
            return others, GateRows(candidate, state=False), GateRows(candidate, data=False)
        return (others, GateRows(candidate, reset=self.reset)) if self.sigmoid else (others,)

    @property
    def data(self) -> int:
        return 0

    @property
    def data_axis(self) -> int:
        return 2

    @property
    def weight(self) -> int:
        return 1

    @property
    def weight_axis(self) -> int:
        return 2

    @property
    def weights(self) -> tuple[int, ...]:
        return 1, 2

    @property
    def recurrent(self) -> Recurrent | None:
        return self

    def multiplications(self, position: int, inputs: Sequence[Shape], output: Shape) -> int:
        return _per_line(self, position, inputs)

    def counts(self, inputs: Sequence[Shape], output: Shape) -> Mapping[str, int]:
        return {"hidden_size": output[-1]}


def _per_line(action: Reader | Recurrent, position: int, inputs: Sequence[Shape]) -> int:
    """Every element of a weight multiplies each line of data once."""
    data = inputs[action.data]
    return prod(data) // max(1, data[action.data_axis]) if position in action.weights else 0


@dataclass(frozen=True)
class Filter(Action):
    """Depthwise Conv: every data channel has `multiplier` kernels of its own."""

    multiplier: int
    padded: bool

    @property
    def weights(self) -> tuple[int, ...]:
        return (1,)

    @property
    def of_channels(self) -> tuple[int, ...]:
        return 1, 2

    @property
    def convolves(self) -> bool:
        return True

    @property
    def made_axis(self) -> int | None:
        return 1

    def multiplications(self, position: int, inputs: Sequence[Shape], output: Shape) -> int:
        return prod(output) // max(1, output[1]) if position == 1 else 0

    def counts(self, inputs: Sequence[Shape], output: Shape) -> Mapping[str, int]:
        return {"group": inputs[0][1]}


@dataclass(frozen=True)
class Activation(Action):
    """An elementwise function of one tensor. `slope` is the input that holds one parameter per channel (PRelu).

    low, high: bounds of its output; flat: (from, to) outside of which it is constant (Relu: below 0).
    uniform_axes: it mixes the places along these axes (Softmax), on which channels may not lie: it `across`.
    affine: of LayerNormalization and its kin (see `Action.affine`). centres: whether that takes the mean off, too.
    """

    kind: Kind
    low: float = -np.inf
    high: float = np.inf
    flat: tuple[float, float] = (-np.inf, np.inf)
    slope: int | None = None
    uniform_axes: tuple[int, ...] = ()
    across: Reason = Reason.MIXES
    affine: tuple[int, int, int | None] | None = None
    centres: bool = False

    @property
    def pointwise(self) -> bool:
        return not self.uniform_axes

    @property
    def bounded(self) -> bool:
        return bool(np.isfinite([self.low, self.high]).all())

    @property
    def keeps_bounds(self) -> bool:
        return self.kind is Kind.LINEAR

    def image(self, ends: Sequence[Interval]) -> Interval:
        if self.slope is not None:
            return ANYTHING
        low, high = ends[0] if ends and (self.kind is Kind.LINEAR or self.flat != ANYTHING) else ANYTHING
        return float(np.clip(low, self.low, self.high)), float(np.clip(high, self.low, self.high))


@dataclass(frozen=True)
class Normalization(Action):
    """y = (x - mean) · scale / sqrt(var + epsilon) + shift, per channel on axis 1: BatchNormalization in inference.

    scale, shift, mean, var are input indices. Without mean and var it takes the channel's own: InstanceNormalization.
    """

    epsilon: float
    scale: int = 1
    shift: int = 2
    mean: int | None = 3
    var: int | None = 4

    @property
    def statistics(self) -> tuple[int, ...]:
        return () if self.mean is None or self.var is None else (self.mean, self.var)

    @property
    def affine(self) -> tuple[int, int, int | None] | None:
        return 1, self.scale, self.shift

    @property
    def normalization(self) -> Normalization | None:
        return self if self.states_statistics else None

    @property
    def pointwise(self) -> bool:
        return self.states_statistics

    def gain(self, scale: Floats, var: Floats) -> Floats:
        """[channels, ...] what it multiplies a channel with: scale / sqrt(var + epsilon)."""
        return np.asarray(scale / np.sqrt(var + self.epsilon))


@dataclass(frozen=True)
class Window(Action):
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
    across: Reason | None = None
    """What it does when channels lie on one of the axes, for which they are pinned; None: they are united."""
    before: Activation | None = None
    """A function of each element before they are mixed."""
    sized: tuple[int, tuple[int, ...]] | None = None
    """(input index, axes): an input that states the sizes of these output axes."""

    @property
    def keeps_bounds(self) -> bool:
        return True

    def image(self, ends: Sequence[Interval]) -> Interval:
        if not self.scale_free or self.before is not None or not ends:
            return ANYTHING
        return with_zero(ends[0]) if self.padded else ends[0]


@dataclass(frozen=True)
class Padding(Action):
    """Zeros before and after every axis, in numbers of places. Along an axis of channels they are new channels.

    stated: the axes that the amounts are stated for, in their order. window: what it is along the other axes.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    stated: tuple[int, ...]
    window: Window

    @property
    def keeps_bounds(self) -> bool:
        return True

    def image(self, ends: Sequence[Interval]) -> Interval:
        return with_zero(ends[0]) if ends else ANYTHING


@dataclass(frozen=True)
class Refused(Action):
    """This use of the operator is not understood; `terms` are what it multiplies all the same."""

    reason: Reason
    terms: tuple[Term, ...] = ()

    @property
    def refused(self) -> bool:
        return True

    def products(self, inputs: Sequence[Shape], output: Shape) -> int:
        return multiplied(self.terms, inputs, output)


RELU = Activation(Kind.HOMOGENEOUS, 0.0, flat=(0.0, np.inf))
UNBOUNDED = Activation(Kind.UNBOUNDED)
BOUNDED = Activation(Kind.BOUNDED)
MAGNITUDE = Activation(Kind.ABSOLUTE, 0.0)
