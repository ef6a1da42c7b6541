"""Strategies that narrow groups by what their consumers lose: to a share, or as far as a criterion accepts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnx_condense.errors import VerificationError
from onnx_condense.goals import ErrorBound, Goal, Latency, ScoreDrop, Share, Unit
from onnx_condense.merging.methods import MANNERS
from onnx_condense.merging.twin import Twin
from onnx_condense.model.inputs import Feed
from onnx_condense.model.outputs import sample_size, samples_in
from onnx_condense.options import DEFAULT_THRESHOLD, DEFAULT_TRIALS, INSPECT_THRESHOLDS
from onnx_condense.planning.budget import Counts, Known, Pruner, keep_share
from onnx_condense.planning.fewer_heads import losses
from onnx_condense.planning.made_up import like
from onnx_condense.planning.planned import Multiples, Planned
from onnx_condense.planning.run import Run
from onnx_condense.planning.search import Criterion, Trials, search
from onnx_condense.planning.stand import Stand
from onnx_condense.planning.thresholds import Planner, Refine, untouched
from onnx_condense.planning.units import Units
from onnx_condense.planning.written import judged
from onnx_condense.proving.scorers import Scorer
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.refit import refit_by
from onnx_condense.refitting.samples import Calibration, cut, divisible
from onnx_condense.refitting.synthetic import has_floats

FEW = 16
"""How many of them judge pairs of factors, of which there may be many."""

SYNTHETIC = 8
"""Samples that judge in place of real ones which way to read the curves, where there are no images."""

NUMBERS = 2**23
"""Numbers of inputs on which every choice is tried, in about so many samples."""

CLEAR = 0.9
"""Share of the error without calibration that is clearly less, as far as few held-back samples can tell."""

FEWEST, MOST = 8, 32
"""But not fewer samples, nor more."""

NEAR = 0.02
"""What the outputs of networks that read tokens may lose where refits by moments are good enough: going from layer to
layer takes as long as all else, and gains nothing there; of images it gains a fifth."""

TIMELESS = 2.0
"""How many times what a table loses counts, whose rows are only looked up, beside what saves time with parameters."""

BLOWN_UP = 1.0
"""Relative error of the outputs above which weights that were refitted without data are compared with the paper's."""


@dataclass(frozen=True, eq=False)
class ToShare:
    """A share of the original's size.

    finish: completes a twin before it is measured, and says what it loses then, where that was asked; the other twin is
    one that was refitted by moments of calibration inputs, where there is one.
    error: of a twin's outputs, where it is known and refits are not trusted. fitted: refits by moments of calibration
    inputs, another way than `finish`, and what a twin's outputs lose; the one way where that is `near` at most.
    """

    planner: Planner
    pruner: Pruner
    share: float
    finish: Callable[[Twin, Twin | None], float | None]
    error: Callable[[Twin], float] | None = None
    fitted: tuple[Refine, Callable[[Twin], float]] | None = None
    near: float = 0.0

    def twin(self) -> Planned:
        """Raises VerificationError where widths do not get that narrow."""
        found = self._by_moments()
        if found is not None and found[1] <= self.near:
            return found[0]
        fitted = None if found is None else found[0].twin
        refitted = keep_share(self.pruner, self.share, lambda twin: self.finish(twin, fitted))
        if found is not None and self.fitted is not None:
            before = self.fitted[1](refitted.twin) if refitted.lost is None else refitted.lost
            return found[0] if found[1] < before else refitted
        if self.error is None or not (lost := self.error(refitted.twin)) > BLOWN_UP:
            return refitted
        merged = keep_share(self.pruner.refined_by(untouched), self.share, lambda twin: self.finish(twin, None))
        return merged if self.error(merged.twin) < lost else refitted

    def _by_moments(self) -> tuple[Planned, float] | None:
        """The twin refitted by moments of all calibration inputs, and what it loses; None where that is no way."""
        if self.fitted is None:
            return None
        refine, loss = self.fitted
        try:
            found = keep_share(self.pruner.refined_by(refine), self.share, untouched)
        except VerificationError:  # constants that these refits add leave no room
            return None
        return found, loss(found.twin)

    def again(self, planned: Planned, multiples: Multiples) -> Planned:
        """The same channels go, as far as the multiples let them."""
        pruner = self.pruner if planned.twin.refits else self.pruner.refined_by(untouched)
        return pruner.loosened(planned, multiples)


@dataclass(frozen=True, eq=False)
class Reached:
    """A share that is reached before anything is narrowed."""

    planner: Planner

    def twin(self) -> Planned:
        """Nothing goes."""
        return self.planner.unchanged()

    def again(self, planned: Planned, multiples: Multiples) -> Planned:
        """The same."""
        return planned


