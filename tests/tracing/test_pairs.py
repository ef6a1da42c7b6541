"""Queries and keys: copies leave both sides of a product of data, and what cannot be taken up stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.attention import COPIES, INPUTS, PLACES, WIDTH, Attention, head_by_head
from support.lossless import condensed
from support.planted.net import Array, Net, assert_close, run, widths

from onnx_condense import Options, analyze, condense
from onnx_condense.merging.plan import Plan

Build = Callable[[Attention], onnx.ModelProto]

GROUPED = {"q": 4, "k": 2, "v": 2}
ONE_KEY = {"q": 4, "k": 1, "v": 1}


def separate(attention: Attention) -> onnx.ModelProto:
    return attention.model()


def scaled_before(attention: Attention) -> onnx.ModelProto:
    scale = attention.net.constant(np.float32(0.6))
    sides = (attention.net.node("Mul", attention.split(name), scale) for name in "qk")
    return attention.build(attention.attended(attention.scores(*sides), attention.split("v")))


def equations(attention: Attention) -> onnx.ModelProto:
    net, shape = attention.net, attention.net.ints(-1, PLACES, 2, WIDTH)
    q, k, v = (net.node("Reshape", attention.made(name), shape) for name in "qkv")
    scores = net.node("Softmax", net.node("Einsum", q, k, equation="bnhd,bmhd->bhnm"), axis=-1)
    summed = net.node("Einsum", scores, v, equation="bhnm,bmhd->bnhd")
    return attention.build(net.node("Reshape", summed, net.ints(-1, PLACES, 2 * WIDTH)))


def repeated(attention: Attention) -> onnx.ModelProto:
    """Keys that several heads share, repeated for each of them."""
    net, few, many = attention.net, attention.heads["k"], attention.heads["q"]

    def each(data: str) -> str:
        shape = net.ints(1, few, many // few, PLACES, WIDTH)
        wide = net.node("Expand", net.node("Unsqueeze", data, net.ints(2)), shape)
        return net.node("Reshape", wide, net.ints(-1, many, PLACES, WIDTH))

    scores = attention.scores(attention.split("q"), each(attention.split("k")))
    return attention.build(attention.attended(scores, each(attention.split("v"))))


def fused(attention: Attention) -> onnx.ModelProto:
    """With a bias of all three in the same node."""
    net = attention.net
    bias = net.constant(np.concatenate([attention.bias[name] for name in "qkv"]))
    parts = (net.matmul(name, attention.x, attention.rows[name]) for name in "qkv")
    made = net.node("MultiHeadAttention", *parts, bias, num_heads=2, domain="com.microsoft")
    return shaped(attention.build(made))


def shaped(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the shape of its output, which none is inferred of behind operators that ONNX does not know."""
    made = model.graph.output[0]
    made.CopyFrom(helper.make_tensor_value_info(made.name, TensorProto.FLOAT, ["batch", PLACES, 4]))
    return model


def beside(attention: Attention) -> onnx.ModelProto:
    """By the standard's operator, heads next to each other."""
    net, heads = attention.net, attention.heads
    net.opset = 23
    parts = (attention.made(name) for name in "qkv")
    return attention.build(net.node("Attention", *parts, q_num_heads=heads["q"], kv_num_heads=heads["k"]))


def apart(attention: Attention) -> onnx.ModelProto:
    """By the standard's operator, heads on an axis of their own."""
    net = attention.net
    net.opset = 23
    made = net.node("Attention", *(attention.split(name) for name in "qkv"))
    shape = net.ints(-1, PLACES, attention.heads["q"] * WIDTH)
    return attention.build(net.node("Reshape", net.node("Transpose", made, perm=[0, 2, 1, 3]), shape))


def of_given_values(attention: Attention) -> onnx.ModelProto:
    """Values that are an input have no channels to lose."""
    net = attention.net
    values = net.input("batch", PLACES, 2 * WIDTH, name="z")
    net.opset = 23
    parts = (attention.made(name) for name in "qk")
    return attention.build(net.node("Attention", *parts, values, q_num_heads=2, kv_num_heads=2))


