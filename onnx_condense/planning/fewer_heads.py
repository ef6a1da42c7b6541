"""Whole heads under a budget: those go that cost the outputs less, for what they spare, than what goes otherwise."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from onnx_condense.arrays import Ints
from onnx_condense.errors import VerificationError
from onnx_condense.goals import Share
from onnx_condense.model.inputs import Feed
from onnx_condense.planning.heads import cut, traced_by_heads
from onnx_condense.planning.readers import Orders
from onnx_condense.planning.selection import chosen_groups
from onnx_condense.planning.stand import Stand
from onnx_condense.planning.thresholds import Planner
from onnx_condense.planning.units import Units
from onnx_condense.prepare import Clock, Opened
from onnx_condense.proving.compare import results
from onnx_condense.proving.losses import lost, scores_in
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.refit import refit_by
from onnx_condense.refitting.summing import measured
from onnx_condense.rewriting.kept import Disagreement
from onnx_condense.tracing.trace import Group

_log = logging.getLogger(__name__)

WORTH = 0.02
"""Share of what goes that heads spare at least: a run is planned anew for them, and gains no more of its loss."""


@dataclass(frozen=True, eq=False)
class Sparing:
    """What is known of the heads of a model under a budget.

    planner: of the trace in which they are channels. units: what is counted. whole: how many the model has.
    stand: where it is tried what outputs lose. estimate: moments of what output projections read.
    """

    planner: Planner
    units: Units
    whole: float
    stand: Stand
    estimate: Estimate

    def cheaper(self, price: float) -> dict[int, Ints]:
        """Which heads go (group index -> [k]) that cost at most a price per share of the model each."""
        orders, found = Orders(self.planner, self.estimate), dict[int, Ints]()
        orders.prepare(self.planner.groups)
        for group in self.planner.groups:
            gone = self._of(group, orders.of(group)[0], price)
            if len(gone):
                found[group.index] = gone
        while found and self.stand.lost(found) > price * self.spared(found):
            del found[max(found, key=lambda index: self.stand.lost({index: found[index]}))]
        return found

    def _of(self, group: Group, order: Ints, price: float) -> Ints:
        """[k] the heads of one attention that go."""
        kept, before = 0, 0.0
        for count in range(1, len(order)):
            after = self.stand.lost({group.index: order[:count]})
            if not after - before <= price * self.spared({group.index: order[:1]}):
                break
            kept, before = count, max(before, after)
        return order[:kept]

    def spared(self, gone: Mapping[int, Ints]) -> float:
        """The share of the model that goes with some heads (group index -> [k]); 0 where they cannot go."""
        try:
            return 1 - self.units.size(self.planner.without(gone)) / self.whole
        except Disagreement:
            return 0.0


def fewer_heads(opened: Opened, clock: Clock, kept: float, loss: float) -> Opened | None:
    """A model without the heads that are cheaper than what goes otherwise; None where none is.

    kept: the share of the model that is left otherwise. loss: what its outputs lose then.
    """
    known = _known(opened) if loss > 0 and kept < 1 else None
    if known is None:
        return None
    with clock("plan"):
        gone = known.cheaper(loss / (1 - kept))
        known.stand.close()
        if known.spared(gone) < WORTH * (1 - kept):
            return None
        if all(np.isin(heads, known.planner.freely(g)).all() for g, heads in _each(known.planner, gone)):
            return None
        twin = known.planner.without(gone)
        refit_by(twin, known.estimate)
    try:
        return cut(opened, twin, clock)
    except VerificationError as error:
        _log.warning("whole heads are left alone: %s", error)
        return None


def _each(planner: Planner, gone: Mapping[int, Ints]) -> list[tuple[Group, Ints]]:
    return [(group, gone[group.index]) for group in planner.groups if group.index in gone]


def _known(opened: Opened) -> Sparing | None:
    """What is known of the heads of a model; None where none may go."""
    options, whole = opened.options, traced_by_heads(opened)
    groups = () if whole is None else tuple(g for g in whole.headed if g in chosen_groups(whole, options))
    goal = options.goal
    if whole is None or not groups or not isinstance(goal, Share):
        return None
    judging, rest = opened.calibration.judges()
    planner = Planner(whole, replace(options, align=1), 1, groups).with_exact()
    prior = Estimate.beside_real(whole, opened.feeds[0], options.seed, opened.span)
    real = measured(whole, rest, options.seed)
    estimate = Estimate(whole, opened.feeds[0], options.seed, real, prior)
    units = Units(goal.unit)
    return Sparing(planner, units, units.size(planner.original), Stand(planner, estimate, judging), estimate)


def losses(opened: Opened, judging: Sequence[Feed] = ()) -> Callable[[onnx.ModelProto], float]:
    """What tells what the outputs of a smaller model lose, on the calibration inputs that judge or on some of them."""
    judging = judging or opened.calibration.judges()[0]
    expected = results(opened.source.proto, judging)
    scores = scores_in(opened.trace.facts.model, expected)
    return lambda model: lost(expected, results(model, judging), scores)
