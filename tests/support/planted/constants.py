"""Planted cases of constants that are channels, or lie beside them, and of rows that meet them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from support.planted.cases import (
    ALWAYS,
    EXACT,
    FULL,
    LINEAR,
    UNSHIFTED,
    apply,
    case,
    conv_case,
    copies,
    planted_columns,
    planted_rows,
)
from support.planted.net import Net

# ------------------------------------------------------------------------------------------ beside constants


def _twice_as_wide(net: Net, data: str, relation: str) -> str:
    """Every place twice, as old exports of Upsample do it: [8, 8, 6, 6] to [8, 8, 6, 12]."""
    column = net.node("Reshape", data, net.ints(-1, 1))
    copied = net.node("Add", column, net.constant(np.array(0.0)))
    return net.node("Reshape", net.node("Concat", column, copied, axis=1), net.ints(-1, FULL, 6, 12))


def _framed(value: float, *, like: bool) -> Callable[[str], onnx.ModelProto]:
    """Rows of a constant above and below; `like`: made in the shape of the data."""

    def build(relation: str) -> onnx.ModelProto:
        net = Net()
        data = net.input("batch" if like else 1, 3, 8, 8)
        hidden = net.conv("producer", data, *planted_rows(net, relation, 3, 3, 3))
        if like:
            start = net.node("Slice", net.node("Shape", hidden), net.ints(0), net.ints(2))
            shape = net.node("Concat", start, net.ints(1, 6), axis=0)
            fill = onnx.numpy_helper.from_array(np.array([value], dtype=np.float32))
            rows = net.node("ConstantOfShape", shape, value=fill)
        else:
            rows = net.constant(np.full((1, FULL, 1, 6), value))
        hidden = net.node("Concat", rows, hidden, rows, axis=2)
        return net.build(net.conv("consumer", hidden, planted_columns(net, relation, 4, 3, 3), net.normal(4)))

    return build


def _tokens(net: Net, data: str, relation: str) -> str:
    """A learnt vector, one number per channel, repeated over the batch, before the places."""
    places = net.node("Reshape", data, net.ints(0, FULL, -1))
    batch = net.node("Slice", net.node("Shape", data), net.ints(0), net.ints(1))
    shape = net.node("Concat", batch, net.ints(FULL, 1), axis=0)
    token = net.node("Expand", net.constant(np.ones((1, FULL, 1))), shape)
    return net.node("Unsqueeze", net.node("Concat", token, places, axis=2), net.ints(3))


def _placed(net: Net, data: str, relation: str) -> str:
    """Positions along the height, then along the width, per channel."""
    for shape in ((FULL, 6, 1), (FULL, 1, 5)):
        data = net.node("Add", data, net.constant(copies(relation, net.normal(*shape))))
    return data


def _beside() -> None:
    wide = apply("Pad", pads=[0, 0, 0, 0, 0, 0, 0, -1])
    conv_case("Add", LINEAR, lambda n, x, r: _placed(n, wide(n, x, r), r), "positions along two axes", opset=9)
    conv_case("Concat", LINEAR, _twice_as_wide, "of copies")
    case("Concat", UNSHIFTED, "between zeros")(_framed(0.0, like=False))
    case("Concat", UNSHIFTED, "between zeros of its shape")(_framed(0.0, like=True))
    case("Concat", ALWAYS - {"dead"}, "between numbers", "dead")(_framed(0.7, like=False))
    conv_case("Concat", ALWAYS - {"dead"}, _tokens, "after a token", silent="dead")


# ----------------------------------------------------------------------------------- constants that are channels


for _zeros in ("Pad", "Concat"):

    @case(_zeros, LINEAR, "of a shortcut", layers={"stem": (FULL, EXACT), "main": (3 * FULL, 3 * EXACT)})
    def _shortcut(relation: str, zeros: str = _zeros) -> onnx.ModelProto:
        """ResNet, option A: a shortcut to three times as many channels, the others zero."""
        net = Net()
        stem = net.conv("stem", net.input(1, 3, 6, 6), *planted_rows(net, relation, 3, 3, 3))
        thirds = [planted_rows(net, relation, FULL, 1, 1) for _ in range(3)]
        rows, bias = (np.concatenate(parts) for parts in zip(*thirds, strict=True))
        if relation == "unread":
            rows *= planted_columns(net, relation, 1, 1, 1) != 0
        main = net.conv("main", stem, rows, bias)
        if zeros == "Pad":
            short = net.node("Pad", stem, net.ints(0, FULL, 0, 0, 0, FULL, 0, 0))
        else:
            sides = net.constant(np.zeros((1, FULL, 4, 4)))
            short = net.node("Concat", sides, stem, sides, axis=1)
        columns = np.concatenate([planted_columns(net, relation, 4, 1, 1) for _ in range(3)], axis=1)
        return net.build(net.conv("consumer", net.node("Add", main, short), columns, net.normal(4)))


@case("MatMul", LINEAR, "weights with a leading axis")
def _leading_axis(relation: str) -> onnx.ModelProto:
    net = Net()
    rows, bias = planted_rows(net, relation, 6)
    weight = net.constant(rows.T[None], "producer.weight")
    hidden = net.node("MatMul", net.input("batch", 5, 6), weight, name="producer")
    columns = net.constant(planted_columns(net, relation, 4).T[None])
    return net.build(net.node("MatMul", net.node("Add", hidden, net.constant(bias)), columns, name="consumer"))


@case("Pad", UNSHIFTED, "of channels and places")
def _padded(relation: str) -> onnx.ModelProto:
    net = Net()
    hidden = net.conv("producer", net.input("batch", 3, 6, 6), *planted_rows(net, relation, 3, 3, 3))
    hidden = net.node("Pad", hidden, net.ints(0, 2, 1, 1, 0, 1, 1, 1))
    sides = net.normal(4, 2, 3, 3), planted_columns(net, relation, 4, 3, 3), net.normal(4, 1, 3, 3)
    return net.build(net.conv("consumer", hidden, np.concatenate(sides, axis=1), net.normal(4)))


# ------------------------------------------------------------------------------------------------- other rows


def _rows() -> None:
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        conv_case(op, ALWAYS, apply(op, axis=2), "over several axes", "shifted dead opposite", opset=11)
        conv_case(op, frozenset(), apply(op, axis=1), "over channels and places", opset=11)
    conv_case("Crop", LINEAR, apply("Crop", border=[1, 2, 1, 1]), opset=9)
    for axes in ([1], [1, 2, 3]):

        def normalized(net: Net, data: str, relation: str, axes: list[int] = axes) -> str:
            mean = net.node("ReduceMean", data, axes=axes)
            centred = net.node("Sub", data, mean)
            square = net.node("ReduceMean", net.node("Pow", centred, net.constant(2.0)), axes=axes)
            return net.node("Div", centred, net.node("Sqrt", net.node("Add", square, net.constant(1e-5))))

        conv_case("ReduceMean", frozenset(), normalized, f"of a normalization over {len(axes)}")


# -------------------------------------------------------------------------------------- products of data


def _attention(net: Net, data: str) -> str:
    """[batch, 5, 5] that sum to 1, from [batch, 5, 6]."""
    return net.node("Softmax", net.node("MatMul", data, net.node("Transpose", data, perm=[0, 2, 1])), axis=-1)


def _values(op: str, label: str, product: Callable[[Net, str, str], str]) -> None:
    """[batch, 5, 8] channels times [batch, 5, 5], read at every place."""

    @case(op, UNSHIFTED, label)
    def build(relation: str) -> onnx.ModelProto:
        net = Net()
        data = net.input("batch", 5, 6)
        hidden = net.matmul("producer", data, *planted_rows(net, relation, 6))
        hidden = product(net, hidden, _attention(net, data))
        return net.build(net.matmul("consumer", hidden, planted_columns(net, relation, 4)))


def _turned(net: Net, hidden: str, weights: str) -> str:
    """The channels first."""
    made = net.node("MatMul", net.node("Transpose", hidden, perm=[0, 2, 1]), weights)
    return net.node("Transpose", made, perm=[0, 2, 1])


def _products() -> None:
    _values("MatMul", "values", lambda n, x, w: n.node("MatMul", w, x))
    _values("MatMul", "values first", _turned)
    _values(
        "MatMul",
        "values of a larger batch",
        lambda n, x, w: n.node("Squeeze", n.node("MatMul", n.node("Unsqueeze", w, n.ints(0)), x), n.ints(0)),
    )
    _values("Einsum", "values", lambda n, x, w: n.node("Einsum", w, x, equation="bqk, bkc -> bqc"))
    _values("Einsum", "values turned", lambda n, x, w: n.node("Einsum", x, w, equation="bkc,bqk->bqc"))


@case("MatMul", UNSHIFTED, "values of heads", layers={"producer": (2 * FULL, 2 * EXACT)})
def _heads(relation: str) -> onnx.ModelProto:
    """Every head has weights of its own: its channels merge with each other only."""
    net = Net()
    data = net.input("batch", 5, 6)
    rows, bias = planted_rows(net, relation, 6)
    rows, bias = np.concatenate([rows, rows]), np.concatenate([bias, bias])
    hidden = net.node("Reshape", net.matmul("producer", data, rows, bias), net.ints(0, 0, 2, FULL))
    hidden = net.node("Transpose", hidden, perm=[0, 2, 1, 3])
    weights = [net.node("Unsqueeze", _attention(net, x), net.ints(1)) for x in (data, net.node("Abs", data))]
    made = net.node("MatMul", net.node("Concat", *weights, axis=1), hidden)
    made = net.node("Reshape", net.node("Transpose", made, perm=[0, 2, 1, 3]), net.ints(0, 0, 2 * FULL))
    columns = np.concatenate([planted_columns(net, relation, 4) for _ in range(2)], axis=1)
    return net.build(net.matmul("consumer", made, columns))


@case("MatMul", UNSHIFTED - {"unread"}, "queries and keys")
def _queries(relation: str) -> onnx.ModelProto:
    """Rows of keys take up those of queries; no planted columns read these."""
    net = Net()
    data = net.input("batch", 5, 6)
    hidden = net.matmul("producer", data, *planted_rows(net, relation, 6))
    keys = net.node("Transpose", net.matmul("keys", data, net.normal(FULL, 6)), perm=[0, 2, 1])
    return net.build(net.node("MatMul", hidden, keys))


@case("Gemm", UNSHIFTED, "of two tensors of data")
def _gemm(relation: str) -> onnx.ModelProto:
    net = Net()
    hidden = net.dense("producer", net.input(7, 6), *planted_rows(net, relation, 6))
    hidden = net.node("Gemm", net.input(7, 5, name="y"), hidden, transA=1, alpha=0.5)
    return net.build(net.dense("consumer", hidden, planted_columns(net, relation, 4), net.normal(4)))


@case("Einsum", LINEAR)
def _einsum(relation: str) -> onnx.ModelProto:
    """It makes the channels, and another one reads them."""
    net = Net()
    rows, bias = planted_rows(net, relation, 6)
    hidden = net.node("Einsum", net.input("batch", 5, 6), net.constant(rows.T), name="producer", equation="bsi,io->bso")
    hidden = net.node("Add", hidden, net.constant(bias))
    columns = net.constant(planted_columns(net, relation, 4))
    return net.build(net.node("Einsum", columns, hidden, name="consumer", equation="oi, bsi -> bos"))


@case("Einsum", LINEAR, "of heads")
def _einsum_heads(relation: str) -> onnx.ModelProto:
    net = Net()
    hidden = net.matmul("producer", net.input("batch", 5, 6), *planted_rows(net, relation, 6))
    columns = net.constant(planted_columns(net, relation, 4).T.reshape(FULL, 2, 2))
    return net.build(net.node("Einsum", hidden, columns, equation="bsi,ihd->bshd"))


for _family in (_beside, _rows, _products):
    _family()
