"""Blocks of transformers in one node: condensed as their parts are, and one node again."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.fused_bert import HEADS, INNER, PLACES, TOKENS, WIDTH, FusedBert
from support.lossless import LOSSLESS
from support.planted.net import Array, Net, run

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
