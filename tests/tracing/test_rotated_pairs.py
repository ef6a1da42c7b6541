"""Queries and keys that are rotated by their places: whole pairs leave, in every form and in all heads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from support.attention import INPUTS, PLACES, WIDTH, Attention
from support.attention_forms import ALIKE, FAST, by_operators, of_any_length, pair, with_rotations
from support.lossless import condensed
from support.planted.net import assert_close, run, widths

from onnx_condense import Options, analyze, condense


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
