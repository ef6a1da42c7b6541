"""What decides the widths of the groups: a plan, thresholds, a tolerance, a share, or a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from onnx_condense.goals import Latency
from onnx_condense.merging.plan import Plan
from onnx_condense.merging.twin import Twin
from onnx_condense.planning.hardware import THIS_MACHINE, Hardware
from onnx_condense.planning.planned import NOTHING, Aside, Multiples, Planned
from onnx_condense.planning.replay import replayed
from onnx_condense.planning.run import Run
from onnx_condense.planning.thresholds import Planner
from onnx_condense.planning.tolerance import smallest_within
from onnx_condense.proving.scorers import Scorer

if TYPE_CHECKING:  # runs at thresholds start without it
    from onnx_condense.planning.narrowing import Reached, Searched, ToShare
    from onnx_condense.planning.target import ToLatency


@dataclass(frozen=True, eq=False)
class Replayed:
    """A plan."""

    planner: Planner
    plan: Plan

    def twin(self) -> Planned:
        """Raises PlanError where the plan is not the model's."""
        return Planned(replayed(self.planner.trace, self.plan), {}, NOTHING, calibrated=True)

    def again(self, planned: Planned, multiples: Multiples) -> Planned:
        """A plan states its widths."""
        return planned


@dataclass(frozen=True, eq=False)
class AtThresholds:
    """The thresholds that were asked for."""

    planner: Planner

    def twin(self) -> Planned:
        """Every group at its threshold."""
        return self.planner.build()

    def again(self, planned: Planned, multiples: Multiples) -> Planned:
        """At the same thresholds."""
        return self.planner.widened(multiples).build(aside=planned.aside)


@dataclass(frozen=True, eq=False)
class WithinTolerance:
    """The lowest thresholds at which the error is within a tolerance."""

    planner: Planner
    error: Callable[[Twin], float]
    tolerance: float

    def twin(self) -> Planned:
        """The smallest twin within it."""
        return self._smallest(self.planner, NOTHING)

    def again(self, planned: Planned, multiples: Multiples) -> Planned:
        """Within the same tolerance."""
        return self._smallest(self.planner.widened(multiples), planned.aside)

    def _smallest(self, planner: Planner, aside: Aside) -> Planned:
        return smallest_within(planner, self.error, self.tolerance, aside)


Strategy: TypeAlias = "Replayed | AtThresholds | WithinTolerance | ToShare | Reached | ToLatency | Searched"
"""`twin()`: what is decided. `again(planned, multiples)`: the same with other multiples for the widths of groups."""


def strategy_of(run: Run, score: Scorer | None, replay: Plan | None, hardware: Hardware = THIS_MACHINE) -> Strategy:
    """The strategy that the options, or a plan, ask for.

    Args:
        run: the model.
        score: what scores candidates; the original is scored here.
        replay: the plan.
        hardware: the machine on which layers are timed, and models race.

    Raises:
        EvaluationError: the original cannot be scored.
        InputError: a cost table is none, or another model's.
    """
    options = run.options
    if replay is not None:
        return Replayed(run.planner, replay)
    if isinstance(options.goal, Latency):
        from onnx_condense.planning.target import to_latency  # the same

        return to_latency(run, options.goal.share, hardware)
    if options.goal is not None:
        from onnx_condense.planning.narrowing import narrowed  # runs at thresholds start without it

        return narrowed(run, options.goal, score)
    if options.tolerance is not None:
        return WithinTolerance(run.planner, run.error, options.tolerance)
    return AtThresholds(run.planner)