FORMS: list[tuple[Build, dict[str, int]]] = [
    (separate, {}),
    (scaled_before, {}),
    (equations, {}),
    (head_by_head, {}),
    (repeated, GROUPED),
    (separate, ONE_KEY),
    (fused, {}),
    (beside, GROUPED),
    (apart, GROUPED),
]


@pytest.mark.parametrize("copied", ["q", "k"])
@pytest.mark.parametrize(("build", "heads"), FORMS)
def test_copies_of_one_side_leave_both(build: Build, heads: dict[str, int], copied: str) -> None:
    attention = Attention(heads or {"q": 2, "k": 2, "v": 2})
    expected = {name: n * (WIDTH - 1) for name, n in attention.heads.items() if name != "v"}
    condensed(build(attention.copy(copied)), expected | {"v": attention.heads["v"] * WIDTH})


@pytest.mark.parametrize("copied", ["q", "k"])
def test_one_weight_makes_both_sides(copied: str) -> None:
    attention = Attention().copy(copied)
    net, size = attention.net, 2 * WIDTH
    parts = net.multiple("Split", attention.fused(), net.ints(size, size, size), outputs=3, axis=-1)
    q, k, v = (attention.by_head(part, 2) for part in parts)
    condensed(attention.build(attention.attended(attention.scores(q, k), v)), {"qkv": 4 * (WIDTH - 1) + 2 * WIDTH})


def test_heads_of_one_weight_share_a_width() -> None:
    """Queries, keys and values are lines of one tensor: they lose equally many."""
    attention = Attention().copy("k").copy("v")
    net = attention.net
    shaped = net.node("Reshape", attention.fused(), net.ints(-1, PLACES, 3, 2, WIDTH))
    turned = net.node("Transpose", shaped, perm=[2, 0, 3, 1, 4])
    q, k, v = (net.node("Gather", turned, net.constant(np.int64(i)), axis=0) for i in range(3))
    condensed(attention.build(attention.attended(attention.scores(q, k), v)), {"qkv": 6 * (WIDTH - 1)})


def test_copies_of_both_sides_and_replay(tmp_path: Path) -> None:
    """Each main channel takes up rows of one side only; the plan holds what became of both."""
    attention = Attention().copy("k").copy("q", [(3, 4, 1.2), (0, 3, 0.6)])
    for head in range(2):
        for values in (attention.rows["q"], attention.bias["q"]):
            values[head * WIDTH + 5 - head] = -2 * values[head * WIDTH + 4 - head]
    model = attention.model()
    result = condense(model, Options(lossless=True, align=1))
    found = widths(result.model)
    assert found["q"] == found["k"] == 2 * (WIDTH - 3)
    assert_close(model, result.model, 2e-5)
    result.plan.save(tmp_path / "plan.json")
    again = condense(model, replay=Plan.load(tmp_path / "plan.json"))
    assert again.model.SerializeToString() == result.model.SerializeToString()


def test_dead_channels_of_either_side() -> None:
    attention = Attention()
    for name, channels in (("q", (1, WIDTH + 2)), ("k", (3, WIDTH + 3))):
        attention.rows[name][list(channels)] = 0
        attention.bias[name][list(channels)] = 0
    condensed(attention.model(), {"q": 2 * (WIDTH - 2), "k": 2 * (WIDTH - 2)})


def test_a_side_that_weights_read_too_says_what_the_other_takes_up() -> None:
    """Where queries are read elsewhere, their copies go; keys may be no copies, for queries could not take those up."""
    for copied, width in (("q", WIDTH - 1), ("k", WIDTH)):
        attention = Attention().copy(copied)
        made = attention.made("q")
        scores = attention.scores(attention.by_head(made, 2), attention.split("k"))
        attended = attention.attended(scores, attention.split("v"))
        beside = attention.net.matmul("beside", made, attention.normal(4, 2 * WIDTH))
        condensed(attention.build(attended, beside), {"q": 2 * width, "k": 2 * width})


