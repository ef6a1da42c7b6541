"""--budget latency, with a machine that takes what a rule says; one test times layers in earnest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support import builders
from support.cli import OUT, Cli, Save
from support.planted.net import Net
from support.schemas import check_schema

import onnx_condense as oc
from onnx_condense.cli import bench
from onnx_condense.errors import InputError, UsageError, VerificationError
from onnx_condense.merging.twin import Twin
from onnx_condense.model.inputs import Feed
from onnx_condense.model.protos import serialize
from onnx_condense.pipeline import Surroundings, condense_in
from onnx_condense.planning.costing import worthwhile
from onnx_condense.planning.hardware import ThisMachine
from onnx_condense.planning.latencies import TargetReport
from onnx_condense.planning.narrowing import Ways
from onnx_condense.planning.planned import Planned
from onnx_condense.planning.rivals import Rival, rivals_of
from onnx_condense.planning.run import Run
from onnx_condense.planning.strategies import strategy_of
from onnx_condense.planning.target import ToLatency
from onnx_condense.prepare import Clock, open_model
from onnx_condense.timing.costs import Costs
from onnx_condense.timing.kept import NUMBERS, PLACE, Kept
from onnx_condense.timing.kernels import Moves, Small, Taken
from onnx_condense.timing.race import MedianInterval, Told

BLOCK = 8
FREE = 40
"""Inputs of a layer that costs nothing."""

NOTHING = Moves(0, 0.0)


def blocked(rows: int, columns: int) -> float:
    """A layer in blocks of 8 outputs; one of 40 inputs costs nothing."""
    return 0.0 if columns == FREE else 1e-6 * -(-rows // BLOCK) * columns


@dataclasses.dataclass(frozen=True)
class Ruled(ThisMachine):
    """A machine on which a dense layer takes what a rule says, and a whole model a little more."""

    rule: Callable[[int, int], float] = blocked
    saves: float = 1.0

    def kernel_seconds(self, models: Sequence[Small], threads: int) -> list[Taken]:
        return [Taken(self._of(onnx.ModelProto.FromString(one.model)), NOTHING, NOTHING) for one in models]

    def run_seconds(self, models: Sequence[Small], threads: int) -> list[float]:
        return [1e-5 + self._of(onnx.ModelProto.FromString(one.model)) for one in models]

    def ratio(
        self, pair: Sequence[Path], feeds: Sequence[Feed], threads: int, told: Told | None = None
    ) -> MedianInterval:
        before, after = (1e-5 + self._of(onnx.load(path)) for path in pair)
        found = 1 - self.saves * (1 - after / before)
        return MedianInterval(found, found - 0.01, found + 0.01)

    def _of(self, model: onnx.ModelProto) -> float:
        return sum(self.rule(*t.dims) for t in model.graph.initializer if len(t.dims) == 2)


@dataclasses.dataclass(frozen=True)
class Disturbed(Ruled):
    """The same, slowed down by others in turn, while some small models are timed; 1 ms for what is no dense layer."""

    slower: tuple[float, ...] = (2.0, 3.0, 1.0)
    asked: list[int] = dataclasses.field(default_factory=list)

    def kernel_seconds(self, models: Sequence[Small], threads: int) -> list[Taken]:
        self.asked.append(len(models))
        slower = self.slower[len(self.asked) % len(self.slower)]
        found = [self._of(onnx.ModelProto.FromString(one.model)) or 1e-3 for one in models]
        return [Taken(slower * seconds, Moves(1, slower * 1e-6), NOTHING) for seconds in found]


@dataclasses.dataclass(frozen=True)
class Waiting(Ruled):
    """The same, several threads of which wait a millisecond in every layer, and compute it in a tenth of the time."""

    def kernel_seconds(self, models: Sequence[Small], threads: int) -> list[Taken]:
        found = super().kernel_seconds(models, threads)
        return found if threads == 1 else [Taken(1e-3 + 0.1 * one.seconds, NOTHING, NOTHING) for one in found]


@dataclasses.dataclass(frozen=True)
class Silent(ThisMachine):
    """A machine that must not be asked."""

    def kernel_seconds(self, models: Sequence[Small], threads: int) -> list[Taken]:
        raise AssertionError("nothing is timed")

    def ratio(
        self, pair: Sequence[Path], feeds: Sequence[Feed], threads: int, told: Told | None = None
    ) -> MedianInterval:
        raise AssertionError("nothing races")


def network() -> onnx.ModelProto:
    """Dense layers of 64, 40, 64 and 64 channels; what reads the 40 costs nothing, nor does what makes them less."""
    net = Net(seed=3)
    x = net.input("batch", 12)
    for number, (rows, columns) in enumerate([(64, 12), (40, 64), (64, 40), (64, 64)]):
        x = net.node("Relu", net.dense(f"fc{number}", x, net.normal(rows, columns), net.normal(rows)))
    return net.build(net.dense("head", x, net.normal(5, 64), net.normal(5)))


def condensed(machine: ThisMachine, model: onnx.ModelProto | None = None, **options: Any) -> oc.Result:
    given = oc.Options(**{"budget": ("latency", 0.7)} | options)
    return condense_in(Surroundings(hardware=machine), model or network(), given)


def target_of(result: oc.Result) -> TargetReport:
    assert result.report.target is not None
    return result.report.target


def widths(result: oc.Result) -> dict[str, int]:
    return {group.layers[0]: group.width_after for group in result.report.groups}


def test_widths_are_those_that_pay_on_the_machine() -> None:
    result = condensed(Ruled())
    found = widths(result)
    assert all(width % BLOCK == 0 for width in found.values()), found
    assert min(found.values()) < 64
    measured = target_of(result).measured
    assert measured is not None
    assert abs(measured.ratio / 0.7 - 1) < 0.1
    assert target_of(result).races == 1
    assert not result.report.warnings or "was asked for" not in result.report.warnings[0]


def test_another_machine_likes_other_widths() -> None:
    found = widths(condensed(Ruled(rule=lambda rows, columns: 1e-5 * -(-rows // 20))))
    assert all(width % 20 == 0 or width == 64 for width in found.values()), found


def test_a_layer_that_costs_nothing_is_spared() -> None:
    """Only the first layer costs anything: no other group is narrowed."""
    result = condensed(Ruled(rule=lambda rows, columns: 1e-4 * rows if columns == 12 else 0.0))
    assert {layer for layer, width in widths(result).items() if width not in (64, 40)} == {"fc0"}


@pytest.mark.parametrize("saves", [0.8, 1.25])
def test_the_table_is_corrected_by_what_was_measured(saves: float) -> None:
    target = target_of(condensed(Ruled(saves=saves)))
    assert target.measured is not None
    assert abs(target.measured.ratio / 0.7 - 1) < 0.1
    assert target.races > 1
    assert target.gain == pytest.approx(saves, abs=0.05)


def test_what_a_table_hardly_knows_is_asked_for_step_by_step() -> None:
    """A fifth of what is asked for comes: five times as much at once would be more than there is."""
    target = target_of(condensed(Ruled(saves=0.2), budget=("latency", 0.9)))
    assert target.measured is not None
    assert abs(target.measured.ratio / 0.9 - 1) < 0.04
    assert target.races > 2


def test_a_machine_that_others_slow_down_gives_the_same_table() -> None:
    machine = Disturbed()
    found, steady = condensed(machine).costs, condensed(Disturbed(slower=(3.0,))).costs
    assert len(machine.asked) > len(machine.slower)
    assert found == steady


@pytest.mark.parametrize("threads", [0, 2])
def test_layers_whose_threads_wait_are_timed_on_one(threads: int) -> None:
    result, alone = condensed(Waiting(), threads=threads), condensed(Waiting(), threads=1)
    assert result.costs is not None
    assert alone.costs is not None
    assert result.costs == dataclasses.replace(alone.costs, threads=threads)
    assert target_of(result).races == 1


def test_a_table_tells_whether_its_layers_explain_whole_models() -> None:
    costs = condensed(Ruled()).costs
    assert costs is not None
    assert costs.explains
    first, *others = costs.wholes
    steep = [dataclasses.replace(one, layers=first.layers - (first.layers - one.layers) / 3) for one in others]
    assert not dataclasses.replace(costs, wholes=(first, *steep)).explains
    longer = [dataclasses.replace(one, layers=2 * first.layers - one.layers) for one in others]
    assert not dataclasses.replace(costs, wholes=(first, *longer)).explains
    assert dataclasses.replace(costs, wholes=(first,)).explains


def test_a_result_that_stays_far_from_the_target_says_why() -> None:
    warnings = condensed(Ruled(saves=0.3), budget=("latency", 0.5)).report.warnings
    assert any("0.5 was asked for: no widths are fast enough" in warning for warning in warnings), warnings


def test_what_cannot_be_reached_is_refused() -> None:
    with pytest.raises(VerificationError, match=r"the fastest that can be reached is 0\.\d+ of the latency") as refused:
        condensed(Ruled(), budget=("latency", 0.01))
    assert "nothing is written" in str(refused.value)


def test_the_same_table_gives_the_same_model_and_a_replay_needs_none(tmp_path: Path) -> None:
    result = condensed(Ruled(saves=0.8))
    assert result.costs is not None
    path = tmp_path / "costs.json"
    path.write_bytes(result.costs.encoded())
    assert Costs.load(path) == result.costs
    again = condensed(Silent(), latency_for=path)
    assert serialize(again.model) == serialize(result.model)
    assert target_of(again).measured is None
    assert target_of(again).predicted == pytest.approx(target_of(result).predicted)
    replayed = condense_in(Surroundings(hardware=Silent()), network(), oc.Options(), replay=result.plan)
    assert serialize(replayed.model) == serialize(result.model)


def test_tables_hold_each_layer_at_each_width() -> None:
    costs = condensed(Ruled()).costs
    assert costs is not None
    first = next(layer for layer in costs.layers if layer.layer == "fc1")
    assert first.groups == ("fc0", "fc1")
    assert first.points[0] == ((64, 40), pytest.approx(blocked(40, 64)))
    assert {widths for widths, _ in first.points} >= {(32, 40), (64, 8)}
    for widths, seconds in first.points:
        assert seconds == pytest.approx(blocked(widths[1], widths[0]), rel=1e-3)


def test_widths_that_pay_take_less_than_all_wider_ones() -> None:
    assert worthwhile([8, 7, 6, 5, 4], [8.0, 9.0, 7.9, 6.0, 5.95]) == [8, 5]


def damaged(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda content: {**content, **changes}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: [], "is no cost table"),
        (damaged(format="onnx-condense-plan"), "is no cost table"),
        (damaged(version=9), "is of version 9"),
        (damaged(threads=-1), "is damaged (-1 is no count)"),
        (damaged(gain=float("nan")), "is damaged"),
        (damaged(gain=10**400), "is damaged"),
        (damaged(wholes=[{"layers": 1.0, "seconds": 1e308}]), "is damaged"),
        (damaged(groups={"fc0": [8, 16]}), "is damaged"),
        (damaged(wholes=[]), "is damaged"),
        (damaged(layers=[{"layer": "fc0"}]), "is damaged"),
        (lambda content: content | {"groups": {"other": [4]}, "layers": []}, "is of another model"),
        (lambda content: content | {"groups": content["groups"] | {"fc0": [4]}, "layers": []}, "fc0 has 64 channels"),
    ],
)
def test_a_wrong_table_is_one_line(
    cli: Cli, save: Save, change: Callable[[dict[str, Any]], object], said: str, table: bytes
) -> None:
    save(network())
    (cli.folder / "costs.json").write_text(json.dumps(change(json.loads(table))))
    assert said in cli.fails(2, "m.onnx", "--budget", "latency=0.7", "--latency-for", "costs.json")


@pytest.fixture(scope="module")
def table() -> bytes:
    """The table of the network."""
    costs = condensed(Ruled()).costs
    assert costs is not None
    return costs.encoded()


def test_a_table_that_is_not_there_or_no_json_is_one_line(cli: Cli, save: Save) -> None:
    save(network())
    asked = ("m.onnx", "--budget", "latency=0.7", "--latency-for")
    assert "no such file" in cli.fails(2, *asked, "costs.json").lower()
    (cli.folder / "costs.json").write_text("nothing")
    assert "it is no JSON" in cli.fails(2, *asked, "costs.json")


@pytest.mark.parametrize(
    "wrong",
    [
        {"threads": 2},
        {"batch": 2},
        {"latency_for": "costs.json", "budget": ("params", 0.5)},
        {"budget": ("latency", 0.5), "latency_for": "costs.json", "threads": 1},
        {"budget": ("latency", 0.5), "latency_for": "costs.json", "batch": 1},
        {"budget": ("latency", 0.5), "ensure_faster": True},
        {"budget": ("latency", 0.0)},
        {"budget": ("latency", 1.5)},
        {"budget": ("latency", 0.5), "threads": -1},
        {"budget": ("latency", 0.5), "batch": 0},
    ],
    ids=str,
)
def test_options_that_contradict_it_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        oc.Options(**wrong)


def test_layers_in_bodies_are_refused() -> None:
    branches = "then_branch = t () => (float[N, 4] a) { a = MatMul(x, w) }"
    branches += ", else_branch = e () => (float[N, 4] b) { b = MatMul(x, v) }"
    text = "g (float[N, 4] x, bool c) => (float[N, 4] y) { y = If(c) <" + branches + "> }"
    body = builders.build(text, {"w": builders.random(4, 4), "v": builders.random(4, 4)})
    with pytest.raises(InputError, match="latency cannot be planned"):
        condensed(Ruled(), body)


def test_what_was_timed_is_kept_where_a_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLACE, str(tmp_path / "cache"))
    first = condensed(Ruled())
    (file,) = (tmp_path / "cache").iterdir()
    machine = Ruled(rule=lambda rows, columns: 1.0)
    assert condensed(machine).costs != first.costs, "whole models are measured anew"
    assert condensed(Ruled()).costs == first.costs
    for text in ("{}", "[" * 100_000, json.dumps({"seconds": {"x": [10**400] * NUMBERS}})):
        file.write_text(text)
        assert Kept.of(0).read() == {}
    assert condensed(Ruled()).costs == first.costs
    assert len(Kept.of(0).read()) > 50


def test_a_tiny_network_is_timed_in_earnest(cli: Cli, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says nothing of how long anything took."""
    monkeypatch.setattr(bench, "THIS_MACHINE", ThisMachine(seconds=0.05))
    save(builders.convnet((3, 8, 8), clusters=4))
    outcome = cli.ok("bench", "m.onnx", "--costs", "costs.json", "--threads", "1", "--batch", "2", "--json")
    assert outcome.written == {"costs.json"}
    check_schema("costs", json.loads(outcome.out))
    costs = Costs.load(cli.folder / "costs.json")
    assert (costs.threads, costs.batch) == (1, 2)
    assert {layer.layer for layer in costs.layers} == {"conv0", "conv1", "fc"}
    assert all(seconds >= 0 for layer in costs.layers for _, seconds in layer.points)
    result = condensed(ThisMachine(seconds=0.05), builders.convnet((3, 8, 8)), budget=("latency", 1.0), threads=1)
    assert target_of(result).share == 1.0


