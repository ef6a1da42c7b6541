"""Planted cases of compounds: gates, mixing along another axis, broadcast data, streams, multipliers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from support.planted.cases import (
    ALWAYS,
    COPIES,
    FULL,
    HOMOGENEOUS,
    UNSHIFTED,
    case,
    copies,
    planted_columns,
    planted_rows,
)
from support.planted.joins import PAIR
from support.planted.net import Net


@case("Mul", UNSHIFTED, "squeeze-excite", layers={"producer": (8, 5), "excite": (8, 5)})
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


@case("MatMul", UNSHIFTED, "along another axis")
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


case("Mul", UNSHIFTED, "broadcast data")(_broadcast("Mul"))
case("Div", UNSHIFTED, "broadcast data")(_broadcast("Div"))
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
