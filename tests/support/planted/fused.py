"""Planted cases of operators that onnxruntime's optimizer writes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from support.planted.cases import (
    ALWAYS,
    FULL,
    LINEAR,
    UNSHIFTED,
    apply,
    case,
    dense_case,
    planted_columns,
    planted_rows,
)
from support.planted.net import Net

MICROSOFT = "com.microsoft"

HEADS = {"num_heads": 2, "domain": MICROSOFT}


def _functions() -> None:
    for op in ("Gelu", "FastGelu", "QuickGelu"):
        dense_case(f"{MICROSOFT}.{op}", ALWAYS, apply(op, domain=MICROSOFT))


for _turned in (False, True):

    @case(f"{MICROSOFT}.FusedMatMul", LINEAR, "turned" if _turned else "")
    def _matmul(relation: str, turned: bool = _turned) -> onnx.ModelProto:
        """It makes the channels, and another one reads them."""
        net = Net()
        rows, bias = planted_rows(net, relation, 6)
        columns = planted_columns(net, relation, 4)
        how = {"transA": int(turned), "transB": 1, "alpha": 0.5, "domain": MICROSOFT}
        data = net.input(6, "batch") if turned else net.input("batch", 6)
        hidden = net.node("FusedMatMul", data, net.constant(rows), name="producer", **how)
        hidden = net.node("Add", hidden, net.constant(bias))
        how["transA"] = 0
        return net.build(net.node("FusedMatMul", hidden, net.constant(columns), name="consumer", **how))


@case(f"{MICROSOFT}.FusedMatMul", LINEAR, "weights first")
def _weights_first(relation: str) -> onnx.ModelProto:
    net = Net()
    hidden = net.dense("producer", net.input("batch", 6), *planted_rows(net, relation, 6))
    columns = net.constant(planted_columns(net, relation, 4).T)
    return net.build(net.node("FusedMatMul", columns, hidden, transA=1, transB=1, domain=MICROSOFT))


def _hidden(net: Net, relation: str) -> str:
    """[batch, 5, 8] numbers of planted channels."""
    return net.matmul("producer", net.input("batch", 5, 6), *planted_rows(net, relation, 6))


@case(f"{MICROSOFT}.Attention", LINEAR)
def _attention(relation: str) -> onnx.ModelProto:
    """The channels are its input."""
    net = Net()
    hidden, size = _hidden(net, relation), 12
    weights = net.constant(planted_columns(net, relation, size).T), net.constant(net.normal(size))
    return net.build(net.node("Attention", hidden, *weights, **HEADS))


@case(f"{MICROSOFT}.MultiHeadAttention", UNSHIFTED)
def _values(relation: str) -> onnx.ModelProto:
    """The channels are the values of a head."""
    net = Net()
    hidden = _hidden(net, relation)
    queries, keys = (net.matmul(name, "x", net.normal(FULL, 6)) for name in "qk")
    made = net.node("MultiHeadAttention", queries, keys, hidden, num_heads=1, domain=MICROSOFT)
    return net.build(net.matmul("consumer", made, planted_columns(net, relation, 4)))


@case("Attention", UNSHIFTED)
def _values_of_the_standard(relation: str) -> onnx.ModelProto:
    net = Net(opset=23)
    hidden = _hidden(net, relation)
    queries, keys = (net.matmul(name, "x", net.normal(6, 6)) for name in "qk")
    made = net.node("Attention", queries, keys, hidden, q_num_heads=1, kv_num_heads=1, is_causal=1)
    return net.build(net.matmul("consumer", made, planted_columns(net, relation, 4)))


def _refused() -> None:
    """They see all channels together."""

    def consumer(net: Net, hidden: str, relation: str) -> onnx.ModelProto:
        return net.build(net.matmul("consumer", hidden, planted_columns(net, relation, 4)))

    @case(f"{MICROSOFT}.MultiHeadAttention", frozenset(), "of itself")
    def heads(relation: str) -> onnx.ModelProto:
        net = Net()
        hidden = _hidden(net, relation)
        return consumer(net, net.node("MultiHeadAttention", hidden, hidden, hidden, **HEADS), relation)

    @case(f"{MICROSOFT}.GroupQueryAttention", frozenset())
    def grouped(relation: str) -> onnx.ModelProto:
        net = Net()
        hidden = net.matmul("producer", net.input(2, 5, 6), *planted_rows(net, relation, 6))
        ends = net.constant(np.full(2, 4, dtype=np.int32)), net.constant(np.int32(5))
        how = {"num_heads": 1, "kv_num_heads": 1, "domain": MICROSOFT}
        made = net.multiple("GroupQueryAttention", hidden, hidden, hidden, "", "", *ends, outputs=3, **how)
        return consumer(net, made[0], relation)

    @case(f"{MICROSOFT}.RotaryEmbedding", frozenset())
    def rotated(relation: str) -> onnx.ModelProto:
        net = Net()
        hidden = _hidden(net, relation)
        given = [net.ints(0), *(net.constant(net.normal(5, FULL // 2)) for _ in range(2))]
        return consumer(net, net.node("RotaryEmbedding", hidden, *given, domain=MICROSOFT), relation)

    @case("RotaryEmbedding", frozenset())
    def rotated_by_the_standard(relation: str) -> onnx.ModelProto:
        net = Net(opset=23)
        hidden = net.matmul("producer", net.input(2, 5, 6), *planted_rows(net, relation, 6))
        given = [net.constant(net.normal(2, 5, FULL // 2)) for _ in range(2)]
        return consumer(net, net.node("RotaryEmbedding", hidden, *given, num_heads=1), relation)

    @case("SimplifiedLayerNormalization", frozenset())
    def simplified(relation: str) -> onnx.ModelProto:
        net = Net()
        hidden = _hidden(net, relation)
        return consumer(net, net.node("SimplifiedLayerNormalization", hidden, net.constant(net.normal(FULL))), relation)

    for op, parameters in (("SkipLayerNormalization", 2), ("SkipSimplifiedLayerNormalization", 1)):

        @case(f"{MICROSOFT}.{op}", frozenset())
        def skip(relation: str, op: str = op, parameters: int = parameters) -> onnx.ModelProto:
            net = Net()
            hidden = _hidden(net, relation)
            given = [net.constant(net.normal(FULL)) for _ in range(parameters)]
            return consumer(net, net.node(op, hidden, hidden, *given, domain=MICROSOFT), relation)

    @case(f"{MICROSOFT}.EmbedLayerNormalization", frozenset(), layers={"consumer": (4, 4)})
    def embedding(relation: str) -> onnx.ModelProto:
        net = Net()
        net.inputs.append(helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 5]))
        ids = net.node("Cast", "ids", to=TensorProto.INT32)
        tables = [net.constant(net.normal(rows, FULL)) for rows in (11, 5)]
        gamma, beta = net.constant(net.normal(FULL)), net.constant(net.normal(FULL))
        inputs = ids, "", *tables, "", gamma, beta
        hidden, *_ = net.multiple("EmbedLayerNormalization", *inputs, outputs=2, domain=MICROSOFT)
        return consumer(net, hidden, relation)


for _family in (_functions, _refused):
    _family()
