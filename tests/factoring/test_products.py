"""Queries and keys in another basis: what varies least in their products goes, where any basis will do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.attention import INPUTS, PLACES, WIDTH, Attention, head_by_head
from support.attention_forms import ALIKE, FAST, fused, repeated, separate, with_rotations

import onnx_condense as oc
from onnx_condense import Options
from onnx_condense.arrays import Array
from onnx_condense.merging.judging import Judgement, judge
from onnx_condense.merging.methods import Manner
from onnx_condense.merging.twin import Twin
from onnx_condense.model.protos import serialize
from onnx_condense.planning import thresholds
from onnx_condense.proving.compare import compare, results
from onnx_condense.tracing.trace import Group


def planted(**heads: int) -> Attention:
    """Queries that vary less and less along directions which no channel lies on."""
    found, generator = Attention(**({"heads": heads} if heads else {})), np.random.default_rng(5)
    for head in range(found.heads["q"]):
        turn = np.linalg.qr(generator.standard_normal((WIDTH, WIDTH)))[0]
        fall, mine = turn @ np.diag(2.0 * 0.3 ** np.arange(WIDTH)) @ turn.T, slice(head * WIDTH, (head + 1) * WIDTH)
        for values in (found.rows["q"], found.bias["q"]):
            values[mine] = fall @ values[mine]
    return found


def data(model: onnx.ModelProto, count: int, seed: int) -> dict[str, Array]:
    values = np.random.default_rng(seed).standard_normal((count, PLACES, INPUTS))
    return {model.graph.input[0].name: values.astype(np.float32)}


def options(model: onnx.ModelProto) -> Options:
    return Options(budget=("params", 0.8), align=1, calibration=data(model, 96, 1))


def error(model: onnx.ModelProto, smaller: onnx.ModelProto) -> float:
    feeds = [data(model, 64, 9)]
    return compare(results(model, feeds), results(smaller, feeds)).error


@pytest.mark.parametrize(
    ("form", "heads", "sizes"),
    [(separate, {}, [12]), (fused, {}, [12, 36, 36]), (repeated, {"q": 4, "k": 2, "v": 2}, [24, 12])],
    ids=["separate", "fused", "shared keys"],
)
def test_what_varies_least_goes(
    form: Callable[[Attention], onnx.ModelProto], heads: dict[str, int], sizes: list[int]
) -> None:
    model = form(planted(**heads))
    turned, plain = (oc.condense(model, replace(options(model), widths_only=alone)) for alone in (False, True))
    assert [rotation.rank for rotation in turned.plan.rotations] == sizes
    assert error(model, turned.model) < 0.8 * error(model, plain.model)
    verification = turned.report.verification
    assert verification is not None
    assert verification.surgery_error < 1e-5


def test_replayed_it_is_the_same(tmp_path: Path) -> None:
    model = fused(planted())
    result = oc.condense(model, options(model))
    result.plan.save(tmp_path / "p.json")
    assert serialize(oc.rewrite(model, oc.Plan.load(tmp_path / "p.json"))) == serialize(result.model)


@pytest.mark.parametrize("frequencies", [FAST, ALIKE])
def test_rotations_by_places_bind_channels(frequencies: tuple[float, ...]) -> None:
    model = with_rotations(planted(), "halves", frequencies)
    assert not oc.condense(model, options(model)).plan.rotations


def test_what_multiplies_channels_binds_them() -> None:
    attention = planted()
    net, scale = attention.net, np.linspace(0.5, 2.0, 2 * WIDTH)
    queries = attention.by_head(net.node("Mul", attention.made("q"), net.constant(scale)), 2)
    model = attention.build(attention.attended(attention.scores(queries, attention.split("k")), attention.split("v")))
    assert not oc.condense(model, options(model)).plan.rotations


EXACT = Options(lossless=True, align=1)
GROUPED = {"q": 4, "k": 2, "v": 2}


def low(side: str, ranks: tuple[int, ...], heads: dict[str, int] | None = None) -> Attention:
    """Queries or keys whose heads write in so many directions, which no channel lies on."""
    found, generator = Attention(**({"heads": heads} if heads else {})), np.random.default_rng(3)
    for head, rank in enumerate(ranks):
        directions, mine = generator.standard_normal((WIDTH, rank)), slice(head * WIDTH, (head + 1) * WIDTH)
        onto = directions @ np.linalg.pinv(directions)
        for values in (found.rows[side], found.bias[side]):
            values[mine] = onto @ values[mine]
    return found


@pytest.mark.parametrize(
    ("form", "attention", "left"),
    [
        (separate, low("q", (4, 4)), 8),
        (separate, low("k", (2, 5)), 10),
        (fused, low("k", (4, 3)), 8),
        (head_by_head, low("q", (3, 3)), 6),
        (repeated, low("k", (4, 4), GROUPED), 8),
    ],
    ids=["queries", "uneven", "fused", "head by head", "shared keys"],
)
def test_directions_that_one_side_never_writes_to_go(
    form: Callable[[Attention], onnx.ModelProto], attention: Attention, left: int, tmp_path: Path
) -> None:
    model = form(attention)
    result = oc.condense(model, EXACT)
    assert sum(len(group.keep) for group in result.plan.groups) == left
    assert error(model, result.model) < 1e-5
    result.plan.save(tmp_path / "p.json")
    assert serialize(oc.rewrite(model, oc.Plan.load(tmp_path / "p.json"))) == serialize(result.model)


def test_what_both_sides_fill_stays() -> None:
    assert not oc.condense(separate(low("q", (6, 4))), EXACT).changed, "heads lose equally many"
    assert not oc.condense(separate(low("q", (4, 4))), replace(EXACT, widths_only=True)).changed
    assert not oc.condense(with_rotations(low("q", (4, 4)), "halves", FAST), EXACT).changed


def test_what_both_sides_fill_is_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ...]] = []

    def watched(twin: Twin, group: Group, manner: Manner) -> Judgement:
        seen.append(group.layers)
        return judge(twin, group, manner)

    monkeypatch.setattr(thresholds, "judge", watched)
    oc.condense(separate(Attention()), EXACT)
    assert len(seen) == len(set(seen)) > 1


def test_copies_need_no_basis() -> None:
    result = oc.condense(separate(Attention().copy("q")), EXACT)
    assert result.changed
    assert not result.plan.rotations


@pytest.mark.parametrize("idle", [[12], [-1], [0.5], ["a"]])
def test_idle_channels_of_a_damaged_plan_are_noticed(idle: list[object], tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    oc.condense(separate(low("q", (4, 4))), EXACT).plan.save(path)
    content = json.loads(path.read_text())
    content["rotations"][0]["idle"] = idle
    path.write_text(json.dumps(content))
    with pytest.raises(oc.PlanError, match="damaged"):
        oc.Plan.load(path)
