"""--ensure-faster, with a measurement that says which groups are slow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import builders
from support.cli import OUT, Cli, Save, read, widths

import onnx_condense as oc
from onnx_condense.planning import never_slower as faster
from onnx_condense.planning.never_slower import MOST, settle
from onnx_condense.timing.race import Interval

TOP = 2
"""The highest of three rungs: the group stays as it was."""


# ---------------------------------------------------------------------- the search


class Slow:
    """Groups that are slow below a rung."""

    def __init__(self, below: Mapping[int, int]) -> None:
        self.below = below
        self.tried: list[dict[int, int]] = []

    def passes(self, choice: Mapping[int, int]) -> bool:
        self.tried.append(dict(choice))
        return all(choice.get(index, 0) >= rung for index, rung in self.below.items())


def test_what_is_not_slower_stays_as_planned() -> None:
    slow = Slow({})
    assert settle(range(10), 3, slow.passes) == dict.fromkeys(range(10), 0)
    assert len(slow.tried) == 1


def test_only_the_slow_groups_are_widened() -> None:
    slow = Slow({3: 1, 7: 1})
    assert settle(range(10), 3, slow.passes) == dict.fromkeys(range(10), 0) | {3: 1, 7: 1}
    assert len(slow.tried) <= 16


def test_what_stays_slow_when_wider_is_rolled_back() -> None:
    slow = Slow({3: 1, 7: TOP})
    assert settle(range(10), 3, slow.passes) == dict.fromkeys(range(10), 0) | {3: 1, 7: TOP}


def test_where_every_group_is_slow_the_original_is_left() -> None:
    slow = Slow(dict.fromkeys(range(5), TOP))
    assert settle(range(5), 3, slow.passes) == dict.fromkeys(range(5), TOP)


def test_the_original_is_never_measured() -> None:
    slow = Slow(dict.fromkeys(range(5), TOP))
    settle(range(5), 3, slow.passes)
    assert all(min(tried.values(), default=0) < TOP for tried in slow.tried)


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 39), st.integers(0, TOP)), st.integers(1, 40))
def test_the_search_finds_exactly_the_slow_groups(below: dict[int, int], count: int) -> None:
    slow = Slow({index: rung for index, rung in below.items() if index < count})
    found = settle(range(count), 3, slow.passes)
    assert found == {index: slow.below.get(index, 0) for index in range(count)}
    assert len({tuple(sorted(t.items())) for t in slow.tried}) <= 3 + 4 * count


# ---------------------------------------------------------------------- the whole, on a scripted clock

Rule = Callable[[dict[str, int], int], float]
"""From the widths of the candidate's convolutions and the batch size to its latency over the original's."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`rule` says how slow a candidate is, `spread` how wide the interval; `measured` is what was asked for."""
    told = SimpleNamespace(rule=lambda wide, batch: 1.0, spread=0.005, measured=[])

    def compare(pair: Any, feeds: Any, threads: int, seconds: float) -> Any:
        found = {w.name: w.dims[0] for w in onnx.load(pair[1]).graph.initializer if len(w.dims) == 4}
        batch = len(next(iter(feeds[0].values())))
        told.measured.append((threads, batch, found))
        ratio = told.rule(found, batch)
        interval = Interval(ratio, ratio * (1 - told.spread), ratio * (1 + told.spread))
        return SimpleNamespace(ratio=lambda model: interval)

    monkeypatch.setattr(faster, "compare_latency", compare)
    monkeypatch.setattr(faster, "block_width", lambda: 16)
    monkeypatch.setattr(faster.os, "cpu_count", lambda: 2)
    return told


def network(**options: Any) -> onnx.ModelProto:
    """Three convolutions of 48 channels in five directions each."""
    return builders.convnet((3, 48, 48, 48), clusters=5, **options)


FAST = ("--align", "1", "--ensure-faster")


def odd(*names: str) -> Rule:
    """Slow where these widths are no multiple of 16."""
    return lambda wide, batch: 1.5 if any(wide[name] % 16 for name in names) else 0.7


def test_nothing_is_undone_without_need(cli: Cli, save: Save, script: SimpleNamespace) -> None:
    save(network())
    out = cli.ok("m.onnx", *FAST, "--report", "r.json").out
    assert {after for _, after in widths("r.json").values()} == {5}
    latency = read("r.json")["latency"]
    assert latency["widened"] == latency["rolled_back"] == []
    assert latency["candidates"] == 1
    assert "Latency at batch 8, 1 thread: 1.000 (0.995 to 1.005) of the original's." in out