def test_reports_tell_the_target_and_the_table_can_be_written(cli: Cli, save: Save, table: bytes) -> None:
    save(network())
    (cli.folder / "costs.json").write_bytes(table)
    asked = ("m.onnx", "--budget", "latency=0.7", "--latency-for", "costs.json")
    outcome = cli.run(*asked, "--json")
    assert outcome.written == {OUT}
    content = json.loads(outcome.out)
    check_schema("report", content)
    assert content["target"]["share"] == 0.7
    assert "not measured here" in cli.run(*asked, "--force").out
    assert "--costs-out" in cli.fails(2, *asked, "--force", "--costs-out", "again.json")
    assert "is an input" in cli.fails(2, *asked, "--force", "--plan", "costs.json")


def test_a_table_is_of_one_model(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3)))
    assert "one model" in cli.fails(2, "bench", "m.onnx", "m.onnx", "--costs", "costs.json")
    assert "one model" in cli.fails(2, "bench", "m.onnx", "--costs", "costs.json", "--batch", "1,8")
    assert "in the place of a race" in cli.fails(2, "bench", "m.onnx", "--costs", "costs.json", "--profile")


def strategy(machine: ThisMachine | None = None, **options: Any) -> ToLatency:
    """The strategy for a latency on a machine."""
    opened = open_model(network(), oc.Options(budget=("latency", 0.7), **options), Clock(None))
    found = strategy_of(Run.of(opened, 1, Clock(None)), None, None, machine or Ruled())
    assert isinstance(found, ToLatency)
    return found


