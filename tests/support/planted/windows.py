"""Planted cases of windows and movements."""

from __future__ import annotations

import numpy as np
import onnx

from support.planted.cases import (
    ABSOLUTE,
    ALWAYS,
    EXACT,
    FULL,
    HOMOGENEOUS,
    LINEAR,
    MONOTONE,
    UNSHIFTED,
    Middle,
    apply,
    case,
    conv_case,
    planted_columns,
    planted_rows,
    spatial_case,
)
from support.planted.joins import PAIR
from support.planted.net import Array, Net


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
        UNSHIFTED,
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


@case("ReduceSum", frozenset(), "over no axes that it names, which are all")
def _reduce_all(relation: str) -> onnx.ModelProto:
    net = Net()
    hidden = net.dense("producer", net.input("batch", 6), *planted_rows(net, relation, 6))
    whole = net.node("ReduceSum", hidden, net.constant(np.zeros(0, dtype=np.int64)))
    return net.build(net.dense("consumer", whole, net.normal(4, 1)))


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


_windows()
_movements()
