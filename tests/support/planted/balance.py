"""Planted cases in which channels vary along two axes: blocks of grouped convolutions, heads, stacked branches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from support.planted.cases import (
    ALWAYS,
    COPIES,
    EXACT,
    FULL,
    HOMOGENEOUS,
    LINEAR,
    MAINS,
    UNSHIFTED,
    case,
    planted_columns,
    planted_rows,
)
from support.planted.net import Net

HALVED = {"producer": (FULL, 6)}
"""Channels 0 to 3 and 4 to 7 are two lines; each holds one copy of a channel of its own, so each loses one."""


def _columns(net: Net, relation: str, outputs: int) -> np.ndarray:
    """[outputs, 4, 1, 1] of a consumer in two groups: half of the outputs reads half of the channels."""
    columns = planted_columns(net, relation, outputs // 2, 1, 1)
    return np.concatenate(np.split(columns, 2, axis=1))


@case("Conv", LINEAR, "grouped consumer", layers=HALVED)
def _grouped_consumer(relation: str) -> onnx.ModelProto:
    net = Net()
    hidden = net.conv("producer", net.input("batch", 3, 6, 6), *planted_rows(net, relation, 3, 1, 1))
    hidden = net.conv("grouped", hidden, _columns(net, relation, 6), net.normal(6), group=2)
    return net.build(net.conv("head", hidden, np.eye(6).reshape(6, 6, 1, 1)))


@case("Conv", HOMOGENEOUS, "grouped producer", layers=HALVED)
def _grouped_producer(relation: str) -> onnx.ModelProto:
    """Rows that are alike in different groups read different data."""
    net = Net()
    rows, bias = planted_rows(net, relation, 3, 3, 3)
    hidden = net.conv("producer", net.input("batch", 6, 6, 6), rows, bias, group=2, pads=[1, 1, 1, 1])
    hidden = net.node("Relu", hidden)
    return net.build(net.conv("consumer", hidden, planted_columns(net, relation, 4, 3, 3), pads=[1, 1, 1, 1]))


@case("Conv", HOMOGENEOUS, "grouped chain", layers=HALVED)
def _grouped_chain(relation: str) -> onnx.ModelProto:
    net = Net()
    rows, bias = planted_rows(net, relation, 3, 3, 3)
    hidden = net.node("Relu", net.conv("producer", net.input("batch", 6, 6, 6), rows, bias, group=2))
    hidden = net.conv("grouped", hidden, _columns(net, relation, 6), net.normal(6), group=2)
    return net.build(net.conv("head", hidden, np.eye(6).reshape(6, 6, 1, 1)))


@case("ConvTranspose", HOMOGENEOUS, "grouped", layers=HALVED)
def _grouped_transposed(relation: str) -> onnx.ModelProto:
    """It makes the channels and another one reads them, each in two groups."""
    net = Net()
    rows, bias = planted_rows(net, relation, 3, 2, 2)
    weight = np.concatenate([half.swapaxes(0, 1) for half in np.split(rows, 2)])
    inputs = net.constant(weight), net.constant(bias)
    hidden = net.node("ConvTranspose", net.input("batch", 6, 4, 4), *inputs, name="producer", group=2, strides=[2, 2])
    hidden = net.node("Relu", hidden)
    columns = planted_columns(net, relation, 3, 2, 2).swapaxes(0, 1)
    made = net.node("ConvTranspose", hidden, net.constant(columns), net.constant(net.normal(6)), name="last", group=2)
    return net.build(net.conv("head", made, np.eye(6).reshape(6, 6, 1, 1)))


def _heads(net: Net, name: str) -> str:
    """[batch, 4 tokens, 8] to [batch, 2 heads, 4 tokens, 4]."""
    return net.node("Transpose", net.node("Reshape", name, net.ints(0, 4, 2, 4)), perm=[0, 2, 1, 3])


@case("MatMul", UNSHIFTED, "attention", layers=HALVED)
def _attention(relation: str) -> onnx.ModelProto:
    """Values shrink per head; queries and keys, which are multiplied with each other, stay."""
    net = Net()
    data = net.input("batch", 4, 6)
    query = _heads(net, net.matmul("query", data, net.normal(8, 6)))
    key = net.node("Transpose", _heads(net, net.matmul("key", data, net.normal(8, 6))), perm=[0, 1, 3, 2])
    value = _heads(net, net.matmul("producer", data, *planted_rows(net, relation, 6)))
    scores = net.node("Softmax", net.node("Div", net.node("MatMul", query, key), net.constant(2.0)), axis=-1)
    mixed = net.node("Transpose", net.node("MatMul", scores, value), perm=[0, 2, 1, 3])
    mixed = net.node("Reshape", mixed, net.ints(0, 4, 8))
    return net.build(net.matmul("consumer", mixed, planted_columns(net, relation, 4), net.normal(4)))


def _fused(form: str) -> Callable[[str], onnx.ModelProto]:
    """Queries, keys and values from one projection, [batch, 4, 24] to three times [batch, 2 heads, 4, 4]."""

    def build(relation: str) -> onnx.ModelProto:
        net = Net()
        data = net.input("batch", 4, 6)
        rows, bias = planted_rows(net, relation, 6)
        whole = net.matmul("producer", data, np.concatenate([net.normal(16, 6), rows]), np.r_[net.normal(16), bias])
        start = net.node("Slice", net.node("Shape", data), net.ints(0), net.ints(2))
        shape = net.node("Concat", start, net.ints(3, 2, 4), axis=0)
        parts = net.node("Transpose", net.node("Reshape", whole, shape), perm=[2, 0, 3, 1, 4])
        if form == "Gather":
            query, key, value = (net.node("Gather", parts, net.constant(np.array(i)), axis=0) for i in range(3))
        elif form == "Split":
            split = net.multiple("Split", parts, net.ints(1, 1, 1), outputs=3, axis=0)
            query, key, value = (net.node("Squeeze", part, net.ints(0)) for part in split)
        else:
            ranges = [net.node("Slice", parts, net.ints(i), net.ints(i + 1), net.ints(0)) for i in range(3)]
            query, key, value = (net.node("Squeeze", part, net.ints(0)) for part in ranges)
        scores = net.node("MatMul", query, net.node("Transpose", key, perm=[0, 1, 3, 2]))
        mixed = net.node("MatMul", net.node("Softmax", scores, axis=-1), value)
        mixed = net.node("Reshape", net.node("Transpose", mixed, perm=[0, 2, 1, 3]), net.ints(0, 4, 8))
        return net.build(net.matmul("consumer", mixed, planted_columns(net, relation, 4), net.normal(4)))

    return build


for _form in ("Gather", "Split", "Slice"):
    case(_form, UNSHIFTED, "fused attention", layers={"producer": (24, 22)})(_fused(_form))


def _shuffle(net: Net, data: str, groups: int) -> str:
    """Channel shuffle of [batch, 8, 6, 6]."""
    split = net.node("Reshape", data, net.ints(0, groups, 8 // groups, 6, 6))
    return net.node("Reshape", net.node("Transpose", split, perm=[0, 2, 1, 3, 4]), net.ints(0, 8, 6, 6))


@case("Transpose", HOMOGENEOUS, "channel shuffles")
def _shuffled(relation: str) -> onnx.ModelProto:
    """Two shuffles that are not each other's inverse; any channels can go."""
    net = Net()
    hidden = net.conv("producer", net.input("batch", 3, 6, 6), *planted_rows(net, relation, 3, 1, 1))
    hidden = _shuffle(net, net.node("Relu", _shuffle(net, hidden, 2)), 2)
    order = np.arange(8).reshape(2, 4).T.reshape(-1)
    columns = planted_columns(net, relation, 4, 1, 1)[:, order[order]]
    return net.build(net.conv("consumer", hidden, columns, net.normal(4)))


