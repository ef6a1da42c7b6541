"""Planted cases of functions, joins, per-channel parameters, windows and movements."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto

from support.planted.net import (
    ABSOLUTE,
    ALWAYS,
    EXACT,
    FULL,
    HOMOGENEOUS,
    LINEAR,
    MONOTONE,
    ODD,
    Array,
    Middle,
    Net,
    PlantedMiddle,
    apply,
    case,
    conv_case,
    copies,
    dense_case,
    planted_columns,
    planted_rows,
    spatial_case,
)


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
