"""Planted cases of products with vectors, and by equation."""

from __future__ import annotations

import numpy as np
import onnx

from support.planted.cases import (
    LINEAR,
    UNSHIFTED,
    case,
    conv_case,
    planted_columns,
    planted_rows,
)
from support.planted.net import Net


def _vector(side: str) -> None:
    @case("MatMul", UNSHIFTED, f"vector {side}")
    def build(relation: str) -> onnx.ModelProto:
        """A consumer with one output, whose constants have no bias to go to."""
        net = Net()
        hidden = net.dense("producer", net.input("batch", 6), *planted_rows(net, relation, 6))
        vector = net.constant(planted_columns(net, relation, 1)[0])
        if side == "right":
            return net.build(net.node("MatMul", hidden, vector))
        return net.build(net.node("MatMul", vector, net.node("Transpose", hidden, perm=[1, 0])))


def _equations() -> None:
    for first, second in (("bni,ih->bnh", "bnh,ho->bno"), ("bni,hi->bhn", "oh,bhn->obn")):

        @case("Einsum", LINEAR, second)
        def build(relation: str, first: str = first, second: str = second) -> onnx.ModelProto:
            net = Net()
            rows, bias = planted_rows(net, relation, 6)
            columns = planted_columns(net, relation, 4)
            weight = net.constant(rows.T if "ih" in first else rows, "producer.weight")
            hidden = net.node("Einsum", net.input("batch", 5, 6), weight, name="producer", equation=first)
            shape = (-1,) if "ih" in first else (-1, 1)
            hidden = net.node("Add", hidden, net.constant(bias.reshape(shape)))
            parts = [hidden, net.constant(columns.T if "ho" in second else columns)]
            return net.build(net.node("Einsum", *(parts if "ho" in second else parts[::-1]), equation=second))


def _gemm_of_the_left() -> None:
    """A Gemm whose weight is its first operand has its outputs on the first axis, and takes no bias along it."""
    for turned in (0, 1):

        @case("Gemm", LINEAR, f"weight on the left, transA {turned}")
        def build(relation: str, turned: int = turned) -> onnx.ModelProto:
            net = Net()
            hidden = net.dense("producer", net.input("batch", 6), *planted_rows(net, relation, 6))
            columns = planted_columns(net, relation, 4)
            weight = net.constant(columns.T if turned else columns)
            return net.build(net.node("Gemm", weight, hidden, transA=turned, transB=1, alpha=0.5))


def _padded_with_ones(net: Net, data: str, relation: str) -> str:
    return net.node("Pad", data, net.ints(0, 0, 1, 1, 0, 0, 1, 1), net.constant(np.float32(1)))


conv_case("Pad", frozenset({"equal", "unread"}), _padded_with_ones, "with ones", "dead", side=3)
for _side in ("right", "left"):
    _vector(_side)
_equations()
_gemm_of_the_left()