@dataclass(frozen=True, eq=False)
class Ways:
    """Ways to read what consumers lose, and what tells which of them is the best.

    refine: how twins are refitted that are judged; None: as in the end. lost: what a twin's outputs lose on inputs that
    judge; None where there is nothing to choose. every: all inputs, by which rows of tables count in the end; None
    where they did from the start.
    """

    readings: Sequence[Pruner]
    refine: Refine | None = None
    lost: Callable[[Twin], float] | None = None
    every: Calibration | None = None

    def judged(self, pruner: Pruner) -> Pruner:
        """It, making twins that are judged."""
        return pruner if self.refine is None else pruner.refined_by(self.refine)

    def least(self, share: float | None) -> Pruner:
        """The one whose model loses least."""
        best = first = self.readings[0]
        if share is not None and self.lost is not None:
            best = _least([self.judged(reading) for reading in self.readings], share, self.lost)
            best = best if self.refine is None else replace(best, planner=first.planner, biases={})
        return best if self.every is None else best.counted(self.every)


@dataclass(frozen=True, eq=False)
class Searched:
    """The smallest model found that a criterion accepts.

    thresholds: what they give is tried first; from the lowest one up, until one is accepted.
    """

    planner: Planner
    pruner: Pruner
    trials: Trials
    thresholds: Planner | None = None

    def twin(self) -> Planned:
        """The twin of that model, and what was tried."""
        return search(self.pruner, self.trials, self._seeds())

    def _seeds(self) -> Iterator[tuple[float, Planned]]:
        if self.thresholds is not None:
            for threshold in sorted(t for t in INSPECT_THRESHOLDS if t >= DEFAULT_THRESHOLD):
                towards = (1 - threshold) / (1 - DEFAULT_THRESHOLD)
                yield threshold, self.thresholds.build(towards)

    def again(self, planned: Planned, multiples: Multiples) -> Planned:
        """The same channels go, as far as the multiples let them."""
        return self.pruner.loosened(planned, multiples)


def narrowed(run: Run, goal: Goal, score: Scorer | None) -> ToShare | Reached | Searched:
    """The strategy for a goal; `score`: what scores candidates, the original here. Raises EvaluationError."""
    match goal:
        case Share(unit, asked):
            share = asked * _shrunk(run, unit)
            if share >= 1:
                return Reached(run.planner)
            return to_share(run, ways_of(run, Units(unit), share).least(share), share)
        case Latency():
            raise AssertionError("a latency has a strategy of its own")
        case ErrorBound(bound):
            found = _searched(run, Criterion.of_error(run.measure, bound))
            return replace(found, thresholds=run.at_thresholds()) if run.by_default else found
        case ScoreDrop(most):
            assert score is not None
            run.clock.note("evaluate the original")
            return _searched(run, Criterion.of_score(score, most, run.opened.source.proto))


def _shrunk(run: Run, unit: Unit) -> float:
    """How many times as large the model was as it came, before heads left it and tables were held once."""
    if run.opened.before.whole is None:
        return 1.0
    now = Units(unit).size(run.planner.original)
    return Units(unit).size(Twin(run.opened.whole)) / now if now else 1.0


def to_share(run: Run, pruner: Pruner, share: float) -> ToShare:
    """The strategy for a share."""
    blind = MANNERS[run.options.method].cautious and not run.opened.calibration.chooses and run.measure.told
    error = (run.error if run.made_up is None else run.made_up.error) if blind else None
    near = 0.0 if has_floats(run.opened.feeds[0]) else NEAR
    return ToShare(run.planner, pruner, share, partial(calibrated_where_better, run), error, _fitted(run), near)


def _searched(run: Run, criterion: Criterion) -> Searched:
    most, executor = run.options.trials or DEFAULT_TRIALS, run.opened.calibration.executor
    trials = Trials(run.candidate, criterion, most, run.clock.note, executor)
    return Searched(run.planner, ways_of(run, Units(Unit.PARAMS), None).least(None), trials)


def calibrated_where_better(run: Run, twin: Twin, fitted: Twin | None = None) -> float | None:
    """Refits a twin on calibration inputs; it stays as it was without them where that fits held-back ones better.

    Where they are few, it stays unless that is far better; where none are held back, in any case. What its outputs
    lose then (see `Run.lost`), where that was asked. fitted: see `Run.calibrate`.
    """
    calibration = run.opened.calibration
    if not (calibration.samples and run.measure.told):
        if run.options.data is not None:  # else calibration inputs move no output, and fit nothing
            run.calibrate(twin, fitted)
        return None
    if not calibration.holds_back and run.options.data is None:
        return None
    lost, most = (run.lost, 1.0) if calibration.chooses else (run.error, CLEAR)
    saved, before = twin.folds(), lost(twin)
    run.calibrate(twin, fitted)
    found = lost(twin)
    if not found <= before * most:
        twin.refold(saved)
        found = before
    return found if calibration.chooses else None