def rivals_losing(asked: ToLatency, *losses: Callable[[Twin], float]) -> list[Rival]:
    """Ways by seconds, by parameters and by multiply-accumulates, which lose what they are told to."""
    ways = Ways([asked.rivals[0].pruner], lost=lambda twin: 1.0)
    found = rivals_of(ways, 0.7, real=True)
    return [dataclasses.replace(rival, lost=lost, known={}) for rival, lost in zip(found, losses, strict=True)]


def kept(planned: Planned) -> dict[int, int]:
    return {index: len(plan.keep) for index, plan in planned.twin.plans.items()}


@pytest.mark.parametrize("best", range(3))
def test_the_way_that_loses_least_at_the_target_is_taken(best: int) -> None:
    asked = strategy()
    rivals = rivals_losing(asked, *[lambda twin, n=number: abs(n - best) for number in range(3)])
    planned = dataclasses.replace(asked, rivals=rivals).twin()
    assert kept(planned) == kept(rivals[best].at(0.7))
    expected = rivals[best].judged(0.7)
    assert expected is not None
    assert planned.target is not None
    assert planned.target.predicted == pytest.approx(expected[0])


def test_ways_are_compared_again_where_a_race_corrects_the_table() -> None:
    """The first way loses nothing at what the table says is fast enough, and much at what the race asks for."""
    asked = strategy(Ruled(rule=lambda rows, columns: 1e-6 * rows * columns, saves=0.7))
    size = asked.seconds.size
    wide = size(asked.rivals[0].at(0.7).twin)
    losses = (lambda twin: 3.0 * (size(twin) < wide), lambda twin: 4.0, lambda twin: 1.0)
    rivals = rivals_losing(asked, *losses)
    planned = dataclasses.replace(asked, rivals=rivals).twin()
    assert planned.target is not None
    assert kept(planned) == kept(rivals[2].at(1 - (1 - 0.7) / planned.target.gain))
    assert not planned.target.missed


def test_other_ways_than_by_seconds_are_doubted_without_data_and_given_up_where_they_lose_much_more() -> None:
    for real, losses, left in ((True, (1.0, 1.4, 1.6), 2), (False, (1.0, 1.4, 1.3), 2), (False, (2.0, 1.0, 1.0), 3)):
        told = iter((0.0, *losses))  # the first reading is looked at before
        ways = Ways([strategy().rivals[0].pruner], lost=lambda twin, told=told: next(told))
        assert len(rivals_of(ways, 0.7, real)) == left


def test_latencies_are_refitted_as_shares_are() -> None:
    inputs = {"x": np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)}
    assert strategy(calibration=inputs).sharing.fitted is not None
    assert strategy().sharing.fitted is None
