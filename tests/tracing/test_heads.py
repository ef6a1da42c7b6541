"""Whole heads: idle ones and copies leave queries, keys, values and what reads them; what else counts heads stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support import attention_forms as forms
from support.attention import COPIES, INPUTS, PLACES, WIDTH, Attention
from support.attention_forms import Build
from support.fused_bert import HEADS, FusedBert
from support.fused_bert import WIDTH as HIDDEN
from support.lossless import LOSSLESS, condensed
from support.planted.net import widths

from onnx_condense import Options, analyze, condense
from onnx_condense.merging.plan import Plan

TWO, FOUR = {"q": 2, "k": 2, "v": 2}, {"q": 4, "k": 4, "v": 4}
GROUPED, ONE_KEY = {"q": 6, "k": 3, "v": 3}, {"q": 4, "k": 1, "v": 1}


def copied(attention: Attention, off: float = 0.0) -> Attention:
    """The last head of keys, and its queries, are copies of the first one; `off`: but for one number."""
    times = attention.heads["q"] // attention.heads["k"]
    for name, ratio, heads in (("q", 2.0, times), ("k", 0.5, 1), ("v", -3.0, 1)):
        if attention.heads[name] > 1:
            for values in (attention.rows[name], attention.bias[name]):
                values[-heads * WIDTH :] = ratio * values[: heads * WIDTH]
    attention.bias["k"][-2] += off
    return attention


def idle(attention: Attention) -> Attention:
    """The second head makes nothing of its values."""
    for values in (attention.rows["v"], attention.bias["v"]):
        values[WIDTH : 2 * WIDTH] = 0
    return attention


def unread(model: onnx.ModelProto, head: int) -> onnx.ModelProto:
    """A model whose output projection reads nothing of a head."""
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "o.weight")
    value = numpy_helper.to_array(weight).copy()
    value[head * WIDTH : (head + 1) * WIDTH] = 0
    weight.CopyFrom(numpy_helper.from_array(value, weight.name))
    return model


def split(attention: Attention) -> onnx.ModelProto:
    """One weight makes queries, keys and values, side by side."""
    net, size = attention.net, attention.heads["q"] * WIDTH
    parts = net.multiple("Split", attention.fused(), net.ints(size, size, size), outputs=3, axis=-1)
    q, k, v = (attention.by_head(part, attention.heads["q"]) for part in parts)
    return attention.build(attention.attended(attention.scores(q, k), v))


def gathered(attention: Attention) -> onnx.ModelProto:
    """One weight makes all three, on an axis of their own."""
    net = attention.net
    shaped = net.node("Reshape", attention.fused(), net.ints(-1, PLACES, 3, attention.heads["q"], WIDTH))
    turned = net.node("Transpose", shaped, perm=[2, 0, 3, 1, 4])
    q, k, v = (net.node("Gather", turned, net.constant(np.int64(i)), axis=0) for i in range(3))
    return attention.build(attention.attended(attention.scores(q, k), v))


def halves(attention: Attention) -> onnx.ModelProto:
    return forms.with_rotations(attention, "halves", forms.FAST)


def any_length(attention: Attention) -> onnx.ModelProto:
    return forms.of_any_length(attention, "steps")


def rotated_fused(attention: Attention) -> onnx.ModelProto:
    return forms.by_operators(attention, "fused halves")


def rotated_standard(attention: Attention) -> onnx.ModelProto:
    return forms.by_operators(attention, "standard halves")


def sloped(attention: Attention) -> onnx.ModelProto:
    """Scores fall with the distance, in each head by another slope, which is a copy where the head is one."""
    net, heads = attention.net, attention.heads["q"]
    distance = -np.abs(np.arange(PLACES)[:, None] - np.arange(PLACES))
    slopes = np.array([0.5, 0.25, 0.125, 0.5])[:heads, None, None]
    scores = net.node(
        "Add", attention.scores(attention.split("q"), attention.split("k")), net.constant(slopes * distance)
    )
    return attention.build(attention.attended(scores, attention.split("v")))


FORMS: list[tuple[Build, dict[str, int], int]] = [
    (forms.separate, FOUR, 2),
    (forms.equations, TWO, 1),
    (forms.repeated, GROUPED, 2),
    (forms.fused, TWO, 1),
    (forms.beside, GROUPED, 2),
    (forms.apart, GROUPED, 2),
    (split, FOUR, 2),
    (gathered, FOUR, 2),
    (halves, TWO, 1),
    (any_length, TWO, 1),
    (rotated_fused, TWO, 1),
    (rotated_standard, TWO, 1),
    (sloped, FOUR, 2),
]
"""Heads, and how many of queries are left without those that need not be there."""


def heads_in(model: onnx.ModelProto) -> int:
    """What the output projection still reads, in heads."""
    return next(t.dims[0] for t in model.graph.initializer if t.name == "o.weight") // WIDTH


@pytest.mark.parametrize(("build", "heads", "left"), FORMS)
def test_heads_that_need_not_be_there_go(build: Build, heads: dict[str, int], left: int) -> None:
    """The last one is a copy of the first, and the second one idle, where there are more than two."""
    attention = copied(Attention(heads))
    model = build(idle(attention) if heads["k"] > 2 else attention)
    assert heads_in(condensed(model)) == left


@pytest.mark.parametrize("build", [forms.separate, forms.beside])
def test_heads_of_queries_that_share_one_key_go_alone(build: Build) -> None:
    attention = Attention(ONE_KEY)
    for values in (attention.rows["q"], attention.bias["q"]):
        values[-WIDTH:] = values[:WIDTH]
    model = unread(forms.separate(attention), 1) if build is forms.separate else forms.beside(attention)
    small = condensed(model, {"k": WIDTH, "v": WIDTH})
    assert heads_in(small) == (2 if build is forms.separate else 4)


def test_nothing_reads_a_head() -> None:
    assert heads_in(condensed(unread(Attention(FOUR).model(), 2), {"q": 3 * WIDTH, "k": 3 * WIDTH})) == 3


def test_a_plan_lets_the_same_heads_go(tmp_path: Path) -> None:
    """And what is left of them goes on: a head goes, then a channel of each of the others."""
    attention = Attention(FOUR).copy("k", [*COPIES[:3], COPIES[0]])
    model = unread(attention.model(), 2)
    result = condense(model, LOSSLESS)
    assert widths(result.model)["q"] == 3 * (WIDTH - 1)
    assert [(one.before, one.after) for one in result.report.heads] == [(4, 3)]
    result.plan.save(tmp_path / "plan.json")
    plan = Plan.load(tmp_path / "plan.json")
    again = condense(model, replay=plan)
    assert again.model.SerializeToString() == result.model.SerializeToString()
    assert [(one.before, one.after) for one in analyze(model).heads] == [(4, 3)]


def test_fused_blocks_say_how_many_heads_are_left() -> None:
    model = FusedBert().model()
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    projected = numpy_helper.to_array(weights["project0.weight"]).copy()
    projected[: HIDDEN // HEADS] = 0
    weights["project0.weight"].CopyFrom(numpy_helper.from_array(projected, "project0.weight"))
    small = condense(model, LOSSLESS).model
    counts = [
        a.i for node in small.graph.node if node.op_type == "Attention" for a in node.attribute if a.name == "num_heads"
    ]
    assert counts == [1, 2]


def talking(attention: Attention) -> onnx.ModelProto:
    """Scores of all heads are mixed."""
    net, heads = attention.net, attention.heads["q"]
    scores = net.node("Transpose", attention.scores(attention.split("q"), attention.split("k")), perm=[0, 2, 3, 1])
    mixed = net.matmul("mix", scores, attention.normal(heads, heads))
    return attention.build(attention.attended(net.node("Transpose", mixed, perm=[0, 3, 1, 2]), attention.split("v")))


def across(attention: Attention) -> onnx.ModelProto:
    """Shares are taken over heads."""
    shares = attention.net.node("Softmax", attention.scores(attention.split("q"), attention.split("k")), axis=1)
    return attention.build(attention.attended(shares, attention.split("v")))


def shown(attention: Attention) -> onnx.ModelProto:
    """Scores are an output."""
    scores = attention.scores(attention.split("q"), attention.split("k"))
    return attention.build(attention.attended(scores, attention.split("v")), scores)


def biased_by_data(attention: Attention) -> onnx.ModelProto:
    """What is added to scores has numbers for each head, and is an input."""
    net = attention.net
    bias = net.input("batch", attention.heads["q"], PLACES, PLACES, name="bias")
    scores = net.node("Add", attention.scores(attention.split("q"), attention.split("k")), bias)
    return attention.build(attention.attended(scores, attention.split("v")))


def masked_by_head(attention: Attention) -> onnx.ModelProto:
    net, heads = attention.net, attention.heads["q"]
    net.opset = 23
    mask = net.constant(attention.normal(1, heads, PLACES, PLACES))
    parts = (attention.made(name) for name in "qkv")
    return attention.build(net.node("Attention", *parts, mask, q_num_heads=heads, kv_num_heads=heads))


STAY: list[Build] = [talking, across, shown, biased_by_data, masked_by_head, forms.of_given_values]


@pytest.mark.parametrize("build", STAY)
def test_what_counts_heads_otherwise_lets_them_stay(build: Build) -> None:
    attention = Attention(TWO if build is forms.of_given_values else FOUR)
    condensed(unread(build(attention), 0), {"k": len(attention.rows["k"])})


@pytest.mark.parametrize("build", [forms.separate, split, halves])
def test_heads_that_differ_in_one_number_stay(build: Build) -> None:
    assert heads_in(condensed(build(copied(Attention(), off=0.1)))) == 2


def test_widths_only_keeps_heads() -> None:
    small = condense(unread(Attention(FOUR).model(), 2), Options(lossless=True, align=1, widths_only=True)).model
    assert heads_in(small) == 4


def test_a_budget_takes_the_head_that_is_hardly_missed(tmp_path: Path) -> None:
    """Beside fewer channels of each head; where all are missed, all stay."""
    inputs = tmp_path / "x.npz"
    np.savez(inputs, x=np.random.default_rng(5).standard_normal((64, PLACES, INPUTS)).astype(np.float32))
    for scale, left in ((1e-3, 3), (1.0, 4)):
        model = Attention(FOUR, seed=2).model()
        (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "o.weight")
        value = numpy_helper.to_array(weight).copy()
        value[WIDTH : 2 * WIDTH] *= scale
        weight.CopyFrom(numpy_helper.from_array(value, weight.name))
        result = condense(model, Options(budget=("params", 0.75), align=1, calibration=inputs))
        assert [one.after for one in result.report.heads] == ([left] if left < 4 else [])
        assert result.report.share_of(Options(budget=("params", 0.75)).goal) <= 0.75
        again = condense(model, replay=result.plan)
        assert again.model.SerializeToString() == result.model.SerializeToString()