def test_every_setup_is_measured(script: SimpleNamespace) -> None:
    result = oc.condense(network(), oc.Options(align=1, ensure_faster=True))
    assert sorted(m[:2] for m in script.measured) == [(0, 1), (0, 8), (1, 1), (1, 8)]
    assert result.report.latency is not None
    assert sorted((s.threads, s.batch) for s in result.report.latency.setups) == [(0, 1), (0, 8), (1, 1), (1, 8)]


def test_a_fixed_batch_is_the_only_one(script: SimpleNamespace) -> None:
    oc.condense(network(batch="3"), oc.Options(align=1, ensure_faster=True))
    assert {batch for _, batch, _ in script.measured} == {3}


def test_without_the_option_nothing_is_measured(script: SimpleNamespace) -> None:
    assert oc.condense(network(), oc.Options(align=1)).report.latency is None
    assert not script.measured


def test_slow_groups_are_widened(cli: Cli, save: Save, script: SimpleNamespace) -> None:
    script.rule = odd("w1")
    save(network())
    out = cli.ok("m.onnx", *FAST, "--report", "r.json").out
    assert [after for _, after in widths("r.json").values()] == [5, 16, 5]
    assert read("r.json")["latency"]["widened"] == ["conv1"]
    assert "Widened, because it made the model slower: conv1." in out
    assert read("r.json")["alignment"]["advice"] is None, "--align 1 would not undo it"


def test_slow_groups_are_rolled_back_where_widening_does_not_help(
    cli: Cli, save: Save, script: SimpleNamespace
) -> None:
    script.rule = lambda wide, batch: 1.2 if wide["w0"] < 48 and batch == 8 else 0.9
    save(network())
    out = cli.ok("m.onnx", *FAST, "--report", "r.json").out
    assert [after for _, after in widths("r.json").values()] == [48, 5, 5]
    assert read("r.json")["latency"]["rolled_back"] == ["conv0"]
    assert "Rolled back, because it made the model slower: conv0." in out


