"""Cost tables: layers timed at their widths, what is kept of that, and tables from elsewhere."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import builders
from support.cli import OUT, Cli, Save
from support.machines import (
    Disturbed,
    Ruled,
    Silent,
    Waiting,
    blocked,
    condensed,
    network,
    target_of,
)
from support.schemas import check_schema

import onnx_condense as oc
from onnx_condense.cli import bench
from onnx_condense.errors import InputError
from onnx_condense.model.protos import serialize
from onnx_condense.pipeline import Surroundings, condense_in
from onnx_condense.planning.costing import worthwhile
from onnx_condense.planning.hardware import ThisMachine
from onnx_condense.timing.costs import Costs
from onnx_condense.timing.kept import NUMBERS, PLACE, Kept


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