def test_a_side_behind_a_function() -> None:
    """Behind a Relu, copies with a positive ratio say what the other side takes up."""
    copies = [(1, 0, 1.7), (5, 2, 0.6)]
    for copied, width in (("q", WIDTH - 1), ("k", WIDTH)):
        attention = Attention().copy(copied, copies)
        queries = attention.net.node("Relu", attention.split("q"))
        scores = attention.scores(queries, attention.split("k"))
        model = attention.build(attention.attended(scores, attention.split("v")))
        condensed(model, {"q": 2 * width, "k": 2 * width})


def test_queries_and_keys_beside_values_that_are_given() -> None:
    condensed(of_given_values(Attention().copy("k")), {"q": 2 * (WIDTH - 1), "k": 2 * (WIDTH - 1)})


def test_shifted_copies_and_copies_of_one_head_stay() -> None:
    attention = Attention().copy("k")
    attention.bias["k"][1] += 0.3
    condensed(attention.model(), {"q": 2 * WIDTH, "k": 2 * WIDTH})
    attention = Attention().copy("k")
    attention.rows["k"][WIDTH + 5] += 0.3
    condensed(attention.model(), {"q": 2 * WIDTH, "k": 2 * WIDTH})


def itself(attention: Attention) -> onnx.ModelProto:
    """Keys are the queries: a row cannot take up another without changing both sides."""
    queries = attention.split("q")
    return attention.build(attention.attended(attention.scores(queries, queries), attention.split("v")))


def both_behind_functions(attention: Attention) -> onnx.ModelProto:
    q, k = (attention.net.node("Relu", attention.split(name)) for name in "qk")
    return attention.build(attention.attended(attention.scores(q, k), attention.split("v")))


def normalized(attention: Attention) -> onnx.ModelProto:
    """Behind a Softmax the channels of a head are one, and heads are a batch."""
    q, k = (attention.net.node("Softmax", attention.split(name), axis=-1) for name in "qk")
    return attention.build(attention.attended(attention.scores(q, k), attention.split("v")))


def an_output(attention: Attention) -> onnx.ModelProto:
    queries = attention.split("q")
    scores = attention.scores(queries, attention.split("k"))
    return attention.build(attention.attended(scores, attention.split("v")), queries)


def made_of_the_other(attention: Attention) -> onnx.ModelProto:
    """Keys that the queries are part of."""
    queries = attention.split("q")
    keys = attention.net.node("Add", attention.split("k"), queries)
    return attention.build(attention.attended(attention.scores(queries, keys), attention.split("v")))


STAY: dict[Build, str] = {
    itself: "is read by a MatMul, which multiplies two tensors that both depend on data",
    both_behind_functions: "is read by a MatMul, which multiplies two tensors that both depend on data",
    normalized: "varies along a batch axis at a MatMul",
    an_output: "is an output of the model",
    made_of_the_other: "is read by a MatMul, which multiplies two tensors that both depend on data",
}


@pytest.mark.parametrize("build", STAY)
def test_what_stays_with_a_reason(build: Build) -> None:
    model = build(Attention().copy("q", [(c, m, abs(r)) for c, m, r in COPIES]))
    condensed(model, {"q": 2 * WIDTH})
    reasons = {str(refusal.reason) for refusal in analyze(model).refusals if "q" in refusal.layers}
    assert reasons == {STAY[build]}


@pytest.mark.parametrize("merge", ["auto", "ratio", "delete", "moments"])
def test_thresholds(merge: str) -> None:
    """The surgery is exact, whatever is merged."""
    model = Attention(seed=3).copy("k").model()
    small = condense(model, Options(threshold=0.6, align=1, merge=merge)).model
    found = widths(small)
    assert found["q"] == found["k"] < 2 * WIDTH


