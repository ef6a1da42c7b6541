"""--budget latency, with a machine that takes what a rule says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.machines import (
    BLOCK,
    Ruled,
    condensed,
    network,
    target_of,
    widths,
)

import onnx_condense as oc
from onnx_condense.errors import UsageError, VerificationError
from onnx_condense.merging.twin import Twin
from onnx_condense.planning.hardware import ThisMachine
from onnx_condense.planning.narrowing import Ways
from onnx_condense.planning.planned import Planned
from onnx_condense.planning.rivals import Rival, rivals_of
from onnx_condense.planning.run import Run
from onnx_condense.planning.strategies import strategy_of
from onnx_condense.planning.target import ToLatency
from onnx_condense.prepare import Clock, open_model


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


def test_a_result_that_stays_far_from_the_target_says_why() -> None:
    warnings = condensed(Ruled(saves=0.3), budget=("latency", 0.5)).report.warnings
    assert any("0.5 was asked for: no widths are fast enough" in warning for warning in warnings), warnings


def test_what_cannot_be_reached_is_refused() -> None:
    with pytest.raises(VerificationError, match=r"the fastest that can be reached is 0\.\d+ of the latency") as refused:
        condensed(Ruled(), budget=("latency", 0.01))
    assert "nothing is written" in str(refused.value)


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
