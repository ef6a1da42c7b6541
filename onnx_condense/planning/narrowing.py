"""Strategies that narrow groups by what their consumers lose: to a share, or as far as a criterion accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from onnx_condense.goals import ErrorBound, Goal, ScoreDrop, Share, Unit
from onnx_condense.merging.methods import MANNERS
from onnx_condense.merging.twin import Twin
from onnx_condense.model.inputs import Feed
from onnx_condense.options import DEFAULT_THRESHOLD, DEFAULT_TRIALS, INSPECT_THRESHOLDS
from onnx_condense.planning.budget import Known, Pruner, keep_share
from onnx_condense.planning.planned import Multiples, Planned
from onnx_condense.planning.run import Run
from onnx_condense.planning.search import Criterion, Trials, search
from onnx_condense.planning.thresholds import Planner, untouched
from onnx_condense.prepare import Opened
from onnx_condense.proving.compare import compare, results
from onnx_condense.proving.scorers import Scorer
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.summing import measured
from onnx_condense.refitting.synthetic import synthetic
from onnx_condense.rewriting.writer import write

ENOUGH = 32
"""Calibration samples from which on they choose a budget's channels, too."""

JUDGES = 64
"""Most of them that measure what the outputs lose, and at most half of them all."""

FEW = 16
"""How many of them judge pairs of factors, of which there may be many."""

SYNTHETIC = 8
"""Samples that judge in place of real ones which way to read the curves."""

BLOWN_UP = 1.0
"""Relative error of the outputs above which weights that were refitted without data are compared with the paper's."""


@dataclass(frozen=True, eq=False)
class ToShare:
    """A share of the original's size.

    finish: completes a twin before it is measured. error: of a twin's outputs, where it is known and refits
    are not trusted.
    """

    planner: Planner
    pruner: Pruner
    share: float
    finish: Callable[[Twin], None]
    error: Callable[[Twin], float] | None = None

    def twin(self) -> Planned:
        """Raises VerificationError where widths do not get that narrow."""
        refitted = keep_share(self.pruner, self.share, self.finish)
        if self.error is None or not (lost := self.error(refitted.twin)) > BLOWN_UP:
            return refitted
        merged = keep_share(self.pruner.refined_by(untouched), self.share, self.finish)
        return merged if self.error(merged.twin) < lost else refitted

    def again(self, planned: Planned, multiples: Multiples) -> Planned:
        """The same channels go, as far as the multiples let them."""
        pruner = self.pruner if planned.twin.refits else self.pruner.refined_by(untouched)
        return pruner.loosened(planned, multiples)


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


def narrowed(run: Run, goal: Goal, score: Scorer | None) -> ToShare | Searched:
    """The strategy for a goal; `score`: what scores candidates, the original here. Raises EvaluationError."""
    match goal:
        case Share(unit, share):
            blind = MANNERS[run.options.method].cautious and not run.opened.calibration.samples
            error = run.error if blind and run.measure.told else None
            return ToShare(run.planner, _pruner(run, unit, share), share, partial(calibrated_where_better, run), error)
        case ErrorBound(bound):
            found = _searched(run, Criterion.of_error(run.measure, bound))
            return replace(found, thresholds=run.at_thresholds()) if run.by_default else found
        case ScoreDrop(most):
            assert score is not None
            run.clock.note("evaluate the original")
            return _searched(run, Criterion.of_score(score, most, run.opened.source.proto))


def _searched(run: Run, criterion: Criterion) -> Searched:
    most, executor = run.options.trials or DEFAULT_TRIALS, run.opened.calibration.executor
    trials = Trials(run.candidate, criterion, most, run.clock.note, executor)
    return Searched(run.planner, _pruner(run, Unit.PARAMS, None), trials)


def calibrated_where_better(run: Run, twin: Twin) -> None:
    """Refits a twin on calibration inputs; it stays as it was without them where that fits held-back ones better."""
    if not (run.opened.calibration.samples and run.measure.told):
        run.calibrate(twin)
        return
    saved, before = twin.folds(), run.error(twin)
    run.calibrate(twin)
    if not run.error(twin) <= before:
        twin.refold(saved)


def _pruner(run: Run, unit: Unit, share: float | None) -> Pruner:
    """Measures on calibration inputs, where there are enough of them to judge and to estimate from.

    What can be read in several ways is read as the model that keeps a share loses least on the inputs that judge.
    """
    opened, options, estimate, feeds = run.opened, run.options, run.estimate, run.opened.feeds
    calibration, few = opened.calibration, feeds
    if opened.calibration.samples >= ENOUGH:
        judging, rest = opened.calibration.split(min(JUDGES, opened.calibration.samples // 2))
        if rest.samples:
            real = measured(opened.trace, rest, options.seed)
            feeds, estimate = judging, Estimate(opened.trace, opened.feeds[0], options.seed, real, estimate)
            calibration, few = rest, opened.calibration.split(FEW)[0]
    first, *others = Pruner.each(run.planner, unit, Known(estimate, feeds, few, calibration), run.clock.note)
    if not others or share is None:
        return first
    if options.data is None and not opened.calibration.samples:
        feeds = _synthetic(opened)
    original = write(run.planner.original, {})
    expected = results(original.model, feeds)

    def error(pruner: Pruner) -> float:
        written = write(pruner.at(share, pruner.aside)[0].twin, {})
        return compare(expected, results(written.model, feeds)).error

    return min((first, *others), key=error)


def _synthetic(opened: Opened) -> list[Feed]:
    """Feeds like the first, of about `SYNTHETIC` samples in all: images with the spectrum of natural ones."""
    feed, seed = opened.feeds[0], opened.options.seed + 1
    samples = max([1, *(len(value) for value in feed.values() if value.ndim)])
    made = [synthetic(feed, samples, seed + number, opened.span) for number in range(-(-SYNTHETIC // samples))]
    return [{name: found if feed[name].ndim else feed[name] for name, found in one.items()} for one in made]