def test_a_product_in_space() -> None:
    """Channels of a Conv, added up over pairs of places."""
    net = Net()
    rows = {name: net.normal(6, 3, 1, 1) for name in "qk"}
    rows["k"][4] = 0.7 * rows["k"][1]
    q, k = (net.node("Reshape", net.conv(n, net.input(2, 3, 4, 4, name=n), rows[n]), net.ints(2, 6, 16)) for n in "qk")
    scores = net.node("MatMul", net.node("Transpose", q, perm=[0, 2, 1]), k)
    condensed(net.build(net.node("Softmax", scores)), {"q": 5, "k": 5})


def rotated(attention: Attention, data: str, halves: bool, frequencies: Sequence[float]) -> str:
    """[batch, heads, places, width] with pairs turned by angles that grow with the place: RoPE, in both forms."""
    net, half = attention.net, WIDTH // 2
    angles = np.arange(PLACES)[:, None] * np.array(frequencies)[None]
    if halves:
        cos, sin = (net.constant(np.concatenate([f(angles)] * 2, axis=1)) for f in (np.cos, np.sin))
        first = net.node("Slice", data, net.ints(0), net.ints(half), net.ints(3))
        second = net.node("Slice", data, net.ints(half), net.ints(WIDTH), net.ints(3))
        turned = net.node("Concat", net.node("Neg", second), first, axis=3)
        return net.node("Add", net.node("Mul", data, cos), net.node("Mul", turned, sin))
    shaped = net.node("Reshape", data, net.ints(0, 2, PLACES, half, 2))
    a, b = net.multiple("Split", shaped, net.ints(1, 1), outputs=2, axis=-1)
    cos, sin = (net.constant(f(angles)[:, :, None]) for f in (np.cos, np.sin))
    first = net.node("Sub", net.node("Mul", a, cos), net.node("Mul", b, sin))
    second = net.node("Add", net.node("Mul", a, sin), net.node("Mul", b, cos))
    return net.node("Reshape", net.node("Concat", first, second, axis=-1), net.ints(0, 2, PLACES, WIDTH))


def stepping(attention: Attention, name: str, frequencies: Sequence[float]) -> str:
    """The same of pairs side by side, by every second channel and as many rows of a table as there are places."""
    net, half = attention.net, WIDTH // 2
    angles = np.arange(PLACES + 3)[:, None, None] * np.array(frequencies)
    end = net.node("Gather", net.node("Shape", attention.x), net.ints(1))
    cos, sin = (net.node("Slice", net.constant(f(angles)), net.ints(0), end, net.ints(0)) for f in (np.cos, np.sin))
    data, last = net.node("Reshape", attention.made(name), net.ints(-1, PLACES, 2, WIDTH)), net.ints(2**63 - 1)
    a, b = (net.node("Slice", data, net.ints(first), last, net.ints(3), net.ints(2)) for first in (0, 1))
    first = net.node("Sub", net.node("Mul", a, cos), net.node("Mul", b, sin))
    second = net.node("Add", net.node("Mul", a, sin), net.node("Mul", b, cos))
    parts = (net.node("Unsqueeze", part, net.ints(-1)) for part in (first, second))
    shape = net.ints(-1, PLACES, 2, 2 * half)
    return net.node("Transpose", net.node("Reshape", net.node("Concat", *parts, axis=-1), shape), perm=[0, 2, 1, 3])


def with_rotations(attention: Attention, form: str, frequencies: Sequence[float]) -> onnx.ModelProto:
    if form == "steps":
        q, k = (stepping(attention, name, frequencies) for name in "qk")
    else:
        q, k = (rotated(attention, attention.split(name), form == "halves", frequencies) for name in "qk")
    return attention.build(attention.attended(attention.scores(q, k), attention.split("v")))