def _fitted(run: Run) -> tuple[Refine, Callable[[Twin], float]] | None:
    """Refits by what all calibration inputs are like, and what outputs lose; None where they are few."""
    opened = run.opened
    if not (opened.calibration.chooses and run.measure.told and MANNERS[run.options.method].calibrates):
        return None
    estimate = Estimate(opened.trace, opened.feeds[0], run.options.seed, run.summing_all, run.estimate)
    return partial(refit_by, estimate=estimate), run.lost


def ways_of(run: Run, counts: Counts, share: float | None) -> Ways:
    """Ways to read what consumers lose, measured on calibration inputs where there are enough of them.

    What tells the best of them is what the model that keeps a share loses on inputs that judge; with real ones, the
    readings without data are among them, where they are few.
    """
    opened, options = run.opened, run.options
    refine: Refine | None = None
    judging, rest = run.judges
    chosen = opened.calibration.chooses and rest.samples
    counted = rest if chosen else opened.calibration  # not by inputs that judge
    blind = partial(_blind, run, counts, counted)
    if not chosen:
        readings = blind()
    else:
        tried = _few(run, judging)
        estimate = Estimate(opened.trace, opened.feeds[0], options.seed, run.summing, run.estimate)
        refine = partial(refit_by, estimate=estimate)
        known = Known(estimate, tried, opened.calibration.split(FEW)[0], rest)
        judging = cut(judging, divisible(opened.specs), sum(map(samples_in, tried)))[1] or judging
        readings = Pruner.each(run.planner, counts, known, run.clock.note, share)
        if share is not None and opened.calibration.suffices:
            del readings[1]  # what the first probe says of groups as narrowed together: others have measured that
        elif share is not None:
            readings += blind()
    every = opened.calibration if chosen else None
    if share is None or len(readings) < 2:
        return Ways(readings, every=every)
    if refine is None:
        return Ways(readings, refine, _judging(run), every)
    return Ways(readings, refine, partial(judged, measure=losses(opened, judging)), every)


def _blind(run: Run, counts: Counts, counted: Calibration) -> list[Pruner]:
    """The readings without data. counted: inputs by which rows of tables count."""
    images, feeds = run.made_up, run.opened.without_data
    tried, few = (_few(run, feeds), feeds) if images is None else (images.tries, images.tries)
    known = Known(run.estimate, tried, few, counted, images is not None)
    return Pruner.each(run.planner, counts, known, run.clock.note)


def _judging(run: Run) -> Callable[[Twin], float]:
    """The error of a twin on inputs that stand for real ones: made-up ones, or those that are given."""
    if run.made_up is not None:
        return run.made_up.error
    feeds = run.opened.without_data
    judging = like(run.opened, feeds[0], 1, SYNTHETIC) if run.options.data is None else feeds
    return Stand(run.planner, run.estimate, judging).error_of


def _least(readings: Sequence[Pruner], share: float, lost: Callable[[Twin], float]) -> Pruner:
    """The reading whose model loses least; without pairs of factors, where that reaches the share and loses less.

    Of tables that are pairs, frequent rows keep as much as others, or more, whichever loses less in the end. Where
    nearly nothing is lost, tables give less than what saves time.
    """

    def tried(pruner: Pruner) -> tuple[float, Collection[tuple[int, int]], float]:
        planned, size = pruner.at(share, pruner.aside)
        return lost(planned.twin), frozenset(planned.twin.factors), size

    found = [(tried(pruner), pruner) for pruner in readings]
    (least, paired, _), best = min(found, key=lambda one: one[0][0])
    if not paired:
        return best
    others = [best.without_pairs(), best.otherwise(paired)]
    for other in (one for one in others if one is not None):
        less, _, size = tried(other)
        if less < least and size <= share * other.before:
            least, best = less, other
    spared = best.sparing_tables(paired, TIMELESS)
    if spared is not None:
        less, _, size = tried(spared)
        if less <= max(least, NEAR) and size <= share * spared.before:
            return spared
    return best


def _few(run: Run, feeds: Sequence[Feed]) -> list[Feed]:
    """The first samples of feeds, as many as every choice is tried on."""
    count = int(np.clip(NUMBERS // sample_size(feeds[0]), FEWEST, MOST))
    return cut(feeds, divisible(run.opened.specs), count)[0]
