"""Planted cases of joins, per-channel parameters, and layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from support.planted.cases import (
    ALWAYS,
    EXACT,
    FULL,
    HOMOGENEOUS,
    LINEAR,
    ODD,
    UNSHIFTED,
    PlantedMiddle,
    apply,
    case,
    conv_case,
    copies,
    dense_case,
    planted_columns,
    planted_rows,
    then,
)
from support.planted.net import Array, Net


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
        dense_case(op, HOMOGENEOUS, then(_constants(op, scaled=True), "Relu"), "constant")
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
    case("Mul", UNSHIFTED, "gate", layers=PAIR)(_joined("Mul", "other"))


@case("Div", UNSHIFTED, "producers", silent="dead", layers=PAIR)
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
    conv_case("Conv", UNSHIFTED, apply("Identity"), "padded consumer", side=3, pads=(1, 1, 1, 1))


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


_elementwise()
_parameters()