def test_pairs_that_data_rotate_stay() -> None:
    """The angles are an input, which has a number for each pair."""
    attention = Attention().copy("k")
    net, half, turned = attention.net, WIDTH // 2, []
    cos, sin = (net.input(PLACES, half, name=name) for name in ("cos", "sin"))
    for name in "qk":
        a, b = net.multiple("Split", attention.split(name), net.ints(half, half), outputs=2, axis=-1)
        first = net.node("Sub", net.node("Mul", a, cos), net.node("Mul", b, sin))
        second = net.node("Add", net.node("Mul", a, sin), net.node("Mul", b, cos))
        turned.append(net.node("Concat", first, second, axis=-1))
    model = attention.build(attention.attended(attention.scores(*turned), attention.split("v")))
    condensed(model, {"q": 2 * WIDTH, "k": 2 * WIDTH})
    (refusal,) = (refusal for refusal in analyze(model).refusals if "q" in refusal.layers)
    assert str(refusal.reason).startswith("has one channel only in a group or head")


def pair(number: int, form: str) -> tuple[int, int]:
    return (number, number + WIDTH // 2) if form.endswith("halves") else (2 * number, 2 * number + 1)


FAST, ALIKE = (1.0, 0.3, 0.1), (0.5, 0.5, 0.5)


@pytest.mark.parametrize("form", ["halves", "sides", "steps"])
@pytest.mark.parametrize(
    ("frequencies", "ratios", "left"),
    [
        (FAST, (0.0, 0.0), 4),
        (ALIKE, (1.7, 1.7), 4),
        (FAST, (1.7, 1.7), 6),
        (FAST, (1.0, 0.0), 6),
        (ALIKE, (1.7, 0.6), 6),
    ],
    ids=["dead", "copies", "of another frequency", "half dead", "apart"],
)
def test_rotated_pairs_go_as_a_whole(
    form: str, frequencies: Sequence[float], ratios: tuple[float, float], left: int
) -> None:
    """Other pairs in each head; what is turned by other angles is no copy."""
    attention = Attention()
    for head, (number, main) in enumerate([(0, 1), (2, 1)]):
        for ratio, one, other in zip(ratios, pair(number, form), pair(main, form), strict=True):
            for values in (attention.rows["k"], attention.bias["k"]):
                values[head * WIDTH + one] = ratio * values[head * WIDTH + other]
    if ratios == (1.0, 0.0):
        attention.rows["k"][list(pair(0, form)[:1])] += 1
    condensed(with_rotations(attention, form, frequencies), {"q": 2 * left, "k": 2 * left})


def of_any_length(attention: Attention, form: str) -> onnx.ModelProto:
    """Tables of which as many rows are taken as there are places."""
    net = attention.net
    net.inputs[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "length", INPUTS]))
    end = net.node("Gather", net.node("Shape", "x"), net.ints(1))
    angles, last = np.arange(40)[:, None] * np.array(FAST), net.ints(2**63 - 1)
    angles = np.concatenate([angles] * 2, axis=1) if form == "halves" else angles[:, None]

    def taken(table: Array) -> str:
        rows = net.node("Slice", net.constant(table), net.ints(0), end, net.ints(0))
        return net.node("Unsqueeze", rows, net.ints(0, 1)) if form == "halves" else rows

    cos, sin = taken(np.cos(angles)), taken(np.sin(angles))

    made = {name: net.node("Reshape", attention.made(name), net.ints(0, -1, 2, WIDTH)) for name in "qkv"}

    def halves(name: str) -> str:
        data = net.node("Transpose", made[name], perm=[0, 2, 1, 3])
        a, b = net.multiple("Split", data, net.ints(WIDTH // 2, WIDTH // 2), outputs=2, axis=3)
        turned = net.node("Concat", net.node("Neg", b), a, axis=3)
        return net.node("Add", net.node("Mul", data, cos), net.node("Mul", turned, sin))

    def steps(name: str) -> str:
        a, b = (net.node("Slice", made[name], net.ints(at), last, net.ints(3), net.ints(2)) for at in (0, 1))
        first = net.node("Sub", net.node("Mul", a, cos), net.node("Mul", b, sin))
        second = net.node("Add", net.node("Mul", a, sin), net.node("Mul", b, cos))
        parts = (net.node("Unsqueeze", part, net.ints(-1)) for part in (first, second))
        whole = net.node("Reshape", net.node("Concat", *parts, axis=-1), net.ints(0, -1, 2, WIDTH))
        return net.node("Transpose", whole, perm=[0, 2, 1, 3])

    q, k = ((halves if form == "halves" else steps)(name) for name in "qk")
    values = net.node("Transpose", made["v"], perm=[0, 2, 1, 3])
    summed = net.node("MatMul", net.node("Softmax", attention.scores(q, k), axis=-1), values)
    turned = net.node("Transpose", summed, perm=[0, 2, 1, 3])
    return attention.build(net.node("Reshape", turned, net.ints(0, -1, 2 * WIDTH)))


def by_operators(attention: Attention, form: str) -> onnx.ModelProto:
    """By RotaryEmbedding and an attention of onnxruntime, or of operator set 23."""
    net, standard = attention.net, form.startswith("standard")
    angles = np.arange(40)[:, None] * np.array(FAST)
    tables = net.constant(np.cos(angles)), net.constant(np.sin(angles))
    how = {"interleaved": int(not form.endswith("halves"))}
    if standard:
        net.opset = 23
        net.inputs.append(helper.make_tensor_value_info("at", TensorProto.INT64, ["batch", PLACES]))
    parts = [attention.made(name) for name in "qkv"]
    for side in (0, 1):
        if standard:
            parts[side] = net.node("RotaryEmbedding", parts[side], *tables, "at", num_heads=2, **how)
        else:
            given = parts[side], net.ints(0), *tables
            parts[side] = net.node("RotaryEmbedding", *given, domain="com.microsoft", **how)
    if standard:
        return attention.build(net.node("Attention", *parts, q_num_heads=2, kv_num_heads=2))
    return shaped(attention.build(net.node("MultiHeadAttention", *parts, num_heads=2, domain="com.microsoft")))


@pytest.mark.parametrize("form", ["fused halves", "fused sides", "standard halves"])
@pytest.mark.parametrize(("dead", "left"), [((1, 1), 4), ((1, 2), 6)])
def test_operators_that_rotate_keep_the_same_pairs_in_all_heads(form: str, dead: tuple[int, int], left: int) -> None:
    attention = Attention()
    for head, number in enumerate(dead):
        for values in (attention.rows["k"], attention.bias["k"]):
            values[[head * WIDTH + channel for channel in pair(number, form)]] = 0
    condensed(by_operators(attention, form), {"q": 2 * left, "k": 2 * left})


@pytest.mark.parametrize("form", ["halves", "steps"])
@pytest.mark.parametrize(("dead", "left"), [((1, 1), 4), ((1, 2), 6)])
def test_rows_of_a_table_are_taken_once_for_all_heads(form: str, dead: tuple[int, int], left: int) -> None:
    attention = Attention()
    for head, number in enumerate(dead):
        for values in (attention.rows["k"], attention.bias["k"]):
            values[[head * WIDTH + channel for channel in pair(number, form)]] = 0
    model = of_any_length(attention, form)
    small = condensed(model, {"q": 2 * left, "k": 2 * left})
    longer = {"x": attention.normal(2, 23, INPUTS)}
    np.testing.assert_allclose(run(small, longer)[0], run(model, longer)[0], atol=1e-5)


@pytest.mark.parametrize("form", ["halves", "steps"])
def test_budgets_take_whole_pairs(form: str) -> None:
    attention = Attention(seed=4)
    for head in range(2):
        attention.rows["k"][[head * WIDTH + channel for channel in pair(head, form)]] *= 1e-3
        attention.bias["k"][[head * WIDTH + channel for channel in pair(head, form)]] *= 1e-3
    model = with_rotations(attention, form, FAST)
    small = condense(model, Options(budget=("params", 0.95), align=1, exclude=("v", "o"))).model
    assert {name: widths(small)[name] for name in "qk"} == {"q": 2 * 4, "k": 2 * 4}
    assert_close(model, small, 1e-2)
