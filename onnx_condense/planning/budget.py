"""Budgets on a traced model: the twin that keeps a share of the original, and loses least."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from onnx_condense.arrays import Ints
from onnx_condense.errors import VerificationError
from onnx_condense.factoring.weights import Factorable
from onnx_condense.goals import Unit
from onnx_condense.merging.twin import Twin
from onnx_condense.merging.widths import widths_allowed
from onnx_condense.model import wire
from onnx_condense.model.inputs import Feed
from onnx_condense.planning.allocation import Curve, Priced, allocate, cost
from onnx_condense.planning.curves import curves_of
from onnx_condense.planning.joint import narrowed_together
from onnx_condense.planning.planned import Aside, Planned
from onnx_condense.planning.ranks import Ranks
from onnx_condense.planning.stand import Stand
from onnx_condense.planning.stretches import DIVIDED
from onnx_condense.planning.thresholds import STAYS, Planner, Refine
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.samples import Calibration
from onnx_condense.rewriting.kept import Disagreement

CORRECTIONS = 8
"""Times that the limit is corrected by what the parts do not count: constants that no slot holds, biases that come."""

CLOSE = 0.01
"""How far below the target a result may stay, as a share of the original, where widths allow it."""


@dataclass(frozen=True, eq=False)
class Known:
    """What budgets judge and estimate by.

    Attributes:
        estimate: moments of what consumers read.
        feeds: inputs on which the sensitivity of the outputs is measured. few: some of them, for pairs of factors.
        calibration: inputs that estimates are from, none where there are none.
        made_up: whether the feeds are made-up images.
    """

    estimate: Estimate
    feeds: Sequence[Feed]
    few: Sequence[Feed]
    calibration: Calibration
    made_up: bool = False


class Counts(Protocol):
    """What a budget counts: parameters, multiply-accumulates, or seconds."""

    @property
    def pairs(self) -> Unit | None:
        """What pairs of factors are counted in; None where no weight becomes one."""

    def size(self, twin: Twin) -> float:
        """How many a twin has."""

    def weights(self, planner: Planner, pairs: Mapping[int, Factorable]) -> Sequence[Priced]:
        """What holds channels, priced; pairs: key in allocations -> a weight that may become a pair of factors."""

    def stepped(self, curves: Mapping[int, Curve]) -> Mapping[int, Curve]:
        """Curves of groups, where these may stop; without those that are not worth narrowing."""


@dataclass(frozen=True, eq=False)
class Pruner:
    """Narrows the groups of a planner to a share of the original's size.

    Attributes:
        planner: makes the twins.
        counts: what is counted.
        before: how many of it the original has.
        weights: those that hold channels, priced in it.
        curves: group index -> what is lost as it narrows.
        aside: groups that could not be narrowed when that was measured.
        ranks: weights that may become pairs of factors; their curves stand beside those of groups.
        biases: room that refits asked for the last time, under 0.
    """

    planner: Planner
    counts: Counts
    before: float
    weights: Sequence[Priced]
    curves: Mapping[int, Curve]
    aside: Aside
    ranks: Ranks
    biases: dict[int, float] = field(default_factory=dict)

    @staticmethod
    def each(
        planner: Planner, counts: Counts, known: Known, progress: Callable[[str], None], share: float | None = None
    ) -> list[Pruner]:
        """Measures the curves, one for each reading; on real inputs also as groups are narrowed together to a share."""
        before = counts.size(planner.original)
        planner = planner.with_exact()
        together = known.estimate.real is not None and share is not None
        ranks = Ranks.of(planner, counts.pairs, known.estimate, known.calibration)
        fed = together or wire.size(planner.trace.facts.model) <= DIVIDED
        tried = [ranks.ranked[key].weight for key in (ranks.ranked if together else ranks.layers())] if fed else []
        stand = Stand(planner, known.estimate, known.feeds, tried, known.made_up)
        ranks = ranks.spent(stand) if together else ranks
        plain, found, aside = curves_of(planner, stand, known.estimate, progress)
        curves, readings = counts.stepped(plain), [counts.stepped(reading) for reading in found]
        weights = counts.weights(planner, {key: one.weight for key, one in ranks.ranked.items()})
        pairs = (
            ranks.curves(stand.on(known.few), known.estimate.real is not None, progress) if ranks.ranked else [{}, {}]
        )
        both = [{**reading, **more} for reading, more in zip(readings, pairs, strict=True)]
        if together:
            assert share is not None
            progress("plan: all groups together")
            limit = share * before - (before - cost(weights, {}))
            both.append({**pairs[0], **_together(stand, {**pairs[0], **curves}, ranks, weights, limit)})
        stand.close()
        aside = aside.also(stand.aside)
        return [Pruner(planner, counts, before, weights, curves, aside, ranks) for curves in both]

    def refined_by(self, refine: Refine) -> Pruner:
        """The same channels at the same costs, with something else done to every twin."""
        return replace(self, planner=replace(self.planner, refine=refine), biases={})

    def without_pairs(self) -> Pruner:
        """The same where no weight becomes a pair of factors."""
        return replace(self, curves={key: one for key, one in self.curves.items() if key not in self.ranks.ranked})

    def otherwise(self, factored: Collection[tuple[int, int]]) -> Pruner | None:
        """The same where frequent rows of tables at these places do what they do not do now; None where none can."""
        keys = {key for key in self.ranks.undecided if self.ranks.place(key) in factored}
        return replace(self, ranks=self.ranks.otherwise(keys)) if keys else None

    def sparing_tables(self, factored: Collection[tuple[int, int]], dearer: float) -> Pruner | None:
        """The same where what tables at these places lose counts so many times; None where there is nothing else."""
        tables = {key for key in self.ranks.tables() & self.curves.keys() if self.ranks.place(key) in factored}
        curves = {key: replace(self.curves[key], losses=dearer * self.curves[key].losses) for key in tables}
        return replace(self, curves={**self.curves, **curves}) if tables and tables != self.curves.keys() else None

    def counted(self, calibration: Calibration) -> Pruner:
        """The same ranks, of tables whose rows count as often as these inputs ask for them."""
        return replace(self, ranks=self.ranks.counted(calibration))

    def size(self, twin: Twin) -> float:
        """How many a twin has of what is counted."""
        return self.counts.size(twin)

    def at(self, share: float, aside: Aside) -> tuple[Planned, float]:
        """The twin that keeps at most this share, or the narrowest that there is; and how large it is."""
        while True:
            free = {index: curve for index, curve in self.curves.items() if index not in aside.groups}
            try:
                twin, size = self._nearest(free, share * self.before)
            except Disagreement as problem:
                aside = aside.after(problem, self.planner.trace)
            else:
                return Planned(twin, {}, aside), size

    def loosened(self, reached: Planned, multiples: Mapping[int, int]) -> Planned:
        """A twin that was reached, groups as wide as these multiples for them ask for."""
        gone: dict[int, Ints] = {}
        planner, plans = self.planner.widened(multiples), reached.twin.plans
        for group in planner.groups:
            multiple = planner.multiple(group)
            if group.index not in plans or multiple == STAYS:
                continue
            curve = self.curves[group.index]
            count = len(group.units) - len(plans[group.index].keep)
            if multiple != planner.align:
                allowed = widths_allowed(planner.trace, group, multiple, count)
                count = int(np.intersect1d(curve.steps, allowed).max(initial=0))
            if count:
                gone[group.index] = curve.order[:count]
        return Planned(self._refined(gone, {}), {}, reached.aside)

    def _nearest(self, curves: dict[int, Curve], target: float) -> tuple[Twin, float]:
        """The widest twin within the target, or the narrowest, and its size; again where refits gave it biases."""
        spare = self.biases.get(0, 0.0)
        for _ in range(CORRECTIONS):
            removed, narrow = self._fitting(curves, target - spare)
            if any(curves[key].lost(count) for key, count in removed.items()):
                removed, narrow = self._freely(curves, target - spare) or (removed, narrow)
            twin = self._refined(self._gone(curves, removed), removed)
            found = self.size(twin)
            if found <= target or narrow > target - spare:
                break
            spare = self.biases[0] = spare + found - target
        return twin, found

    def _freely(self, curves: dict[int, Curve], target: float) -> tuple[dict[int, int], float] | None:
        """As `_fitting`, where what loses nothing is enough; prices are of channels on average, and might ask more."""
        steps = {g: curve.steps[curve.steps <= (curve.losses <= 0).sum()] for g, curve in curves.items()}
        removed = {g: int(some.max()) for g, some in steps.items() if len(some) and g not in self.ranks.ranked}
        try:
            found = self.size(self.planner.without(self._gone(curves, removed)))
        except Disagreement:  # another choice may do
            return None
        return (removed, found) if removed and found <= target else None

    def _fitting(self, curves: dict[int, Curve], target: float) -> tuple[dict[int, int], float]:
        """How many channels of each group go so that a twin is within the target, before refits; and its size then."""
        best: tuple[dict[int, int], float] | None = None
        unpriced = self.before - cost(self.weights, {})
        for _ in range(CORRECTIONS):
            limit = target - unpriced
            removed = allocate(curves, self.weights, limit, CLOSE * self.before)
            twin = self.planner.without(self._gone(curves, removed))
            self.ranks.factored(twin, removed, counted=True)
            found, priced = self.size(twin), cost(self.weights, removed)
            del twin  # the next one takes as much
            if found <= target and (best is None or found > best[1]):
                best = removed, found
            if priced > limit:  # no group can give more
                return best or (removed, found)
            if target - CLOSE * self.before <= found <= target or found - priced == unpriced:
                break
            unpriced = found - priced
        return best or (removed, found)

    def _gone(self, curves: Mapping[int, Curve], removed: Mapping[int, int]) -> dict[int, Ints]:
        """Which channels of groups go (index -> [k])."""
        return {g: curves[g].order[:count] for g, count in removed.items() if count and g not in self.ranks.ranked}

    def _refined(self, gone: dict[int, Ints], removed: Mapping[int, int]) -> Twin:
        """The twin without these channels, consumers refitted, and with pairs of factors.

        Raises Disagreement where shapes do not work out.
        """
        twin = self.planner.without(gone)
        self.planner.refine(twin)
        self.ranks.factored(twin, removed)
        return twin


def _together(
    stand: Stand, curves: Mapping[int, Curve], ranks: Ranks, weights: Sequence[Priced], limit: float
) -> dict[int, Curve]:
    """The curves of groups and of pairs of factors as the outputs mind them where all are narrowed."""
    widths = {group.index: len(group.units) for group in ranks.planner.groups}
    pairs = [key for key in ranks.narrowed(stand) if key in curves]
    widths |= {key: ranks.ranked[key].weight.full for key in pairs}

    def lose(removed: Mapping[int, int]) -> float:
        gone = {g: curves[g].order[:count] for g, count in removed.items() if count and g not in ranks.ranked}
        return stand.lost(gone, [ranks.basis(key, removed[key]) for key in pairs if removed.get(key, 0)])

    tried = {key: curve for key, curve in curves.items() if key in widths}
    return narrowed_together(tried, widths, weights, lose, limit, ranks.tables())


class Narrows(Protocol):
    """What narrows a model; see `Pruner`."""

    @property
    def before(self) -> float:
        """How many units the original has."""

    @property
    def aside(self) -> Aside:
        """Groups that cannot be narrowed."""

    def size(self, twin: Twin) -> float:
        """How many units a twin has."""

    def at(self, share: float, aside: Aside) -> tuple[Planned, float]:
        """The twin that keeps at most this share, and how large it is."""


def keep_share(narrows: Narrows, share: float, finish: Callable[[Twin], float | None]) -> Planned:
    """The twin that keeps at most this share after `finish`, which says what the outputs lose, where it knows.

    Raises VerificationError where widths do not get that narrow, naming what can be reached.
    """
    if not narrows.before:
        raise VerificationError("--budget cannot be met: the model has nothing that it counts; nothing is written")
    target, spare, aside = share * narrows.before, 0.0, narrows.aside
    for _ in range(CORRECTIONS):
        planned, narrow = narrows.at((target - spare) / narrows.before, aside)
        found, aside = narrow, planned.aside
        if narrow > target:
            break
        lost = finish(planned.twin)
        found = narrows.size(planned.twin)
        if found <= target:
            return replace(planned, calibrated=True, lost=lost)
        spare = max(found - narrow, spare + found - target)  # biases that `finish` gave to consumers without one
    if found == narrows.before:
        advice = "onnx-condense inspect says why"
        raise VerificationError(f"--budget cannot be met: no layer can be narrower ({advice}); nothing is written")
    raise VerificationError(
        f"--budget cannot be met: the smallest that can be reached is {found / narrows.before:.3f}; nothing is "
        "written; ask for more, or align less (--align 1)"
    )
