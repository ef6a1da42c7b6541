"""Blocks of transformers in one node: condensed as their parts are, and one node again."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.fused_bert import HEADS, INNER, PLACES, TOKENS, WIDTH, FusedBert
from support.lossless import LOSSLESS
from support.planted.net import (
    Array,
    Net,
    assert_close,
    run,
)

from onnx_condense import condense
from onnx_condense.forms import blocks
from onnx_condense.forms.stack import Entered


def fed(model: onnx.ModelProto) -> Array:
    """The output for some tokens, segments and masks."""
    rng = np.random.default_rng(3)
    ids, segments = rng.integers(0, TOKENS, (4, PLACES)), rng.integers(0, 2, (4, PLACES))
    mask = np.arange(PLACES) < rng.integers(1, PLACES + 1, (4, 1))
    feed = {"ids": ids, "segments": segments, "mask": mask}
    (made,) = run(model, {name: value.astype(np.int32) for name, value in feed.items()})
    return made


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.domain == blocks.DOMAIN]


def sizes(model: onnx.ModelProto) -> dict[str, list[int]]:
    return {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}


@pytest.mark.parametrize("opset", [12, 17])
def test_copies_leave_what_is_fused(opset: int) -> None:
    model = FusedBert((2, 1, 6), opset=opset).model()
    small = condense(model, LOSSLESS).model
    made = sizes(small)
    parts = [WIDTH - 2 * HEADS, WIDTH - 2 * HEADS, WIDTH - HEADS]
    for number in range(2):
        assert made[f"attention{number}.weight"] == [WIDTH, sum(parts)]
        assert made[f"project{number}.weight"] == [WIDTH - HEADS, WIDTH]
        assert made[f"inner{number}.weight"] == [WIDTH, INNER - 6]
    stated = [a for n in small.graph.node if n.op_type == "Attention" for a in n.attribute]
    assert [list(a.ints) for a in stated if a.name == "qkv_hidden_sizes"] == [parts, parts]
    assert set(operators(model)) - set(operators(small)) == {"BiasGelu"}
    np.testing.assert_allclose(fed(small), fed(model), atol=2e-5)


def test_without_redundancy_a_model_comes_out_as_it_was() -> None:
    model = FusedBert().model()
    entered = blocks.enter(Entered(model))
    assert not set(operators(entered.model)) & set(blocks.BLOCKS)
    assert entered.plain
    assert entered.leave(entered.model, entered.model).SerializeToString() == model.SerializeToString()
    np.testing.assert_allclose(fed(entered.model), fed(model), atol=2e-6)


def test_a_table_of_low_rank_leaves_its_block() -> None:
    """What is left of that is a sum that is normalized."""
    model = FusedBert(rank=4, opset=12).model()
    small = condense(model, LOSSLESS).model
    assert sizes(small)["words"] == [TOKENS, 4]
    assert "EmbedLayerNormalization" not in operators(small)
    assert operators(small).count("SkipLayerNormalization") == 5
    onnx.checker.check_model(small)
    np.testing.assert_allclose(fed(small), fed(model), atol=2e-5)


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("places", [True, False])
@pytest.mark.parametrize("outputs", [2, 3])
def test_embeddings_of_all_kinds_come_out_as_they_were(segments: bool, places: bool, outputs: int) -> None:
    """A sum of two tables or three, by given places or the first ones, and the sum itself."""
    net, size = Net(), 8
    net.inputs = [helper.make_tensor_value_info(name, TensorProto.INT32, [2, PLACES]) for name in ("ids", "mask")]
    words, first, kinds = (net.constant(net.normal(n, size)) for n in (TOKENS, 9, 2))
    gamma, beta = net.constant(net.normal(size)), net.constant(net.normal(size))
    given = ["ids", "mask" if segments else "", words, first, kinds if segments else "", gamma, beta]
    given += ["mask" if outputs > 2 else "", net.constant(np.array([[2, 0, 1, 8, 3]], np.int32)) if places else ""]
    made = net.multiple("EmbedLayerNormalization", *given, outputs=outputs, domain=blocks.DOMAIN, epsilon=1e-5)
    model = net.build(*made[: 1 if outputs == 2 else 3])
    if outputs > 2:
        model.graph.output[1].type.tensor_type.elem_type = TensorProto.INT32
    entered = blocks.enter(Entered(model))
    assert not operators(entered.model)
    assert entered.leave(entered.model, entered.model).graph.node == model.graph.node
    rng = np.random.default_rng(0)
    feed = {"ids": rng.integers(0, TOKENS, (2, PLACES)), "mask": rng.integers(0, 2, (2, PLACES))}
    feed = {name: value.astype(np.int32) for name, value in feed.items()}
    for a, b in zip(run(entered.model, feed), run(model, feed), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def attended(mask: tuple[int | str, ...], outputs: int = 1) -> onnx.ModelProto:
    """An Attention with a mask of this shape."""
    net = Net()
    x = net.input("batch", PLACES, 9)
    net.inputs.append(helper.make_tensor_value_info("mask", TensorProto.INT32, mask))
    weights = net.constant(net.normal(9, 36)), net.constant(net.normal(36))
    made = net.multiple("Attention", x, *weights, "mask", outputs=outputs, num_heads=2, domain=blocks.DOMAIN)
    return net.build(*made)


@pytest.mark.parametrize(
    ("mask", "outputs", "apart"),
    [
        (("batch", PLACES), 1, True),
        (("batch",), 1, True),
        (("twice",), 1, False),
        (("batch", 1, 8, 8), 1, False),
        (("batch", PLACES), 2, False),
    ],
)
def test_masks_that_mean_something_else_and_caches_keep_a_block(
    mask: tuple[int | str, ...], outputs: int, apart: bool
) -> None:
    entered = Entered(attended(mask, outputs))
    assert (blocks.enter(entered) is not entered) == apart


@pytest.mark.parametrize("sizes", [[8, 8, 4], [8, 16], [12, 12, 12, 0]])
def test_hidden_sizes_that_are_not_the_weights_keep_a_block(sizes: list[int]) -> None:
    """onnxruntime refuses the node then, by its own name."""
    model = attended(("batch", PLACES))
    model.graph.node[0].attribute.append(helper.make_attribute("qkv_hidden_sizes", sizes))
    entered = Entered(model)
    assert blocks.enter(entered) is entered


def decoder(net: Net) -> onnx.ModelProto:
    """A layer as decoders are written: grouped queries, sums that go on, a gate whose channels repeat."""
    gamma = [net.constant(1 + 0.1 * net.normal(16)) for _ in range(3)]
    stream = net.matmul("in", net.input(2, PLACES, 6), net.normal(16, 6))
    data = net.node("SimplifiedLayerNormalization", stream, gamma[0], epsilon=1e-6)
    ends = net.constant(np.full(2, PLACES - 1, dtype=np.int32)), net.constant(np.int32(PLACES))
    parts = [net.matmul(name, data, net.normal(n, 16)) for name, n in (("q", 16), ("k", 8), ("v", 8))]
    how = {"num_heads": 2, "kv_num_heads": 1, "domain": blocks.DOMAIN}
    made, *_ = net.multiple("GroupQueryAttention", *parts, "", "", *ends, outputs=3, **how)
    made = net.matmul("o", made, net.normal(16, 16))
    how = {"domain": blocks.DOMAIN, "epsilon": 1e-6}
    op = "SkipSimplifiedLayerNormalization"
    data, *_, stream = net.multiple(op, made, stream, gamma[1], outputs=4, **how)
    net.nodes[-1].output[1:3] = ["", ""]
    rows = net.normal(12, 16)
    rows[8:] = rows[:4]
    up = net.normal(12, 16)
    up[8:] = 2 * up[:4]
    gate, up = net.matmul("gate", data, rows), net.matmul("up", data, up)
    gate = net.node("Mul", gate, net.node("Sigmoid", gate))
    made = net.matmul("down", net.node("Mul", gate, up), net.normal(16, 12))
    data = net.node(op, made, stream, gamma[2], **how)
    return net.build(net.matmul("head", data, net.normal(4, 16)))


def test_what_surrounds_heads_that_stay_is_condensed() -> None:
    model = decoder(Net())
    small = condense(model, LOSSLESS).model
    made = sizes(small)
    assert made["gate.weight"] == made["up.weight"] == [16, 8]
    assert made["down.weight"] == [8, 16]
    assert operators(small) == operators(model)
    assert_close(model, small, 2e-5)


def test_a_projection_of_low_rank_is_what_the_block_reads() -> None:
    """Both nodes have names of their own."""
    net = Net()
    weights = net.constant(net.normal(9, 2) @ net.normal(2, 36), "weights"), net.constant(net.normal(36))
    model = net.build(net.node("Attention", net.input("batch", PLACES, 9), *weights, num_heads=2, domain=blocks.DOMAIN))
    small = condense(model, LOSSLESS).model
    assert [node.op_type for node in small.graph.node] == ["MatMul", "Attention"]
    assert len({node.name for node in small.graph.node}) == 2
    assert sorted(sizes(small).values()) == [[2, 36], [9, 2], [36]]
    assert_close(model, small, 2e-5)


@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("summed", [True, False])
def test_sums_of_all_kinds_come_out_as_they_were(op: str, biased: bool, summed: bool) -> None:
    """What is skipped may be the same for the whole batch; a product may be the second one of the two."""
    net, size = Net(), 8
    x, skipped = net.input(2, PLACES, size), net.input(PLACES, size, name="z")
    data = net.matmul("m", x, net.normal(size, size))
    parameters = [net.constant(net.normal(size)) for _ in range(1 if "Simplified" in op else 2)]
    given = [*parameters, *([net.constant(net.normal(size))] if biased else [])]
    made = net.multiple(op, data, skipped, *given, outputs=4 if summed else 1, domain=blocks.DOMAIN)
    if summed:
        net.nodes[-1].output[1:3] = ["", ""]
    again = net.node(op, x, net.matmul("n", made[0], net.normal(size, size)), *given, domain=blocks.DOMAIN)
    model = net.build(again, *made[3:])
    entered = blocks.enter(Entered(model))
    assert not operators(entered.model)
    assert entered.leave(entered.model, entered.model).graph.node == model.graph.node
    assert_close(model, entered.model, 2e-6)