@case("MatMul", UNSHIFTED, "left of data")
def _left(relation: str) -> onnx.ModelProto:
    """Channels on the rows of the left tensor: a covariance with other data."""
    net = Net()
    data = net.input("batch", 5, 6)
    hidden = net.node("Transpose", net.matmul("producer", data, *planted_rows(net, relation, 6)), perm=[0, 2, 1])
    mixed = net.node("Transpose", net.node("MatMul", hidden, data), perm=[0, 2, 1])
    return net.build(net.matmul("consumer", mixed, planted_columns(net, relation, 4), net.normal(4)))


@case("Unsqueeze", ALWAYS, "stacked branches", layers={"one": (FULL, 6), "other": (FULL, 6)})
def _stacked(relation: str) -> onnx.ModelProto:
    """Two branches that are stacked lose equally many: the second holds one copy less than the first."""
    net = Net()
    data = net.input("batch", 6)
    rows, bias = planted_rows(net, relation, 6)
    fewer, fewer_bias = rows.copy(), bias.copy()
    fewer[COPIES[0]], fewer_bias[COPIES[0]] = net.normal(6), 0.3
    branches = [
        net.node("Sigmoid", net.dense(name, data, *numbers))
        for name, numbers in (("one", (rows, bias)), ("other", (fewer, fewer_bias)))
    ]
    stacked = net.node("Concat", *(net.node("Unsqueeze", b, net.ints(1)) for b in branches), axis=1)
    stacked = net.node("Reshape", net.node("Relu", stacked), net.ints(0, 16))
    one, other = (planted_columns(net, relation, 4) for _ in range(2))
    other[:, COPIES[0]] = 1.0
    return net.build(net.dense("consumer", stacked, np.concatenate([one, other], axis=1)))


@case("MatMul", HOMOGENEOUS, "stacked branches", layers={"one": (FULL, EXACT), "other": (FULL, EXACT)})
def _beside(relation: str) -> onnx.ModelProto:
    """Two branches beside each other that one layer reads: a channel is a copy where it is one in both."""
    net = Net()
    data = net.input("batch", 6)
    branches = [
        net.node(op, net.dense(name, data, *planted_rows(net, relation, 6)))
        for name, op in (("one", "Relu"), ("other", "LeakyRelu"))
    ]
    stacked = net.node("Concat", *(net.node("Unsqueeze", b, net.ints(1)) for b in branches), axis=1)
    return net.build(net.matmul("consumer", stacked, planted_columns(net, relation, 4), net.normal(4)))


assert MAINS[:4] == (0, 1, 0, 2), "each half holds one copy of a channel of its own"
