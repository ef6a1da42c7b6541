"""Queries and keys: copies leave both sides of a product of data, and what cannot be taken up stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from support.attention import COPIES, PLACES, WIDTH, Attention, head_by_head
from support.attention_forms import (
    Build,
    apart,
    beside,
    equations,
    fused,
    of_given_values,
    repeated,
    separate,
)
from support.lossless import condensed
from support.planted.net import (
    Net,
    assert_close,
    widths,
)

from onnx_condense import Options, analyze, condense
from onnx_condense.merging.plan import Plan

GROUPED = {"q": 4, "k": 2, "v": 2}
ONE_KEY = {"q": 4, "k": 1, "v": 1}


def scaled_before(attention: Attention) -> onnx.ModelProto:
    scale = attention.net.constant(np.float32(0.6))
    sides = (attention.net.node("Mul", attention.split(name), scale) for name in "qk")
    return attention.build(attention.attended(attention.scores(*sides), attention.split("v")))


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


@pytest.mark.parametrize(("inputs", "left"), [(7, 5), (3, 3)], ids=["copies", "few inputs"])
def test_a_product_in_space(inputs: int, left: int) -> None:
    """Channels of a Conv, added up over pairs of places; they lie in no more directions than it has inputs."""
    net = Net()
    rows = {name: net.normal(6, inputs, 1, 1) for name in "qk"}
    rows["k"][4] = 0.7 * rows["k"][1]
    q, k = (
        net.node("Reshape", net.conv(n, net.input(2, inputs, 4, 4, name=n), rows[n]), net.ints(2, 6, 16)) for n in "qk"
    )
    scores = net.node("MatMul", net.node("Transpose", q, perm=[0, 2, 1]), k)
    condensed(net.build(net.node("Softmax", scores)), {"q": left, "k": left})