def test_the_original_is_returned_where_nothing_helps(cli: Cli, save: Save, script: SimpleNamespace) -> None:
    script.rule = lambda wide, batch: 1.5
    save(network())
    out = cli.ok("m.onnx", *FAST, "--report", "r.json", "--plan", "p.json").out
    assert Path(OUT).read_bytes() == Path("m.onnx").read_bytes()
    assert "Every reduction made it slower" in out
    report = read("r.json")
    assert report["output"]["sha256"] == report["input"]["sha256"]
    assert report["latency"]["setups"] == []
    assert read("p.json")["groups"] == []


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        ((), odd("w0", "w2")),
        ((), lambda wide, batch: 1.5 if wide["w1"] < 48 else 0.9),
        (("--lossless",), odd("w1")),
        (("--sequential",), lambda wide, batch: 1.5 if wide["w0"] < 48 else 0.9),
        (("--tolerance", "0.05"), odd("w1")),
    ],
)
def test_the_plan_replays_without_measuring(
    cli: Cli, save: Save, script: SimpleNamespace, method: tuple[str, ...], rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.rule = rule
    save(network(ratios=False, noise=0.0 if method == ("--lossless",) else 0.05))
    cli.ok("m.onnx", *FAST, *method, "--plan", "p.json")
    monkeypatch.delattr(faster, "compare_latency")
    monkeypatch.setattr(faster, "block_width", lambda: 8)
    cli.ok("m.onnx", "--replay", "p.json", "-o", "again.onnx")
    assert Path("again.onnx").read_bytes() == Path(OUT).read_bytes() != Path("m.onnx").read_bytes()


def test_a_dry_run_measures_and_writes_the_plan_alone(cli: Cli, save: Save, script: SimpleNamespace) -> None:
    script.rule = odd("w1")
    save(network())
    assert cli.ok("m.onnx", *FAST, "--dry-run", "--plan", "p.json").written == {"p.json"}
    cli.ok("m.onnx", *FAST)
    cli.ok("m.onnx", "--replay", "p.json", "-o", "again.onnx")
    assert Path("again.onnx").read_bytes() == Path(OUT).read_bytes()


def test_narrower_but_slower_than_what_was_reached_is_undone_too(script: SimpleNamespace) -> None:
    """conv1 at an odd width is slow; conv2's odd width costs a third, which the original's latency would still hide."""
    script.rule = lambda wide, batch: 1.5 if wide["w1"] % 16 else (0.9 if wide["w2"] % 16 else 0.6)
    result = oc.condense(network(), oc.Options(align=1, ensure_faster=True))
    assert [g.width_after for g in result.report.groups] == [5, 16, 16]


def test_what_passed_by_luck_is_measured_once_more(script: SimpleNamespace) -> None:
    seen: dict[tuple[int, ...], int] = {}

    def rule(wide: dict[str, int], batch: int) -> float:
        key = (*wide.values(), batch)
        seen[key] = seen.get(key, 0) + 1
        return 1.5 if wide["w1"] % 16 or seen[key] > 2 else 0.9

    script.rule = rule
    result = oc.condense(network(), oc.Options(align=1, ensure_faster=True))
    assert not result.changed
    assert result.report.latency is not None
    assert len(result.report.latency.rolled_back) == 3


def test_an_unstable_measurement_warns(cli: Cli, save: Save, script: SimpleNamespace) -> None:
    script.spread = 0.3
    save(network())
    assert "too unstable" in cli.ok("m.onnx", *FAST).err


def test_a_candidate_that_does_not_run_is_an_error(
    cli: Cli, save: Save, script: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*arguments: Any) -> Any:
        raise oc.InputError("onnxruntime cannot run the model on these inputs")

    monkeypatch.setattr(faster, "compare_latency", refuses)
    save(network())
    assert "report this model" in cli.fails(1, "m.onnx", *FAST)


def test_a_slower_result_is_shown_only_beyond_the_margin(script: SimpleNamespace) -> None:
    for ratio, kept in ((1.02, 5), (1.024, 5), (1.03, 48)):
        script.rule = lambda wide, batch, ratio=ratio: ratio if min(wide.values()) < 48 else 1.0
        result = oc.condense(network(), oc.Options(align=1, ensure_faster=True))
        assert {g.width_after for g in result.report.groups} == {kept}, ratio


def test_the_number_of_measurements_is_bounded(script: SimpleNamespace) -> None:
    generator = np.random.default_rng(0)
    script.rule = lambda wide, batch: float(generator.choice([0.9, 1.5]))
    result = oc.condense(builders.mlp([8, *[12] * 12, 3], clusters=5), oc.Options(ensure_faster=True))
    assert result.report.latency is not None
    assert result.report.latency.candidates <= MOST + 1


def test_lossless_stays_exact_when_an_earlier_layer_is_rolled_back(script: SimpleNamespace) -> None:
    """Rows of later layers may only be collinear once the earlier layer has merged: they are judged anew."""
    script.rule = lambda wide, batch: 1.5 if wide["w0"] < 48 else 0.9
    result = oc.condense(network(ratios=False), oc.Options(lossless=True, align=1, ensure_faster=True))
    assert result.report.groups[0].width_after == 48
    assert result.report.verification is not None
    assert result.report.verification.approximation_error < 1e-5


@pytest.mark.parametrize("options", [("--align-for", "avx2"), ("--replay", "p.json")])
def test_options_that_do_not_go_together(cli: Cli, save: Save, options: tuple[str, ...]) -> None:
    save(network())
    cli.ok("m.onnx", "--align", "1", "--plan", "p.json")
    assert "--ensure-faster" in cli.fails(2, "m.onnx", "--ensure-faster", "-o", "other.onnx", *options)


def test_a_real_measurement(cli: Cli, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faster, "SECONDS", 0.2)
    save(builders.mlp((64, 512, 512, 3), clusters=8))
    cli.ok("m.onnx", "--ensure-faster", "--report", "r.json")
    latency = read("r.json")["latency"]
    assert latency["candidates"] >= 1
    assert all(setup["low"] <= setup["ratio"] <= setup["high"] for setup in latency["setups"])


# ---------------------------------------------------------------------- budgets


def test_a_budget_that_is_not_slower_is_met(script: SimpleNamespace) -> None:
    result = oc.condense(network(), oc.Options(align=1, budget=("params", 0.5), ensure_faster=True))
    alone = oc.condense(network(), oc.Options(align=1, budget=("params", 0.5)))
    assert result.report.output is not None
    assert result.report.output.parameters <= 0.5 * result.report.input.parameters
    assert [len(g.keep) for g in result.plan.groups] == [len(g.keep) for g in alone.plan.groups]
    assert not result.report.warnings


@pytest.mark.parametrize("rule", [odd("w1"), lambda wide, batch: 1.5 if wide["w1"] < 48 else 0.7])
def test_what_a_budget_makes_slower_is_widened_or_rolled_back(script: SimpleNamespace, rule: Rule) -> None:
    script.rule = rule
    result = oc.condense(network(), oc.Options(align=1, budget=("macs", 0.3), ensure_faster=True))
    alone = oc.condense(network(), oc.Options(align=1, budget=("macs", 0.3)))
    found = {w.name: w.dims[0] for w in result.model.graph.initializer if len(w.dims) == 4}
    planned = {w.name: w.dims[0] for w in alone.model.graph.initializer if len(w.dims) == 4}
    assert planned["w1"] % 16
    assert rule(found, 1) < 1
    assert {n: k for n, k in found.items() if n != "w1"} == {n: k for n, k in planned.items() if n != "w1"}
    assert any("--budget" in warning for warning in result.report.warnings)
