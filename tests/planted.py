"""Small graphs with planted redundancy: for every row of the operator table what `--lossless` must find in
it.

A *case* is a graph with 8 channels between a producer and a consumer, of which 3 are copies of others by
some *relation* (scaled, opposite, shifted, ...). It says which relations are exact through it: with those
the graph must come down to its 5 independent channels, with every other relation it must stay as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_condense.actions import Contraction, Reader
from onnx_condense.channels import Trace
from onnx_condense.facts import Facts
from onnx_condense.model_io import import_graph
from onnx_condense.state import Path, State
from onnx_condense.tracer import trace

Array = NDArray[np.float32]

MAINS = (0, 1, 0, 2, 1, 3, 4, 3)
"""Which independent channel each of the 8 channels is a copy of."""

FULL, EXACT = len(MAINS), len(set(MAINS))
COPIES = tuple(i for i, m in enumerate(MAINS) if m in MAINS[:i])

RATIOS: Mapping[str, float] = {
    "equal": 1.0,
    "scaled": 1.7,
    "opposite": -1.0,
    "negative": -0.6,
    "shifted": 1.0,
    "near": 1.0,
    "dead": 0.0,
    "unread": 1.0,
}
"""Relation -> ratio of a copy to its original. shifted: another bias. near: almost equal. unread: zero
columns."""

RELATIONS = tuple(RATIOS)

ALWAYS = frozenset({"equal", "dead", "unread"})
LINEAR = ALWAYS | {"scaled", "opposite", "negative", "shifted"}
HOMOGENEOUS = ALWAYS | {"scaled"}
MONOTONE = HOMOGENEOUS | {"shifted"}
ABSOLUTE = ALWAYS | {"scaled", "opposite", "negative"}
ODD = ALWAYS | {"opposite"}


class Net:
    """A graph under construction; every method returns the name of the tensor that it makes."""

    def __init__(self, opset: int = 17, seed: int = 0) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def fresh(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    def input(self, *shape: int | str, name: str = "x") -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        return name

    def constant(self, value: Any, name: str = "") -> str:
        """An initializer; floats become float32."""
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        name = name or self.fresh("const")
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64))

    def node(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        return self.multiple(op, *inputs, outputs=1, name=name, **attributes)[0]

    def multiple(self, op: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: Any) -> list[str]:
        made = [self.fresh(op.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), made, name=name or made[0], **attributes))
        return made

    def dense(self, name: str, data: str, rows: Any, bias: Any = None, trans_b: bool = True) -> str:
        """Gemm with rows [outputs, inputs]."""
        rows = np.asarray(rows)
        inputs = [data, self.constant(rows if trans_b else rows.T, f"{name}.weight")]
        if bias is not None:
            inputs.append(self.constant(bias, f"{name}.bias"))
        return self.node("Gemm", *inputs, name=name, transB=int(trans_b))

    def matmul(self, name: str, data: str, rows: Any, bias: Any = None) -> str:
        """MatMul with rows [outputs, inputs], and an Add where there is a bias."""
        made = self.node("MatMul", data, self.constant(np.asarray(rows).T, f"{name}.weight"), name=name)
        return made if bias is None else self.node("Add", made, self.constant(bias, f"{name}.bias"))

    def conv(self, name: str, data: str, kernels: Any, bias: Any = None, **attributes: Any) -> str:
        inputs = [data, self.constant(kernels, f"{name}.weight")]
        if bias is not None:
            inputs.append(self.constant(bias, f"{name}.bias"))
        return self.node("Conv", *inputs, name=name, **attributes)

    def batchnorm(self, data: str, scale: Any, shift: Any, mean: Any, var: Any) -> str:
        return self.node("BatchNormalization", data, *(self.constant(v) for v in (scale, shift, mean, var)))

    def normal(self, *shape: int) -> Array:
        return self.rng.standard_normal(shape).astype(np.float32)

    def build(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "planted",
            self.inputs,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.initializers,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10 if self.opset >= 20 else 8)
        shaped = onnx.shape_inference.infer_shapes(model).graph.output
        for value, known in zip(model.graph.output, shaped, strict=True):
            value.CopyFrom(known)
        return model


def widths(model: onnx.ModelProto) -> dict[str, int]:
    """Output channels of every Gemm, MatMul and Conv with constant weights, by node name."""
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "Gather" and node.input[0] in shapes:
            found[node.name] = shapes[node.input[0]][1]
        elif node.op_type == "ConvTranspose":
            found[node.name] = shapes[node.input[1]][1] * next((a.i for a in node.attribute if a.name == "group"), 1)
        elif node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in shapes:
            attributes = {a.name: a.i for a in node.attribute}
            first = node.op_type == "Conv" or attributes.get("transB", 0)
            found[node.name] = shapes[node.input[1]][0 if first else -1]
    return found


def run(
    model: onnx.ModelProto, feed: Mapping[str, NDArray[Any]], names: Sequence[str] | None = None
) -> list[NDArray[Any]]:
    """Outputs in onnxruntime; of `names`, which may be inner tensors."""
    if names is not None:
        wider = onnx.ModelProto()
        wider.CopyFrom(model)
        known = {o.name for o in wider.graph.output}
        wider.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
        model = wider
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None if names is None else list(names), dict(feed))]


def signed_feed(model: onnx.ModelProto, seed: int = 5, batch: int = 8) -> dict[str, Array]:
    """Standard normal inputs, symbolic dimensions of size `batch`."""
    rng = np.random.default_rng(seed)
    feed = {}
    for value in model.graph.input:
        shape = [d.dim_value or batch for d in value.type.tensor_type.shape.dim]
        numbers = value.type.tensor_type.elem_type == TensorProto.INT64
        feed[value.name] = rng.integers(0, 5, shape) if numbers else rng.standard_normal(shape).astype(np.float32)
    return feed


def assert_close(model: onnx.ModelProto, other: onnx.ModelProto, limit: float) -> None:
    """Both models give the same outputs, within a relative L2 per output."""
    feed = signed_feed(model)
    for a, b in zip(run(model, feed), run(other, feed), strict=True):
        assert a.shape == b.shape
        assert np.isfinite(a).all()
        assert np.linalg.norm(a - b) <= limit * np.linalg.norm(a)


def traced(model: onnx.ModelProto) -> Trace:
    """The trace of a model, on `signed_feed`."""
    return trace(Facts(model, import_graph(model), signed_feed(model)))


def channel_values(state: State, path: Path, model: onnx.ModelProto) -> NDArray[np.float64]:
    """[channels at the path's places, values]: what a consumer reads along a path, in onnxruntime."""
    action = state.trace.actions[path.slot.node]
    assert isinstance(action, Contraction | Reader)
    axis = action.data_axis if isinstance(action, Reader) else action.data_axes.index(action.inner)
    name = state.trace.facts.nodes[path.slot.node].inputs[action.data].name
    (values,) = run(model, signed_feed(model), [name])
    moved = np.moveaxis(values.astype(np.float64), axis, 0)
    return moved.reshape(len(moved), -1)[path.places]


# -------------------------------------------------------------------------------- planting


def copies(relation: str, base: NDArray[np.floating], noise: NDArray[np.floating] | None = None) -> Array:
    """[8, ...] from [8, ...] of independent values: the copies become ratio · original."""
    result = np.array(base, dtype=np.float64)
    if relation != "unread":
        for copy in COPIES:
            result[copy] = RATIOS[relation] * result[MAINS.index(MAINS[copy])]
            if relation == "near" and noise is not None:
                result[copy] *= 1 + 1e-3 * noise[copy]
    return result.astype(np.float32)


def planted_rows(net: Net, relation: str, *tail: int, positive: bool = False) -> tuple[Array, Array]:
    """Rows [8, ...] and biases [8]; `positive` keeps the pre-activations above zero for usual inputs."""
    rows = copies(relation, net.normal(FULL, *tail) * (0.1 if positive else 0.5), net.normal(FULL, *tail))
    base = net.normal(FULL) * 0.3 + (2.5 if positive else 0.0)
    bias = copies(relation, base)
    if relation == "shifted":
        bias[list(COPIES)] += np.float32(0.7)
    return rows, bias


def planted_columns(net: Net, relation: str, outputs: int, *tail: int) -> Array:
    """What a consumer multiplies the 8 channels with: [outputs, 8, ...]."""
    columns = net.normal(outputs, FULL, *tail)
    if relation == "unread":
        columns[:, list(COPIES)] = 0
    return columns


# ---------------------------------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """One graph per relation.

    Attributes:
        op: the row of the operator table that it is about.
        label: what distinguishes it from other cases of the row.
        build: relation -> model.
        passes: the relations that must merge.
        silent: relations that are exact as well, or beyond this graph, without a promise: not tested.
        layers: producer -> (width before, width after).
    """

    op: str
    label: str
    build: Callable[[str], onnx.ModelProto]
    passes: frozenset[str]
    silent: frozenset[str] = frozenset()
    layers: Mapping[str, tuple[int, int]] = field(default_factory=lambda: {"producer": (FULL, EXACT)})

    def expected(self, relation: str) -> dict[str, int]:
        return {name: pair[relation in self.passes] for name, pair in self.layers.items()}

    @property
    def name(self) -> str:
        return f"{self.op}-{self.label}" if self.label else self.op


CASES: list[Case] = []

Middle = Callable[[Net, str], str]
"""What stands between producer and consumer."""

PlantedMiddle = Callable[[Net, str, str], str]
"""The same, with parameters per channel that follow the relation."""


def case(
    op: str,
    passes: frozenset[str],
    label: str = "",
    silent: str = "",
    layers: Mapping[str, tuple[int, int]] | None = None,
) -> Callable[[Callable[[str], onnx.ModelProto]], Callable[[str], onnx.ModelProto]]:
    """Registers a function relation -> model as a case."""

    def register(build: Callable[[str], onnx.ModelProto]) -> Callable[[str], onnx.ModelProto]:
        given = {"producer": (FULL, EXACT)} if layers is None else layers
        CASES.append(Case(op, label, build, passes, frozenset(silent.split()), given))
        return build

    return register


def dense_case(
    op: str,
    passes: frozenset[str],
    middle: PlantedMiddle,
    label: str = "",
    silent: str = "",
    opset: int = 17,
    positive: bool = False,
) -> None:
    """Gemm, the middle, Gemm."""

    def build(relation: str) -> onnx.ModelProto:
        net = Net(opset)
        data = net.input("batch", 6)
        hidden = net.dense("producer", data, *planted_rows(net, relation, 6, positive=positive))
        hidden = middle(net, hidden, relation)
        return net.build(net.dense("consumer", hidden, planted_columns(net, relation, 4), net.normal(4), trans_b=False))

    case(op, passes, label, silent)(build)


def conv_case(
    op: str,
    passes: frozenset[str],
    middle: PlantedMiddle,
    label: str = "",
    silent: str = "",
    opset: int = 17,
    side: int = 1,
    pads: Sequence[int] = (0, 0, 0, 0),
) -> None:
    """Conv, the middle, Conv with kernels of `side`."""

    def build(relation: str) -> onnx.ModelProto:
        net = Net(opset)
        data = net.input("batch", 3, 8, 8)
        hidden = net.conv("producer", data, *planted_rows(net, relation, 3, 3, 3))
        hidden = middle(net, hidden, relation)
        columns = planted_columns(net, relation, 4, side, side)
        return net.build(net.conv("consumer", hidden, columns, net.normal(4), pads=list(pads)))

    case(op, passes, label, silent)(build)


def spatial_case(
    op: str,
    passes: frozenset[str],
    middle: Middle,
    places: int,
    label: str = "",
    silent: str = "",
    opset: int = 17,
) -> None:
    """Conv, the middle that leaves [batch, 8 · places], Gemm."""

    def build(relation: str) -> onnx.ModelProto:
        net = Net(opset)
        data = net.input("batch", 3, 4, 5)
        hidden = net.conv("producer", data, *planted_rows(net, relation, 3, 3, 3))
        hidden = middle(net, hidden)
        columns = planted_columns(net, relation, 4, places).reshape(4, -1)
        return net.build(net.dense("consumer", hidden, columns, net.normal(4)))

    case(op, passes, label, silent)(build)


def apply(op: str, *constants: float, **attributes: Any) -> PlantedMiddle:
    """One node of an operator with scalar constants behind the data."""

    def middle(net: Net, data: str, relation: str) -> str:
        return net.node(op, data, *(net.constant(c) for c in constants), **attributes)

    return middle


def _calm(net: Net, data: str, relation: str) -> str:
    """Between -0.9 and 0.9."""
    return net.node("Mul", net.node("Softsign", data), net.constant(0.9))


def _then(first: PlantedMiddle, op: str) -> PlantedMiddle:
    return lambda net, data, relation: net.node(op, first(net, data, relation))


def _flagged(op: str, first: PlantedMiddle) -> PlantedMiddle:
    """Whether a function of a channel is no number, as 0 or 1."""
    return lambda net, data, relation: net.node("Cast", net.node(op, first(net, data, relation)), to=TensorProto.FLOAT)


def _functions() -> None:
    for op in ("Identity", "Dropout", "Neg"):
        dense_case(op, LINEAR, apply(op))
    dense_case("Cast", LINEAR, lambda n, x, _: n.node("Cast", n.node("Cast", x, to=11), to=1), "double")
    dense_case("Cast", ALWAYS, lambda n, x, _: n.node("Cast", n.node("Cast", x, to=7), to=1), "integer")
    for op in ("Relu", "LeakyRelu"):
        dense_case(op, HOMOGENEOUS, apply(op))
        conv_case(op, HOMOGENEOUS, apply(op), "conv", side=3, pads=(1, 1, 1, 1))
    dense_case("Abs", ABSOLUTE, apply("Abs"))
    for op in ("Tanh", "Erf", "Softsign", "Atan", "Sin", "Sinh", "Asinh", "Shrink"):
        dense_case(op, ODD, apply(op))
    for op in ("Asin", "Atanh", "Tan"):
        dense_case(op, ODD, _then(_calm, op))
    dense_case("Acos", ALWAYS, _then(_calm, "Acos"))
    dense_case("Acosh", ALWAYS, _then(_then(apply("Abs"), "Exp"), "Acosh"), silent="opposite")
    dense_case("Cosh", ALWAYS, apply("Cosh"), silent="opposite")
    dense_case("Round", ODD, _then(apply("Mul", 3.0), "Round"))
    for op in ("Floor", "Ceil"):
        dense_case(op, ALWAYS, _then(apply("Mul", 3.0), op))
    dense_case("Mod", ALWAYS, apply("Mod", 1.5, fmod=1), silent="opposite")
    others = "dead scaled opposite negative shifted"
    dense_case("IsNaN", ALWAYS, _flagged("IsNaN", apply("Log")), silent=others)
    dense_case("IsInf", ALWAYS, _flagged("IsInf", _then(apply("Mul", 60.0), "Exp")), silent=others)
    dense_case("Clip", HOMOGENEOUS, apply("Clip", 0.0), "relu")
    dense_case("Clip", HOMOGENEOUS, lambda n, x, _: n.node("Clip", x, "", n.constant(0.0)), "below zero")
    dense_case("Clip", ALWAYS, apply("Clip", 0.0, 6.0), "relu6")
    dense_case("Clip", ODD, apply("Clip", -0.5, 0.5), "symmetric")
    dense_case("Clip", ALWAYS, apply("Clip", -0.5, 0.7), "asymmetric")
    dense_case("Clip", ALWAYS, apply("Clip", min=0.0, max=6.0), "attributes", opset=9)
    dense_case("Clip", LINEAR, apply("Clip"), "without bounds")
    for op, opset in (
        ("Elu", 17), ("Celu", 17), ("Selu", 17), ("Gelu", 20), ("HardSwish", 17), ("Swish", 24), ("Mish", 18),
        ("Softplus", 17), ("ThresholdedRelu", 17), ("Sigmoid", 17), ("HardSigmoid", 17), ("Exp", 17),
    ):  # fmt: skip
        dense_case(op, ALWAYS, apply(op), opset=opset)
    dense_case("Cos", ALWAYS, apply("Cos"), silent="opposite")
    dense_case("Sign", ALWAYS, apply("Sign"), silent="scaled opposite negative")
    for op in ("Log", "Sqrt", "Reciprocal"):
        dense_case(op, ALWAYS, apply(op), silent="dead scaled opposite negative", positive=True)
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        conv_case(op, ALWAYS, apply(op, axis=-1), silent="shifted dead opposite")


def _mask(op: str, *, negated: bool = False) -> PlantedMiddle:
    """Whether a channel is above (or below, ...) a number, as 0 or 1."""

    def middle(net: Net, data: str, relation: str) -> str:
        if op == "Equal":
            data, number = net.node("Cast", data, to=TensorProto.INT64), net.constant(np.array(0))
        else:
            number = net.constant(0.25)
        mask = net.node(op, data, number)
        mask = net.node("Not", mask) if negated else mask
        return net.node("Cast", mask, to=TensorProto.FLOAT)

    return middle


def _logical(op: str) -> PlantedMiddle:
    def middle(net: Net, data: str, relation: str) -> str:
        one, other = net.node("Greater", data, net.constant(0.25)), net.node("Less", data, net.constant(0.75))
        return net.node("Cast", net.node(op, one, other), to=TensorProto.FLOAT)

    return middle


def _where(net: Net, data: str, relation: str) -> str:
    """x above a number, else a tenth of it: a ThresholdedRelu with a tail."""
    mask = net.node("Greater", data, net.constant(0.25))
    return net.node("Where", mask, data, net.node("Mul", data, net.constant(0.1)))


def _logic() -> None:
    for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"):
        dense_case(op, ALWAYS, _mask(op), silent="dead")
    for op in ("And", "Or", "Xor"):
        dense_case(op, ALWAYS, _logical(op), silent="dead")
    dense_case("Not", ALWAYS, _mask("Greater", negated=True), silent="dead")
    dense_case("Where", ALWAYS, _where, silent="dead")
    dense_case("Pow", LINEAR, apply("Pow", 1.0), "first")
    dense_case("Pow", ALWAYS, apply("Pow", 2.0), "second", silent="scaled opposite negative")
    dense_case("CastLike", LINEAR, apply("CastLike", 1.0))

    def whole(net: Net, data: str, relation: str) -> str:
        return net.node("Cast", net.node("CastLike", data, net.ints(1)), to=TensorProto.FLOAT)

    dense_case("CastLike", ALWAYS, whole, "integer")
    pads = [0, 0, 1, 1, 0, 0, 1, 1]

    def padded(net: Net, data: str, relation: str) -> str:
        return net.node("Pad", data, net.ints(*pads))

    def reflected(net: Net, data: str, relation: str) -> str:
        return net.node("Pad", data, net.ints(*pads), mode="reflect")

    conv_case("Pad", LINEAR - {"shifted"}, padded, side=3)
    conv_case("Pad", LINEAR, reflected, "reflected", side=3)
    conv_case("Pad", LINEAR - {"shifted"}, apply("Pad", pads=pads), "attribute", opset=9)


def _constants(op: str, *, scaled: bool) -> PlantedMiddle:
    """An operator with one constant per channel; `scaled` constants follow the relation, others are any."""

    def middle(net: Net, data: str, relation: str) -> str:
        values = net.normal(FULL)
        values = copies(relation, values) if scaled else np.abs(values) + np.float32(0.5)
        return net.node(op, data, net.constant(values))

    return middle


def _joined(op: str, *others: str, after: str = "Identity") -> Callable[[str], onnx.ModelProto]:
    """Producers with the same relation, joined channel by channel, a function, and a consumer."""

    def build(relation: str) -> onnx.ModelProto:
        net = Net()
        data = net.input("batch", 6)
        names = ("producer", *others)
        hidden = net.node(op, *(net.dense(n, data, *planted_rows(net, relation, 6)) for n in names))
        columns = planted_columns(net, relation, 4)
        return net.build(net.dense("consumer", net.node(after, hidden), columns, net.normal(4)))

    return build


PAIR = {"producer": (FULL, EXACT), "other": (FULL, EXACT)}
TRIPLE = PAIR | {"third": (FULL, EXACT)}


def _elementwise() -> None:
    for op in ("Add", "Sub"):
        dense_case(op, HOMOGENEOUS, _then(_constants(op, scaled=True), "Relu"), "constant")
        dense_case(op, LINEAR, _constants(op, scaled=False), "any constant")
    for op in ("Mul", "Div"):
        dense_case(op, LINEAR, _constants(op, scaled=False), "constant")
    dense_case("Max", HOMOGENEOUS, apply("Max", 0.0), "zero")
    dense_case("Max", ALWAYS, apply("Max", 0.25), "scalar")
    dense_case("Min", HOMOGENEOUS, apply("Min", 0.0), "zero")
    dense_case("Min", ALWAYS, apply("Min", -0.25), "scalar")
    dense_case("Sub", LINEAR, lambda n, x, _: n.node("Sub", n.constant(1.0), x), "from constant")
    dense_case(
        "Div",
        ALWAYS,
        lambda n, x, _: n.node("Div", n.constant(1.0), x),
        "of constant",
        silent="scaled opposite negative dead",
        positive=True,
    )
    case("Add", LINEAR, "linear", layers=PAIR)(_joined("Add", "other"))
    case("Sub", LINEAR, "linear", layers=PAIR)(_joined("Sub", "other"))
    case("Add", HOMOGENEOUS, "residual", layers=PAIR)(_joined("Add", "other", after="Relu"))
    # both producers are shifted by as much, and the difference takes it away
    case("Sub", HOMOGENEOUS | {"shifted"}, "residual", layers=PAIR)(_joined("Sub", "other", after="Relu"))
    case("Sum", LINEAR, "linear", layers=TRIPLE)(_joined("Sum", "other", "third"))
    case("Sum", ODD, "tanh", layers=TRIPLE)(_joined("Sum", "other", "third", after="Tanh"))
    for op in ("Max", "Min"):
        case(op, HOMOGENEOUS, "producers", silent="shifted dead", layers=PAIR)(_joined(op, "other"))
    case("Mul", LINEAR - {"shifted"}, "gate", layers=PAIR)(_joined("Mul", "other"))


@case("Div", LINEAR - {"shifted"}, "producers", silent="dead", layers=PAIR)
def _quotient(relation: str) -> onnx.ModelProto:
    """h / exp(g), where only h follows the relation and g is equal."""
    net = Net()
    data = net.input("batch", 6)
    calm = relation if relation in ("dead", "unread") else "equal"
    hidden = net.dense("producer", data, *planted_rows(net, relation, 6))
    below = net.node("Exp", net.dense("other", data, *planted_rows(net, calm, 6)))
    columns = planted_columns(net, relation, 4)
    return net.build(net.dense("consumer", net.node("Div", hidden, below), columns, net.normal(4)))


@case("Mul", ALWAYS, "silu")
def _silu(relation: str) -> onnx.ModelProto:
    """x · sigmoid(x)."""
    net = Net()
    data = net.input("batch", 6)
    hidden = net.dense("producer", data, *planted_rows(net, relation, 6))
    hidden = net.node("Mul", hidden, net.node("Sigmoid", hidden))
    return net.build(net.dense("consumer", hidden, planted_columns(net, relation, 4), net.normal(4)))


def batchnorm_parameters(net: Net, rows: Array, bias: Array) -> tuple[Array, Array, list[Array]]:
    """A producer and a BatchNormalization whose product are these rows and biases."""
    count, spread = len(rows), (-1,) + (1,) * (rows.ndim - 1)
    scale, shift, mean = net.rng.uniform(0.5, 1.5, count), net.normal(count), net.normal(count)
    var = net.rng.uniform(0.5, 2, count)
    slope = scale / np.sqrt(var + 1e-5)
    dead = ~rows.reshape(count, -1).any(1) & (bias == 0)
    shift[dead] = mean[dead] = 0
    before_rows, before_bias = rows / slope.reshape(spread), (bias - shift) / slope + mean
    parameters = [v.astype(np.float32) for v in (scale, shift, mean, var)]
    return before_rows.astype(np.float32), before_bias.astype(np.float32), parameters


@case("BatchNormalization", HOMOGENEOUS, "conv")
def _batchnorm_conv(relation: str) -> onnx.ModelProto:
    net = Net()
    data = net.input("batch", 3, 8, 8)
    rows, bias, parameters = batchnorm_parameters(net, *planted_rows(net, relation, 3, 3, 3))
    hidden = net.node("Relu", net.batchnorm(net.conv("producer", data, rows, bias), *parameters))
    return net.build(net.conv("consumer", hidden, planted_columns(net, relation, 4, 3, 3), pads=[1, 1, 1, 1]))


@case("BatchNormalization", LINEAR, "linear")
def _batchnorm_dense(relation: str) -> onnx.ModelProto:
    net = Net()
    data = net.input("batch", 6)
    rows, bias, parameters = batchnorm_parameters(net, *planted_rows(net, relation, 6))
    hidden = net.batchnorm(net.dense("producer", data, rows, bias), *parameters)
    return net.build(net.dense("consumer", hidden, planted_columns(net, relation, 4)))


@case("BatchNormalization", LINEAR - {"negative", "opposite", "shifted"}, "after the activation")
def _batchnorm_late(relation: str) -> onnx.ModelProto:
    """Conv, Relu, BatchNormalization of any parameters: an affine after the path's nonlinearity."""
    net = Net()
    data = net.input("batch", 3, 8, 8)
    hidden = net.node("Relu", net.conv("producer", data, *planted_rows(net, relation, 3, 3, 3)))
    parameters = (
        net.rng.uniform(0.5, 1.5, FULL),
        net.normal(FULL),
        net.normal(FULL),
        net.rng.uniform(0.5, 2, FULL),
    )
    hidden = net.batchnorm(hidden, *parameters)
    return net.build(net.conv("consumer", hidden, planted_columns(net, relation, 4, 3, 3)))


def _prelu(equal: bool, *tail: int) -> PlantedMiddle:
    def middle(net: Net, data: str, relation: str) -> str:
        drawn = net.rng.uniform(0.1, 0.4, FULL)
        slopes = copies("equal", drawn) if equal else drawn
        return net.node("PRelu", data, net.constant(slopes.reshape(FULL, *tail)))

    return middle


def _parameters() -> None:
    dense_case("PRelu", HOMOGENEOUS, _prelu(True))
    conv_case("PRelu", HOMOGENEOUS, _prelu(True, 1, 1), "conv", side=3, pads=(1, 1, 1, 1))
    dense_case("PRelu", frozenset({"dead", "unread"}), _prelu(False), "unequal slopes")
    dense_case("Gemm", LINEAR, apply("Identity"), "linear")
    conv_case("Conv", LINEAR, apply("Identity"), "linear", side=3)
    conv_case("Conv", LINEAR - {"shifted"}, apply("Identity"), "padded consumer", side=3, pads=(1, 1, 1, 1))


@case("MatMul", HOMOGENEOUS)
def _matmul(relation: str) -> onnx.ModelProto:
    net = Net()
    hidden = net.node("Relu", net.matmul("producer", net.input("batch", 6), *planted_rows(net, relation, 6)))
    return net.build(net.matmul("consumer", hidden, planted_columns(net, relation, 4), net.normal(4)))


@case("MatMul", LINEAR, "without bias")
def _matmul_linear(relation: str) -> onnx.ModelProto:
    """The constant of a shifted channel needs an Add that is not there."""
    net = Net()
    hidden = net.matmul("producer", net.input("batch", 5, 6), *planted_rows(net, relation, 6))
    return net.build(net.matmul("consumer", hidden, planted_columns(net, relation, 4)))


@case("Conv", HOMOGENEOUS, "depthwise", layers={"producer": (FULL, EXACT), "depthwise": (FULL, EXACT)})
def _depthwise(relation: str) -> onnx.ModelProto:
    """Expansion, depthwise, projection; the depthwise kernels are positive multiples of one another."""
    net = Net()
    data = net.input("batch", 3, 8, 8)
    hidden = net.node("Relu", net.conv("producer", data, *planted_rows(net, relation, 3, 1, 1)))
    taps = copies("equal" if relation == "near" else relation, net.normal(FULL, 1, 3, 3))
    bias = np.zeros(FULL, dtype=np.float32)
    hidden = net.node("Relu", net.conv("depthwise", hidden, taps, bias, group=FULL, pads=[1, 1, 1, 1]))
    return net.build(net.conv("consumer", hidden, planted_columns(net, relation, 4, 1, 1), net.normal(4)))


def _reduced(op: str, *, by_input: bool) -> Middle:
    """Over both places, the axes in an attribute or in an input."""

    def middle(net: Net, data: str) -> str:
        if by_input:
            return net.node(op, data, net.ints(2, 3), keepdims=0)
        return net.node(op, data, axes=[2, 3], keepdims=0)

    return middle


def _windows() -> None:
    conv_case("MaxPool", MONOTONE, apply("MaxPool", kernel_shape=[2, 2], strides=[2, 2]))
    padded_pool = apply("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    conv_case("MaxPool", MONOTONE, padded_pool, "padded")
    average = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    conv_case("AveragePool", LINEAR, apply("AveragePool", kernel_shape=[2, 2], strides=[2, 2]))
    conv_case("AveragePool", LINEAR, apply("AveragePool", **average), "padded")
    conv_case(
        "AveragePool",
        LINEAR - {"shifted"},
        apply("AveragePool", **average, count_include_pad=1),
        "zeros counted",
    )
    conv_case("GlobalAveragePool", LINEAR, apply("GlobalAveragePool"))
    conv_case("GlobalMaxPool", MONOTONE, apply("GlobalMaxPool"))
    for op, passes, silent in (
        ("ReduceMean", LINEAR, ""),
        ("ReduceSum", LINEAR, "shifted"),
        ("ReduceMax", MONOTONE, ""),
        ("ReduceMin", MONOTONE, ""),
        ("ReduceL1", ABSOLUTE, ""),
        ("ReduceL2", ABSOLUTE, ""),
        ("ReduceSumSquare", ALWAYS, "dead scaled opposite negative"),
        ("ReduceProd", ALWAYS, "dead scaled opposite negative"),
        ("ReduceLogSumExp", ALWAYS, "dead shifted"),
    ):
        since = 13 if op == "ReduceSum" else 18
        spatial_case(op, passes, _reduced(op, by_input=False), 1, "attribute", silent, since - 1)
        spatial_case(op, passes, _reduced(op, by_input=True), 1, "input", silent, 18)


def _movements() -> None:
    spatial_case("Flatten", LINEAR, lambda n, x: n.node("Flatten", x), 6)
    spatial_case("Flatten", HOMOGENEOUS, lambda n, x: n.node("Flatten", n.node("Relu", x)), 6, "relu")
    spatial_case("Reshape", LINEAR, lambda n, x: n.node("Reshape", x, n.ints(0, -1)), 6)
    spatial_case("Reshape", LINEAR, lambda n, x: n.node("Reshape", x, n.ints(-1, 48)), 6, "stated")
    spatial_case(
        "Squeeze",
        LINEAR,
        lambda n, x: n.node("Squeeze", n.node("GlobalAveragePool", x), n.ints(2, 3)),
        1,
    )
    spatial_case(
        "Squeeze", LINEAR, lambda n, x: n.node("Squeeze", n.node("GlobalAveragePool", x), axes=[2, 3]), 1,
        "attribute", opset=11,
    )  # fmt: skip


@case("Unsqueeze", LINEAR)
def _unsqueeze(relation: str) -> onnx.ModelProto:
    net = Net()
    hidden = net.dense("producer", net.input("batch", 6), *planted_rows(net, relation, 6))
    hidden = net.node("Unsqueeze", hidden, net.ints(2, 3))
    return net.build(net.conv("consumer", hidden, planted_columns(net, relation, 4, 1, 1), net.normal(4)))


@case("Transpose", LINEAR)
def _transpose(relation: str) -> onnx.ModelProto:
    net = Net()
    hidden = net.conv("producer", net.input("batch", 3, 6, 6), *planted_rows(net, relation, 3, 3, 3))
    hidden = net.node("Reshape", hidden, net.ints(0, 8, 16))
    hidden = net.node("Transpose", hidden, perm=[0, 2, 1])
    return net.build(net.matmul("consumer", hidden, planted_columns(net, relation, 4), net.normal(4)))


@case("Concat", LINEAR, layers=PAIR)
def _concat(relation: str) -> onnx.ModelProto:
    net = Net()
    data = net.input("batch", 6)
    left = net.dense("producer", data, *planted_rows(net, relation, 6))
    right = net.dense("other", data, *planted_rows(net, relation, 6))
    columns = np.hstack([planted_columns(net, relation, 4), planted_columns(net, relation, 4)])
    return net.build(net.dense("consumer", net.node("Concat", left, right, axis=-1), columns, net.normal(4)))


def _halves(net: Net, relation: str) -> tuple[Array, Array]:
    parts = [planted_rows(net, relation, 6) for _ in range(2)]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _consume_halves(net: Net, relation: str, left: str, right: str) -> onnx.ModelProto:
    left = net.dense("left", left, planted_columns(net, relation, 3), net.normal(3))
    right = net.dense("right", right, planted_columns(net, relation, 3), net.normal(3))
    return net.build(left, right)


HALVES = {"producer": (2 * FULL, 2 * EXACT)}


@case("Split", LINEAR, layers=HALVES)
def _split(relation: str) -> onnx.ModelProto:
    net = Net()
    hidden = net.dense("producer", net.input("batch", 6), *_halves(net, relation))
    left, right = net.multiple("Split", hidden, net.ints(FULL, FULL), outputs=2, axis=1)
    return _consume_halves(net, relation, left, right)


@case("Split", LINEAR, "attribute", layers=HALVES)
def _split_attribute(relation: str) -> onnx.ModelProto:
    net = Net(opset=11)
    hidden = net.dense("producer", net.input("batch", 6), *_halves(net, relation))
    left, right = net.multiple("Split", hidden, outputs=2, axis=1, split=[FULL, FULL])
    return _consume_halves(net, relation, left, right)


@case("Slice", LINEAR, layers=HALVES)
def _slice(relation: str) -> onnx.ModelProto:
    net = Net()
    hidden = net.dense("producer", net.input("batch", 6), *_halves(net, relation))
    left = net.node("Slice", hidden, net.ints(0), net.ints(FULL), net.ints(1))
    right = net.node("Slice", hidden, net.ints(-FULL), net.ints(2**40), net.ints(-1))
    return _consume_halves(net, relation, left, right)


@case("Gather", LINEAR)
def _gather(relation: str) -> onnx.ModelProto:
    net = Net()
    hidden = net.dense("producer", net.input("batch", 6), *planted_rows(net, relation, 6))
    order = net.rng.permutation(FULL)
    hidden = net.node("Gather", hidden, net.ints(*order.tolist()), axis=1)
    columns = planted_columns(net, relation, 4)[:, order]
    return net.build(net.dense("consumer", hidden, columns, net.normal(4)))


for _family in (_functions, _logic, _elementwise, _parameters, _windows, _movements):
    _family()


# -------------------------------------------------------------------------------- compounds


@case("Mul", LINEAR - {"shifted"}, "squeeze-excite", layers={"producer": (8, 5), "excite": (8, 5)})
def _squeeze_excite(relation: str) -> onnx.ModelProto:
    """x · sigmoid(excite(relu(squeeze(mean(x))))): the gate's rows must be equal, x is free."""
    net = Net()
    gate_relation = relation if relation in ("dead", "unread") else "equal"
    hidden = net.conv("producer", net.input("batch", 3, 6, 6), *planted_rows(net, relation, 3, 3, 3))
    squeeze = planted_columns(net, relation, 3, 1, 1)
    gate = net.conv("squeeze", net.node("GlobalAveragePool", hidden), squeeze, net.normal(3))
    gate = net.conv("excite", net.node("Relu", gate), *planted_rows(net, gate_relation, 3, 1, 1))
    hidden = net.node("Mul", hidden, net.node("Sigmoid", gate))
    return net.build(net.conv("consumer", hidden, planted_columns(net, relation, 4, 3, 3), pads=[1, 1, 1, 1]))


@case("MatMul", LINEAR - {"shifted"}, "along another axis")
def _token_mixing(relation: str) -> onnx.ModelProto:
    """The channels are carried by a MatMul that mixes places, as in an MLP-Mixer."""
    net = Net()
    hidden = net.conv("producer", net.input("batch", 3, 6, 6), *planted_rows(net, relation, 3, 3, 3))
    hidden = net.node("Reshape", hidden, net.ints(0, 8, 16))
    hidden = net.matmul("mixing", hidden, net.normal(5, 16))
    hidden = net.node("Transpose", hidden, perm=[0, 2, 1])
    return net.build(net.matmul("consumer", hidden, planted_columns(net, relation, 4)))


@case("MatMul", ALWAYS, "along another axis, biased", silent="dead")
def _biased_token_mixing(relation: str) -> onnx.ModelProto:
    """The bias is the same for every channel, so that a scaled channel does not stay scaled."""
    net = Net()
    hidden = net.conv("producer", net.input("batch", 3, 6, 6), *planted_rows(net, relation, 3, 3, 3))
    hidden = net.node("Reshape", hidden, net.ints(0, 8, 16))
    hidden = net.node("Relu", net.matmul("mixing", hidden, net.normal(5, 16), net.normal(5)))
    hidden = net.node("Transpose", hidden, perm=[0, 2, 1])
    return net.build(net.matmul("consumer", hidden, planted_columns(net, relation, 4)))


def _broadcast(op: str) -> Callable[[str], onnx.ModelProto]:
    """The channels meet one number per sample."""

    def build(relation: str) -> onnx.ModelProto:
        net = Net()
        data = net.input("batch", 6)
        hidden = net.dense("producer", data, *planted_rows(net, relation, 6))
        hidden = net.node(op, hidden, net.node("Exp", net.dense("scalar", data, 0.3 * net.normal(1, 6))))
        return net.build(net.dense("consumer", hidden, planted_columns(net, relation, 4), net.normal(4)))

    return build


case("Mul", LINEAR - {"shifted"}, "broadcast data")(_broadcast("Mul"))
case("Div", LINEAR - {"shifted"}, "broadcast data")(_broadcast("Div"))
case("Add", ALWAYS | {"shifted"}, "broadcast data", silent="dead")(_broadcast("Add"))
case("Sub", ALWAYS | {"shifted"}, "broadcast data", silent="dead")(_broadcast("Sub"))


@case("Add", HOMOGENEOUS, "residual stream", layers={n: (8, 5) for n in ("producer", "first", "second")})
def _residual_stream(relation: str) -> onnx.ModelProto:
    """A stem and two blocks that add to it: three producers, read after every addition."""
    net = Net()
    stream = net.node("Relu", net.conv("producer", net.input("batch", 3, 6, 6), *planted_rows(net, relation, 3, 3, 3)))
    for name in ("first", "second"):
        inner = net.conv(f"{name}.in", stream, planted_columns(net, relation, 4, 3, 3), pads=[1, 1, 1, 1])
        branch = net.conv(name, net.node("Relu", inner), *planted_rows(net, relation, 4, 1, 1))
        stream = net.node("Relu", net.node("Add", stream, branch))
    return net.build(net.conv("consumer", stream, planted_columns(net, relation, 4, 1, 1), net.normal(4)))


@case("Concat", HOMOGENEOUS, "read twice, with its own input", layers=PAIR)
def _dense_block(relation: str) -> onnx.ModelProto:
    """A DenseNet step: the second producer reads the first, the consumer reads both."""
    net = Net(seed=1)
    first = net.node("Relu", net.conv("producer", net.input("batch", 3, 6, 6), *planted_rows(net, relation, 3, 3, 3)))
    kernels = planted_rows(net, relation, 8, 1, 1)
    if relation == "unread":
        kernels[0][:, list(COPIES)] = 0
    second = net.node("Relu", net.conv("other", first, *kernels))
    columns = np.concatenate([planted_columns(net, relation, 4, 1, 1) for _ in range(2)], axis=1)
    return net.build(net.conv("consumer", net.node("Concat", first, second, axis=1), columns))


@case("Conv", HOMOGENEOUS, "depthwise with a multiplier", layers={"producer": (8, 5), "depthwise": (16, 10)})
def _multiplier(relation: str) -> onnx.ModelProto:
    """Two kernels per channel; they do not vanish with one another, but with their channel."""
    net = Net()
    hidden = net.node("Relu", net.conv("producer", net.input("batch", 3, 6, 6), *planted_rows(net, relation, 3, 1, 1)))
    taps = np.stack([copies("equal" if relation == "near" else relation, net.normal(FULL, 1, 3, 3))] * 2, 1)
    taps[:, 1] = copies("equal" if relation == "near" else relation, net.normal(FULL, 1, 3, 3))
    hidden = net.conv("depthwise", hidden, taps.reshape(2 * FULL, 1, 3, 3), group=FULL)
    columns = planted_columns(net, relation, 4, 2).reshape(4, 2 * FULL, 1, 1)
    return net.build(net.conv("consumer", net.node("Relu", hidden), columns, net.normal(4)))


import planted_more  # noqa: E402, F401  # more cases; it imports this module
