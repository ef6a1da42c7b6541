"""What products of data take up of channels that go."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.attention import WIDTH, Attention, head_by_head
from support.planted.net import run, signed_feed, widths

from onnx_condense import Options, Plan, condense, rewrite
from onnx_condense.errors import PlanError

RANK = 4


def dependent(heads: dict[str, int], side: str) -> onnx.ModelProto:
    """Channels of one side are combinations of four in every head, and no copies of each other."""
    attention = Attention(heads, seed=2)
    fewest = min(heads.values())
    mixtures = [attention.normal(WIDTH, RANK) for _ in range(fewest)]
    for head in range(heads[side]):
        rows = slice(head * WIDTH, (head + 1) * WIDTH)
        for values in (attention.rows[side], attention.bias[side]):
            values[rows] = mixtures[head * fewest // heads[side]] @ values[rows][:RANK]
    return attention.model()


def error(model: onnx.ModelProto, small: onnx.ModelProto) -> float:
    feed = signed_feed(model, seed=9, batch=32)
    (expected,), (found,) = run(model, feed), run(small, feed)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("heads", [{"q": 2, "k": 2, "v": 2}, {"q": 4, "k": 1, "v": 1}])
@pytest.mark.parametrize("side", ["q", "k"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_a_budget_finds_the_rank_of_a_side(heads: dict[str, int], side: str, calibrated: bool) -> None:
    model = dependent(heads, side)
    given = signed_feed(model, seed=3, batch=40) if calibrated else None
    whole = sum(prod(tensor.dims) for tensor in model.graph.initializer)
    share = 1 - 0.9 * (WIDTH - RANK) * (heads["q"] + heads["k"]) * 10 / whole
    found = condense(model, Options(budget=("params", share), align=1, calibration=given, exclude=("v", "o")))
    assert widths(found.model)["q"] == heads["q"] * RANK
    assert bool(found.plan.rotations) == calibrated  # inputs turn both sides into the basis of their product
    assert error(model, found.model) < (1e-5 if calibrated else 5e-3)
    assert calibrated or [mix.source for mix in found.plan.mixes] == ["weights"]


def test_heads_apart_may_keep_different_numbers() -> None:
    """A product for each head: the first one has keys of rank four, the other one of six."""
    attention = Attention(seed=2)
    for values in (attention.rows["k"], attention.bias["k"]):
        values[:WIDTH] = attention.normal(WIDTH, RANK) @ values[:RANK] * 0.5
    model = head_by_head(attention)
    found = condense(model, Options(budget=("params", 0.97), align=1, exclude=("v", "o")))
    assert found.plan.mixes
    assert widths(found.model)["k"] < 2 * WIDTH
    assert error(model, found.model) < 5e-2


def test_what_is_taken_up_is_in_the_plan(tmp_path: Path) -> None:
    model = dependent({"q": 2, "k": 2, "v": 2}, "k")
    found = condense(model, Options(budget=("params", 0.9), align=1))
    found.plan.save(tmp_path / "plan.json")
    plan = Plan.load(tmp_path / "plan.json")
    assert plan.mixes == found.plan.mixes != ()
    assert rewrite(model, plan).SerializeToString() == found.model.SerializeToString()
    (mix,) = plan.mixes
    for damaged in (replace(mix, matrix=mix.matrix[1:]), replace(mix, matrix=mix.matrix[:, 1:]), replace(mix, group=7)):
        with pytest.raises(PlanError, match="does not fit"):
            rewrite(model, replace(plan, mixes=(damaged,)))


def test_rows_that_took_up_others_become_no_pair_of_factors() -> None:
    """Keys of an exactly low rank, of which channels go as well."""
    attention = Attention(seed=5)
    attention.rows["k"] = attention.normal(2 * WIDTH, 2) @ attention.normal(2, 9)
    model = attention.copy("q").model()
    assert error(model, condense(model, Options(lossless=True, align=1)).model) < 2e-5
    assert widths(condense(model, Options(budget=("params", 0.8), align=1)).model)["q"] < 2 * WIDTH
