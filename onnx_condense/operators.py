"""THE operator table: how each ONNX operator relates channels, and the only room that reads node.op and node.attrs.

A row turns a node into an *action*: one of a few frozen dataclasses that the tracer (channels.py) and the rewriter
(rewrite.py) understand. Adding an operator is one row here and one planted-duplicate test. An operator without a row,
or a use of it that its row does not cover (`Refused`), pins the channels that it touches, with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_condense.facts import Facts
from onnx_condense.runtime import Array


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

    @property
    def inner(self) -> str:
        """The letter that is contracted."""
        return next(letter for letter in self.data_axes if letter in self.weight_axes)

    @property
    def outer(self) -> str:
        """The letter that is produced."""
        return next(letter for letter in self.weight_axes if letter in self.output_axes)


@dataclass(frozen=True)
class Filter:
    """Depthwise Conv: every data channel has `multiplier` kernels of its own."""

    multiplier: int
    padded: bool


@dataclass(frozen=True)
class Activation:
    """An elementwise function of one tensor. `slope` is the input that holds one parameter per channel (PRelu).

    low, high: bounds of its output; flat: (from, to) outside of which it is constant (Relu: below 0).
    uniform_axis: it mixes the places along this axis (Softmax), on which channels may not lie.
    """

    kind: Kind
    low: float = -np.inf
    high: float = np.inf
    flat: tuple[float, float] = (-np.inf, np.inf)
    slope: int | None = None
    uniform_axis: int | None = None


@dataclass(frozen=True)
class Elementwise:
    """Neg, or add, sub, mul, div, max, min or compare with broadcasting."""

    operation: str


@dataclass(frozen=True)
class Normalization:
    """y = (x - mean) · scale / sqrt(var + epsilon) + shift, per channel on axis 1: BatchNormalization in inference.

    scale, shift, mean, var are input indices.
    """

    epsilon: float
    scale: int = 1
    shift: int = 2
    mean: int = 3
    var: int = 4


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


@dataclass(frozen=True)
class Move:
    """Data movement: run on labels by `movers.apply`, its constants rewritten by `movers.edits`.

    parameters: what the movement needs, by the names that movers.py knows.
    """

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Refused:
    """This use of the operator is not understood: `reason` completes the sentence "NODE ..."."""

    reason: str


@dataclass(frozen=True)
class Chosen:
    """Where: data (input 1 or 2) chosen by a condition (input 0)."""


Action = Contraction | Filter | Activation | Elementwise | Normalization | Window | Move | Chosen | Refused


class NodeView:
    """What a row may ask about a node."""

    def __init__(self, node: gs.Node, facts: Facts) -> None:
        self.node = node
        self.opset = facts.opset
        self._facts = facts

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.node.attrs.get(name, default)

    def has(self, index: int) -> bool:
        return index < len(self.node.inputs) and bool(self.node.inputs[index].name)

    def is_used(self, output: int) -> bool:
        """Whether an optional output is read or is an output of the model."""
        tensors = self.node.outputs[output : output + 1]
        return any(t.outputs or any(t is o for o in self._facts.graph.outputs) for t in tensors if t.name)

    def value(self, index: int) -> Array | None:
        return self._facts.value(self.node.inputs[index]) if self.has(index) else None

    def type(self, index: int) -> int | None:
        """The element type of an input (TensorProto.DataType)."""
        return self._facts.types.get(self.node.inputs[index].name)

    def is_weight(self, index: int) -> bool:
        """Whether an input is constant and can therefore be rewritten."""
        return self.has(index) and self.node.inputs[index].name in self._facts.static and self.value(index) is not None

    def shape(self, index: int = 0) -> tuple[int, ...]:
        value = self.value(index)
        return tuple(value.shape) if value is not None else self._facts.shapes[self.node.inputs[index].name]

    def output_shape(self, index: int = 0) -> tuple[int, ...]:
        return self._facts.shapes[self.node.outputs[index].name]

    def ints(self, attribute: str, index: int | None = None) -> list[int] | None:
        """Integers that old opsets keep in an attribute and new ones in an input; None when absent or not constant."""
        if attribute in self.node.attrs:
            return [int(v) for v in np.atleast_1d(self.node.attrs[attribute])]
        value = self.value(index) if index is not None else None
        return None if value is None else [int(v) for v in value.reshape(-1)]


FLOAT_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)

INTEGER_TYPES = tuple(getattr(onnx.TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64))

Row = Callable[[NodeView], Action]


def _fixed(action: Action) -> Row:
    return lambda view: action


def _gemm(view: NodeView) -> Action:
    trans_a, trans_b = view.attribute("transA", 0), view.attribute("transB", 0)
    alpha, beta = float(view.attribute("alpha", 1.0)), float(view.attribute("beta", 1.0))
    bias = 2 if view.has(2) else None
    if bias is not None and not view.is_weight(bias):
        return Refused("adds a bias that is computed from data")
    if bias is not None and len(view.shape(bias)) == 2 and view.shape(bias)[0] > 1:
        return Refused("adds a bias that varies along the batch")
    if view.is_weight(1) and not view.is_weight(0):
        return Contraction(
            0, 1, bias, "in" if trans_a else "ni", "oi" if trans_b else "io", "no", alpha=alpha, beta=beta
        )
    if view.is_weight(0) and bias is None:
        return Contraction(1, 0, None, "ni" if trans_b else "in", "io" if trans_a else "oi", "on", alpha=alpha)
    return Refused("multiplies two tensors that both depend on data")


def _matmul(view: NodeView) -> Action:
    if view.is_weight(0) == view.is_weight(1):
        return Refused("multiplies two tensors that both depend on data")
    data, weight = (0, 1) if view.is_weight(1) else (1, 0)
    rank, weight_rank = len(view.shape(data)), len(view.shape(weight))
    if weight_rank != 2 or rank < 2:
        return Refused("multiplies with weights that have a batch dimension or only one")
    batch = "abcdefgh"[: rank - 2]
    if data == 0:
        return Contraction(0, 1, None, batch + "ni", "io", batch + "no")
    return Contraction(1, 0, None, batch + "in", "oi", batch + "on")


def _conv(view: NodeView) -> Action:
    if not view.is_weight(1) or (view.has(2) and not view.is_weight(2)):
        return Refused("convolves with weights that are computed from data")
    group, shape = view.attribute("group", 1), view.shape(1)
    channels = view.shape(0)[1]
    pads = view.attribute("pads", [0])
    padded = any(pads) or view.attribute("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    if group == channels and shape[1] == 1 and group > 1:
        return Filter(shape[0] // group, padded)
    if group != 1:
        return Refused("convolves in groups, which cannot be sliced yet")
    stars, dots = "*" * (len(shape) - 2), "." * (len(shape) - 2)
    return Contraction(0, 1, 2 if view.has(2) else None, "ni" + stars, "oi" + dots, "no" + stars, padded)


def _batchnorm(view: NodeView) -> Action:
    training = view.attribute("training_mode", 0) or len([o for o in view.node.outputs if o.name]) > 1
    if view.opset < 7 or training or view.attribute("spatial", 1) != 1:
        return Refused("normalizes with statistics of the batch")
    if not all(view.is_weight(i) for i in range(1, 5)):
        return Refused("normalizes with parameters that are computed from data")
    return Normalization(float(view.attribute("epsilon", 1e-5)))


def _clip(view: NodeView) -> Action:
    def bound(attribute: str, index: int, default: float) -> float | None:
        if view.has(index):
            value = view.value(index)
            return None if value is None else float(value.reshape(-1)[0])
        return float(view.attribute(attribute, default))

    low, high = bound("min", 1, -np.inf), bound("max", 2, np.inf)
    if low is None or high is None:
        return Refused("clips to bounds that are computed from data")
    low, high = (-np.inf if low <= -3e38 else low), (np.inf if high >= 3e38 else high)
    if (low, high) == (-np.inf, np.inf):
        return Activation(Kind.LINEAR)
    kind = Kind.BOUNDED
    if (low, high) in ((0.0, np.inf), (-np.inf, 0.0)):
        kind = Kind.HOMOGENEOUS
    elif low == 0 or not np.isfinite(low + high):
        kind = Kind.UNBOUNDED
    elif low == -high:
        kind = Kind.ODD
    return Activation(kind, low, high, (low, high))


def _prelu(view: NodeView) -> Action:
    if not view.is_weight(1):
        return Refused("has slopes that are computed from data")
    return Activation(Kind.HOMOGENEOUS, slope=1)


def _dropout(view: NodeView) -> Action:
    return Refused("also returns its mask") if view.is_used(1) else Activation(Kind.LINEAR)


def _cast(view: NodeView) -> Action:
    return Activation(Kind.LINEAR if int(view.attribute("to")) in FLOAT_TYPES else Kind.BOUNDED)


def _cast_like(view: NodeView) -> Action:
    return Activation(Kind.LINEAR if view.type(1) in FLOAT_TYPES else Kind.BOUNDED)


def _pow(view: NodeView) -> Action:
    exponent = view.value(1)
    if exponent is None or exponent.size != 1:
        return Refused("raises to a power that is not one constant")
    return Activation(Kind.LINEAR) if float(exponent.reshape(-1)[0]) == 1 else BOUNDED


def _pad(view: NodeView) -> Action:
    mode, rank = view.attribute("mode", "constant"), len(view.shape())
    pads = view.ints("pads", 1)
    if pads is None:
        return Refused("pads by amounts that are computed from data")
    axes = view.ints("axes", 3) or list(range(rank))
    if len(pads) != 2 * len(axes):
        return Refused("pads by amounts that do not fit its input")
    used = tuple(sorted(a % rank for i, a in enumerate(axes) if pads[i] or pads[i + len(axes)]))
    number = view.value(2) if view.has(2) else np.asarray(view.attribute("value", 0.0))
    if mode == "constant" and (number is None or number.any()):
        return Refused("pads with another number than 0")
    return Window(used, linear=True, padded=mode == "constant", across="adds channels")


def _softmax(view: NodeView) -> Action:
    axis = view.attribute("axis", 1 if view.opset < 13 else -1) % len(view.shape())
    if view.opset < 13 and axis != len(view.shape()) - 1:
        return Refused("is a Softmax over several axes")
    return Activation(Kind.BOUNDED, 0.0 if view.node.op == "Softmax" else -np.inf, 1.0, uniform_axis=axis)


def _pool(linear: bool) -> Row:
    def row(view: NodeView) -> Action:
        if view.is_used(1):
            return Refused("also returns the indices of its maxima")
        pads = any(view.attribute("pads", [0])) or view.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        counts_zeros = linear and pads and bool(view.attribute("count_include_pad", 0))
        return Window(tuple(range(2, len(view.shape()))), linear, padded=counts_zeros)

    return row


def _reduce(linear: bool, mean: bool) -> Row:
    def row(view: NodeView) -> Action:
        rank = len(view.shape())
        axes = view.ints("axes", 1)
        if axes is None:
            if view.has(1):
                return Refused("reduces over axes that are computed from data")
            if view.attribute("noop_with_empty_axes", 0):
                return Activation(Kind.LINEAR)
            axes = list(range(rank))
        keep = bool(view.attribute("keepdims", 1))
        return Window(
            tuple(sorted(a % rank for a in axes)),
            linear,
            dropped=not keep,
            scale_free=mean,
            across="reduces over channels",
        )

    return row


def _move(name: str, read: Callable[[NodeView], Mapping[str, Any] | None]) -> Row:
    def row(view: NodeView) -> Action:
        parameters = read(view)
        if parameters is None:
            return Refused("moves data by amounts that are computed from data")
        return Move(name, parameters)

    return row


def _slice(view: NodeView) -> Mapping[str, Any] | None:
    starts, ends = view.ints("starts", 1), view.ints("ends", 2)
    if starts is None or ends is None:
        return None
    axes = view.ints("axes", 3) or list(range(len(starts)))
    steps = view.ints("steps", 4) or [1] * len(starts)
    rank = len(view.shape())
    return {"slices": tuple((a % rank, s, e, t) for a, s, e, t in zip(axes, starts, ends, steps, strict=True))}


def _split(view: NodeView) -> Mapping[str, Any] | None:
    axis = view.attribute("axis", 0) % len(view.shape())
    return {"axis": axis, "sizes": tuple(view.output_shape(i)[axis] for i in range(len(view.node.outputs)))}


def _gather(view: NodeView) -> Mapping[str, Any] | None:
    indices = view.value(1)
    if indices is None or view.is_weight(0):
        return None
    return {"axis": view.attribute("axis", 0) % len(view.shape()), "indices": indices}


def _transpose(view: NodeView) -> Mapping[str, Any]:
    return {"order": tuple(view.attribute("perm", range(len(view.shape()))[::-1]))}


def _reshape(view: NodeView) -> Mapping[str, Any] | None:
    return {"shape": view.output_shape()}


def _concat(view: NodeView) -> Mapping[str, Any]:
    return {"axis": view.attribute("axis", 1) % len(view.output_shape())}


def _shape_only(view: NodeView) -> Mapping[str, Any]:
    return {"shape": view.output_shape()}


RELU = Activation(Kind.HOMOGENEOUS, 0.0, flat=(0.0, np.inf))
UNBOUNDED = Activation(Kind.UNBOUNDED)
BOUNDED = Activation(Kind.BOUNDED)

TABLE: Mapping[tuple[str, str], Row] = {
    ("", op): row
    for op, row in {
        # linear maps
        "Gemm": _gemm,
        "MatMul": _matmul,
        "Conv": _conv,
        # per-channel parameters
        "BatchNormalization": _batchnorm,
        "PRelu": _prelu,
        # elementwise functions
        "Identity": _fixed(Activation(Kind.LINEAR)),
        "Dropout": _dropout,
        "Cast": _cast,
        "CastLike": _cast_like,
        "Pow": _pow,
        "Greater": _fixed(Elementwise("compare")),
        "GreaterOrEqual": _fixed(Elementwise("compare")),
        "Less": _fixed(Elementwise("compare")),
        "LessOrEqual": _fixed(Elementwise("compare")),
        "Equal": _fixed(Elementwise("compare")),
        "Not": _fixed(BOUNDED),
        "Neg": _fixed(Elementwise("neg")),
        "Relu": _fixed(RELU),
        "LeakyRelu": _fixed(Activation(Kind.HOMOGENEOUS)),
        "Abs": _fixed(Activation(Kind.ABSOLUTE, 0.0)),
        "Tanh": _fixed(Activation(Kind.ODD, -1.0, 1.0)),
        "Erf": _fixed(Activation(Kind.ODD, -1.0, 1.0)),
        "Softsign": _fixed(Activation(Kind.ODD, -1.0, 1.0)),
        "Atan": _fixed(Activation(Kind.ODD)),
        "Sin": _fixed(Activation(Kind.ODD, -1.0, 1.0)),
        "Sinh": _fixed(Activation(Kind.ODD)),
        "Asinh": _fixed(Activation(Kind.ODD)),
        "Clip": _clip,
        "Elu": _fixed(UNBOUNDED),
        "Celu": _fixed(UNBOUNDED),
        "Selu": _fixed(UNBOUNDED),
        "Gelu": _fixed(UNBOUNDED),
        "HardSwish": _fixed(UNBOUNDED),
        "Swish": _fixed(UNBOUNDED),
        "Mish": _fixed(UNBOUNDED),
        "Softplus": _fixed(Activation(Kind.UNBOUNDED, 0.0)),
        "ThresholdedRelu": _fixed(UNBOUNDED),
        "Sigmoid": _fixed(Activation(Kind.BOUNDED, 0.0, 1.0)),
        "HardSigmoid": _fixed(Activation(Kind.BOUNDED, 0.0, 1.0)),
        "Cos": _fixed(Activation(Kind.BOUNDED, -1.0, 1.0)),
        "Exp": _fixed(Activation(Kind.BOUNDED, 0.0)),
        "Log": _fixed(BOUNDED),
        "Sqrt": _fixed(Activation(Kind.BOUNDED, 0.0)),
        "Reciprocal": _fixed(BOUNDED),
        "Sign": _fixed(Activation(Kind.BOUNDED, -1.0, 1.0)),
        "Softmax": _softmax,
        "LogSoftmax": _softmax,
        # between tensors
        "Add": _fixed(Elementwise("add")),
        "Sum": _fixed(Elementwise("add")),
        "Sub": _fixed(Elementwise("sub")),
        "Mul": _fixed(Elementwise("mul")),
        "Div": _fixed(Elementwise("div")),
        "Max": _fixed(Elementwise("max")),
        "Min": _fixed(Elementwise("min")),
        "Where": _fixed(Chosen()),
        # windows
        "Pad": _pad,
        "MaxPool": _pool(linear=False),
        "AveragePool": _pool(linear=True),
        "GlobalAveragePool": _pool(linear=True),
        "GlobalMaxPool": _pool(linear=False),
        "ReduceMean": _reduce(linear=True, mean=True),
        "ReduceSum": _reduce(linear=True, mean=False),
        "ReduceMax": _reduce(linear=False, mean=True),
        # data movement
        "Reshape": _move("reshape", _reshape),
        "Flatten": _move("reshape", _shape_only),
        "Squeeze": _move("reshape", _shape_only),
        "Unsqueeze": _move("reshape", _shape_only),
        "Transpose": _move("transpose", _transpose),
        "Concat": _move("concat", _concat),
        "Split": _move("split", _split),
        "Slice": _move("slice", _slice),
        "Gather": _move("gather", _gather),
    }.items()
}

DEFAULT_DOMAINS = ("", "ai.onnx", None)


def read(node: gs.Node, facts: Facts) -> Action:
    """The action of a node, or Refused with a reason that completes "NODE ..."."""
    domain = "" if node.domain in DEFAULT_DOMAINS else node.domain
    row = TABLE.get((domain, node.op))
    if row is None:
        return Refused("is not supported yet")
    return row(NodeView(node, facts))


def foldable(node: gs.Node) -> tuple[gs.Node, int, float] | None:
    """For a BatchNormalization that alone reads a Conv or Gemm: (that node, its produced weight axis, epsilon)."""
    if node.op != "BatchNormalization" or node.attrs.get("training_mode", 0) or len(node.outputs) != 1:
        return None
    source = node.inputs[0]
    if len(source.inputs) != 1 or len(source.outputs) != 1:
        return None
    producer = source.inputs[0]
    constants = [*producer.inputs[1:], *node.inputs[1:5]]
    if producer.op not in ("Conv", "Gemm") or not all(isinstance(t, gs.Constant) or not t.name for t in constants):
        return None
    if producer.op == "Gemm" and (producer.attrs.get("alpha", 1.0) != 1 or producer.attrs.get("beta", 1.0) != 1):
        return None
    axis = 0 if producer.op == "Conv" or producer.attrs.get("transB", 0) else 1
    return producer, axis, float(node.attrs.get("epsilon", 1e-5))


def running_statistics(node: onnx.NodeProto) -> list[str]:
    """Names of the running mean and variance that a BatchNormalization reads."""
    return list(node.input[3:5]) if node.op_type == "BatchNormalization" else []


def constant_floats(node: onnx.NodeProto, kinds: Collection[int]) -> int:
    """How many numbers a Constant node of rank >= 1 holds, if they are of one of the kinds (TensorProto.DataType)."""
    if node.op_type != "Constant":
        return 0
    tensors = [a.t for a in node.attribute if a.name == "value" and a.t.dims and a.t.data_type in kinds]
    return sum(prod(t.dims) for t in tensors) + sum(len(a.floats) for a in node.attribute if a.name == "value_floats")


def expected_sizes(nodes: list[gs.Node], name: str, weights: Mapping[str, tuple[int, ...]]) -> dict[int, int]:
    """Sizes of an input's axes (by index, from the end where negative) that the weights of its readers imply."""
    found = {}
    for node in nodes:
        names = [t.name for t in node.inputs]
        if names[:1] != [name] or len(names) < 2 or names[1] not in weights:
            continue
        weight = weights[names[1]]
        if node.op == "Conv":
            found[1] = weight[1] * int(node.attrs.get("group", 1))
        elif node.op == "MatMul" and len(weight) == 2:
            found[-1] = weight[0]
        elif node.op == "Gemm" and not node.attrs.get("transA", 0):
            found[1] = weight[1 if node.attrs.get("transB", 0) else 0]
    return found


def embedding_rows(facts_nodes: list[gs.Node], name: str, sizes: Mapping[str, int]) -> int | None:
    """How many rows the table has that an integer input indexes (through Cast and the like), None for no table."""
    names = {name}
    for node in facts_nodes:
        inputs = [t.name for t in node.inputs]
        if node.op in ("Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Flatten") and inputs[0] in names:
            names.update(t.name for t in node.outputs)
        elif node.op == "Gather" and len(inputs) > 1 and inputs[1] in names and inputs[0] in sizes:
            return sizes[inputs[0]]
    return None
