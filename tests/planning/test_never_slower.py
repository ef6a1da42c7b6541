"""--ensure-faster, with a measurement that says which groups are slow."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from support import builders
from support.cli import OUT, Cli, Save, read

import onnx_condense as oc
from onnx_condense.cli import condense as command
from onnx_condense.cli.tables import show_report
from onnx_condense.model.inputs import Feed
from onnx_condense.model.protos import serialize
from onnx_condense.pipeline import Surroundings, condense_in
from onnx_condense.planning.hardware import ThisMachine
from onnx_condense.planning.never_slower import MOST, LatencyReport, settle
from onnx_condense.progress import Step
from onnx_condense.timing.race import MedianInterval

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


@given(st.dictionaries(st.integers(0, 39), st.integers(0, TOP)), st.integers(1, 40))
def test_the_search_finds_exactly_the_slow_groups(below: dict[int, int], count: int) -> None:
    slow = Slow({index: rung for index, rung in below.items() if index < count})
    found = settle(range(count), 3, slow.passes)
    assert found == {index: slow.below.get(index, 0) for index in range(count)}
    assert len({tuple(sorted(t.items())) for t in slow.tried}) <= 3 + 4 * count


# ---------------------------------------------------------------------- the whole, on a scripted clock

Rule = Callable[[dict[str, int], int], float]
"""From the widths of the candidate's convolutions and the batch size to its latency over the original's."""


@dataclass
class Scripted:
    """A machine of two cores that blocks by 16. `rule` says how slow a candidate is, `spread` how wide the interval."""

    rule: Rule = lambda wide, batch: 1.0
    spread: float = 0.005
    measured: list[tuple[int, int]] = field(default_factory=list)
    cores: int = 2

    def block_width(self) -> int:
        return 16

    def ratio(self, pair: Sequence[Path], feeds: Sequence[Feed], threads: int, told: Any = None) -> MedianInterval:
        found = {w.name: w.dims[0] for w in onnx.load(pair[1]).graph.initializer if len(w.dims) == 4}
        batch = len(next(iter(feeds[0].values())))
        self.measured.append((threads, batch))
        if told is not None:
            told(2, 24)
        ratio = self.rule(found, batch)
        return MedianInterval(ratio, ratio * (1 - self.spread), ratio * (1 + self.spread))


class Forbidden(ThisMachine):
    """Another host, on which nothing may be measured."""

    def block_width(self) -> int:
        return 8

    def ratio(self, pair: Sequence[Path], feeds: Sequence[Feed], threads: int, told: Any = None) -> MedianInterval:
        raise AssertionError("a replay measures nothing")


def network(**options: Any) -> onnx.ModelProto:
    """Three convolutions of 48 channels in five directions each."""
    return builders.convnet((3, 48, 48, 48), clusters=5, **options)


def faster(script: Scripted, model: onnx.ModelProto | None = None, dry_run: bool = False, **options: Any) -> oc.Result:
    """The model, or three convolutions, never slower."""
    stated = {} if "lossless" in options or "budget" in options else {"threshold": 0.88}
    given = oc.Options(**stated | {"align": 1, "ensure_faster": True} | options)
    return condense_in(Surroundings(hardware=script), model or network(), given, dry_run=dry_run)


def latency_of(result: oc.Result) -> LatencyReport:
    assert result.report.latency is not None
    return result.report.latency


def widths(result: oc.Result) -> list[int]:
    return [group.width_after for group in result.report.groups]


def told(result: oc.Result) -> str:
    """The report as it is shown."""
    console = Console(file=io.StringIO(), width=250)
    show_report(console, result.report)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def odd(*names: str) -> Rule:
    """Slow where these widths are no multiple of 16."""
    return lambda wide, batch: 1.5 if any(wide[name] % 16 for name in names) else 0.7


def test_races_say_how_far_they_are() -> None:
    found: list[str] = []
    options = oc.Options(threshold=0.88, align=1, ensure_faster=True)
    condense_in(Surroundings(found.append, hardware=Scripted()), network(), options)
    steps = [stage for stage in found if isinstance(stage, Step)]
    races = [(step.kind, step.done, step.total) for step in steps if step.kind.startswith("measure")]
    assert races == [(f"measure, race {number}, block", 1, 24) for number in range(1, 5)]


def test_nothing_is_undone_without_need() -> None:
    result = faster(Scripted())
    assert set(widths(result)) == {5}
    latency = latency_of(result)
    assert latency.widened == latency.rolled_back == ()
    assert latency.candidates == 1
    assert "Latency at batch 8, 1 thread: 1.000 (0.995 to 1.005) of the original's." in told(result)


def test_every_setup_is_measured() -> None:
    script = Scripted()
    result = faster(script)
    assert sorted(script.measured) == [(0, 1), (0, 8), (1, 1), (1, 8)]
    assert sorted((s.threads, s.batch) for s in latency_of(result).setups) == [(0, 1), (0, 8), (1, 1), (1, 8)]


def test_one_core_is_one_setup_per_batch() -> None:
    script = Scripted(cores=1)
    faster(script)
    assert sorted(script.measured) == [(1, 1), (1, 8)]


def test_a_fixed_batch_is_the_only_one() -> None:
    script = Scripted()
    faster(script, network(batch="3"))
    assert {batch for _, batch in script.measured} == {3}


def test_without_the_option_nothing_is_measured() -> None:
    script = Scripted()
    assert faster(script, ensure_faster=False).report.latency is None
    assert not script.measured


def test_slow_groups_are_widened() -> None:
    result = faster(Scripted(odd("w1")))
    assert widths(result) == [5, 16, 5]
    assert latency_of(result).widened == ("conv1",)
    assert "Widened, because it made the model slower: conv1." in told(result)
    assert result.report.alignment.advice is None, "--align 1 would not undo it"


def test_slow_groups_are_rolled_back_where_widening_does_not_help() -> None:
    result = faster(Scripted(lambda wide, batch: 1.2 if wide["w0"] < 48 and batch == 8 else 0.9))
    assert widths(result) == [48, 5, 5]
    assert latency_of(result).rolled_back == ("conv0",)
    assert "Rolled back, because it made the model slower: conv0." in told(result)


def test_the_original_is_returned_where_nothing_helps() -> None:
    model = network()
    result = faster(Scripted(lambda wide, batch: 1.5), model)
    assert not result.changed
    assert result.model is model
    assert latency_of(result).rolled_back
    assert not latency_of(result).setups
    assert result.report.output is None
    assert result.plan.groups == ()


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        ({}, odd("w0", "w2")),
        ({}, lambda wide, batch: 1.5 if wide["w1"] < 48 else 0.9),
        ({"lossless": True}, odd("w1")),
        ({"sequential": True}, lambda wide, batch: 1.5 if wide["w0"] < 48 else 0.9),
        ({"tolerance": 0.05}, odd("w1")),
    ],
)
def test_the_plan_replays_without_measuring(method: dict[str, Any], rule: Rule) -> None:
    model = network(ratios=False, noise=0.0 if "lossless" in method else 0.05)
    result = faster(Scripted(rule), model, **method)
    again = condense_in(Surroundings(hardware=Forbidden()), model, oc.Options(), result.plan)
    assert serialize(again.model) == serialize(result.model) != serialize(model)


def test_a_dry_run_measures_and_gives_the_plan_alone() -> None:
    script = Scripted(odd("w1"))
    dry, done = faster(script, dry_run=True), faster(script)
    assert not dry.changed
    assert dry.report.verification is None
    assert dry.plan == replace(done.plan, measured=None)
    assert [len(group.keep) for group in dry.plan.groups] == [5, 16, 5]


def test_narrower_but_slower_than_what_was_reached_is_undone_too() -> None:
    """conv1 at an odd width is slow; conv2's odd width costs a third, which the original's latency would still hide."""
    result = faster(Scripted(lambda wide, batch: 1.5 if wide["w1"] % 16 else (0.9 if wide["w2"] % 16 else 0.6)))
    assert widths(result) == [5, 16, 16]


def test_what_passed_by_luck_is_measured_once_more() -> None:
    seen: dict[tuple[int, ...], int] = {}

    def rule(wide: dict[str, int], batch: int) -> float:
        key = (*wide.values(), batch)
        seen[key] = seen.get(key, 0) + 1
        return 1.5 if wide["w1"] % 16 or seen[key] > 2 else 0.9

    result = faster(Scripted(rule))
    assert not result.changed
    assert len(latency_of(result).rolled_back) == 3


def test_an_unstable_measurement_warns() -> None:
    assert any("too unstable" in warning for warning in faster(Scripted(spread=0.3)).report.warnings)


def test_a_candidate_that_does_not_run_is_an_error() -> None:
    def refuses(wide: dict[str, int], batch: int) -> float:
        raise oc.InputError("onnxruntime cannot run the model on these inputs")

    with pytest.raises(oc.VerificationError, match="report this model"):
        faster(Scripted(refuses))


def test_a_slower_result_is_shown_only_beyond_the_margin() -> None:
    for ratio, kept in ((1.02, 5), (1.024, 5), (1.03, 48)):
        result = faster(Scripted(lambda wide, batch, ratio=ratio: ratio if min(wide.values()) < 48 else 1.0))
        assert set(widths(result)) == {kept}, ratio


def test_the_number_of_measurements_is_bounded() -> None:
    generator = np.random.default_rng(0)
    script = Scripted(lambda wide, batch: float(generator.choice([0.9, 1.5])))
    result = faster(script, builders.mlp([8, *[12] * 12, 3], clusters=5), align="auto")
    assert latency_of(result).candidates <= MOST + 1


def test_lossless_stays_exact_when_an_earlier_layer_is_rolled_back() -> None:
    """Rows of later layers may only be collinear once the earlier layer has merged: they are judged anew."""
    script = Scripted(lambda wide, batch: 1.5 if wide["w0"] < 48 else 0.9)
    result = faster(script, network(ratios=False), lossless=True)
    assert result.report.groups[0].width_after == 48
    assert result.report.verification is not None
    assert result.report.verification.approximation_error < 1e-5


@pytest.mark.parametrize("options", [("--align-for", "avx2"), ("--replay", "p.json")])
def test_options_that_do_not_go_together(cli: Cli, save: Save, options: tuple[str, ...]) -> None:
    save(network())
    cli.ok("m.onnx", "--align", "1", "--plan", "p.json")
    assert "--ensure-faster" in cli.fails(2, "m.onnx", "--ensure-faster", "-o", "other.onnx", *options)


def test_a_real_measurement() -> None:
    model = builders.mlp((64, 512, 512, 3), clusters=8)
    options = oc.Options(ensure_faster=True)
    latency = latency_of(condense_in(Surroundings(hardware=ThisMachine(seconds=0.2)), model, options))
    assert latency.candidates >= 1
    assert all(setup.low <= setup.ratio <= setup.high for setup in latency.setups)


def test_the_command_line_measures(cli: Cli, save: Save) -> None:
    """A small model in which nothing merges: there is no candidate to wait for."""
    save(builders.mlp((8, 8, 3)))
    cli.ok("m.onnx", "--ensure-faster", "--threshold", "1", "--report", "r.json")
    assert read("r.json")["options"]["ensure_faster"] is True


def test_the_command_line_returns_the_input_where_nothing_helps(
    cli: Cli, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Surroundings(hardware=Scripted(lambda wide, batch: 1.5))
    monkeypatch.setattr(command, "condense", lambda model, options, **given: condense_in(slow, model, options))
    save(network())
    out = cli.ok("m.onnx", "--align", "1", "--ensure-faster", "--report", "r.json").out
    assert Path(OUT).read_bytes() == Path("m.onnx").read_bytes()
    assert "Every reduction made it slower" in out
    report = read("r.json")
    assert report["output"]["sha256"] == report["input"]["sha256"]


# ---------------------------------------------------------------------- budgets


def test_a_budget_that_is_not_slower_is_met() -> None:
    result = faster(Scripted(), budget=("params", 0.5))
    alone = oc.condense(network(), oc.Options(align=1, budget=("params", 0.5)))
    assert result.report.output is not None
    assert result.report.output.parameters <= 0.5 * result.report.input.parameters
    assert [len(g.keep) for g in result.plan.groups] == [len(g.keep) for g in alone.plan.groups]
    assert not result.report.warnings


@pytest.mark.parametrize("rule", [odd("w1"), lambda wide, batch: 1.5 if wide["w1"] < 48 else 0.7])
def test_what_a_budget_makes_slower_is_widened_or_rolled_back(rule: Rule) -> None:
    result = faster(Scripted(rule), budget=("macs", 0.3))
    alone = oc.condense(network(), oc.Options(align=1, budget=("macs", 0.3)))
    found = {w.name: w.dims[0] for w in result.model.graph.initializer if len(w.dims) == 4}
    planned = {w.name: w.dims[0] for w in alone.model.graph.initializer if len(w.dims) == 4}
    assert planned["w1"] % 16
    assert rule(found, 1) < 1
    assert {n: k for n, k in found.items() if n != "w1"} == {n: k for n, k in planned.items() if n != "w1"}
    assert any("--budget" in warning for warning in result.report.warnings)
