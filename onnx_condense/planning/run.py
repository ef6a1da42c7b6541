"""One run: the model that was opened, what is expected of it, and what is done to its twins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from onnx_condense.goals import Share
from onnx_condense.merging.methods import MANNERS
from onnx_condense.merging.twin import Twin
from onnx_condense.model import files
from onnx_condense.model.inputs import Feed
from onnx_condense.model.outputs import samples_in
from onnx_condense.options import DEFAULT_THRESHOLD, Options
from onnx_condense.planning.candidates import Candidate
from onnx_condense.planning.made_up import MadeUp
from onnx_condense.planning.selection import chosen_groups, chosen_weights
from onnx_condense.planning.thresholds import Planner, untouched
from onnx_condense.planning.written import judged
from onnx_condense.prepare import Clock, Opened
from onnx_condense.proving.compare import Results, is_told, results
from onnx_condense.proving.losses import lost, scores_in
from onnx_condense.proving.scorers import ApproximationError
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.moments import Care
from onnx_condense.refitting.refit import EXACT, refit_where_better
from onnx_condense.refitting.samples import Calibration
from onnx_condense.refitting.summing import Summing, both, measured, readers_of
from onnx_condense.rewriting.sizes import parameters_of
from onnx_condense.rewriting.writer import write

MIXES = 64
"""Mixes of targets that choose how strong a refit's ridge is where a goal decides the widths."""


@dataclass(frozen=True, eq=False)
class Run:
    """A model that is being condensed.

    Attributes:
        opened: the model, its options and its inputs.
        expected: what it gives on the verification inputs. elsewhere: at other sizes.
        measure: the approximation error of a model.
        estimate: moments of what its consumers read, without data.
        planner: makes the twins, refitted by those moments where the method asks for it.
        clock: names the stages and adds up their seconds.
    """

    opened: Opened
    expected: Results
    elsewhere: Results
    measure: ApproximationError
    estimate: Estimate
    planner: Planner
    clock: Clock

    @staticmethod
    def of(opened: Opened, align: int, clock: Clock) -> Run:
        """Raises UsageError for a glob that matches nothing, InputError where the model does not run."""
        options, trace = opened.options, opened.trace
        chosen_groups(trace, options)  # before the model is run
        if opened.calibration.suffices and isinstance(options.goal, Share):
            estimate = Estimate.beside_real(trace, trace.facts.feed, options.seed, opened.span)
        else:
            estimate = Estimate(trace, trace.facts.feed, options.seed, span=opened.span)
        with clock("verify"):
            found = results(opened.source.proto, [*opened.feeds, *opened.others])
        expected, elsewhere = found[: len(opened.feeds)], found[len(opened.feeds) :]
        measure = ApproximationError(expected, opened.feeds, _is_told(opened, expected))
        return Run(opened, expected, elsewhere, measure, estimate, _planner(opened, measure, estimate, align), clock)

    def asking(self, options: Options) -> Run:
        """The same model, with other options."""
        opened = replace(self.opened, options=options)
        planner = _planner(opened, self.measure, self.estimate, self.planner.align)
        return replace(self, opened=opened, planner=planner)

    @property
    def by_default(self) -> bool:
        """Whether nothing said how much is removed."""
        return self.opened.asked is not None

    def at_thresholds(self) -> Planner:
        """What makes twins at thresholds of the same model, from the default one up."""
        options = replace(self.options, budget=None, trials=None, threshold=DEFAULT_THRESHOLD)
        return self.asking(options).planner

    @property
    def options(self) -> Options:
        """What to do."""
        return self.opened.options

    @property
    def stated(self) -> dict[str, Any]:
        """The options of the plan, as JSON values."""
        return self.options.to_json() | {"align": self.planner.align}

    def error(self, twin: Twin) -> float:
        """The approximation error of a twin."""
        return _error(self.measure, twin)

    def lost(self, twin: Twin) -> float:
        """What the outputs of a twin lose on the verification inputs (see `proving.losses`)."""
        return judged(twin, lambda model: lost(self.expected, results(model, self.opened.feeds), self._scores))

    @cached_property
    def _scores(self) -> frozenset[str]:
        return scores_in(self.opened.trace.facts.model, self.expected)

    @cached_property
    def made_up(self) -> MadeUp | None:
        """Images on which choices are tried without data, where there may be some."""
        return MadeUp.of(self.opened)

    @property
    def judges_itself(self) -> bool:
        """Whether calibration inputs are too few to hold some back: what was fitted to them is verified on them."""
        calibration = self.opened.calibration
        return calibration.samples > 0 and not calibration.holds_back and self.options.data is None

    @cached_property
    def judges(self) -> tuple[list[Feed], Calibration]:
        """The calibration inputs that judge what a budget takes, and the others."""
        return self.opened.calibration.judges()

    @cached_property
    def summing(self) -> Summing:
        """Sums of what consumers read of those that do not judge."""
        trace = self.opened.trace
        ahead = readers_of(trace, [w.place for w in chosen_weights(trace, self.options) if not w.lookup])
        return measured(trace, self.judges[1], self.options.seed, ahead)

    @cached_property
    def summing_all(self) -> Summing:
        """The same of all calibration inputs."""
        rest = self.judges[1]
        calibration, trace, seed = self.opened.calibration, self.opened.trace, self.options.seed
        if not rest.samples:
            return measured(trace, calibration, seed)
        share = (calibration.samples - rest.samples) / rest.samples
        return both(self.summing, measured(trace, calibration.taken(rest), seed, share=share, remembers=False))

    def calibrate(self, twin: Twin, fitted: Twin | None = None) -> None:
        """Refits a twin on the calibration inputs, where there are any; where their error is bounded, on enough.

        fitted: one that was refitted by moments of these inputs.
        """
        calibrates = MANNERS[self.options.method].calibrates and not (self.options.bounded and self.judges_itself)
        if self.opened.calibration.samples and calibrates and twin.changed:
            from onnx_condense.refitting.calibrate import Effort, calibrate  # few runs have inputs to estimate from

            alike = fitted if fitted is not None and fitted.kept_as(twin) else None
            care = Care(EXACT) if self.options.goal is None else Care(EXACT, MIXES)
            effort = Effort(care=care, fitted=alike)
            with self.clock("calibrate"):
                calibrate(twin, self.opened.calibration, self.options.seed, self.clock.note, effort)

    def candidate(self, twin: Twin) -> Candidate:
        """The very model that would be written for a twin."""
        self.calibrate(twin)
        written = write(twin, files.provenance(self.opened.source, self.stated))
        return Candidate(written.model, parameters_of(twin), written.macs // self.opened.batch, written)


def _is_told(opened: Opened, expected: Results) -> bool:
    """Whether the outputs on the feeds say anything; one sample is compared with one to estimate from."""
    feeds = opened.feeds
    told = is_told(opened.told, expected, feeds)
    if not told or opened.told is not None or not opened.calibration.samples or sum(map(samples_in, feeds)) > 1:
        return told
    others, _ = opened.calibration.split(1)
    return is_told(None, [*expected, *results(opened.source.proto, others)], [*feeds, *others])


def _planner(opened: Opened, measure: ApproximationError, estimate: Estimate, align: int) -> Planner:
    options, trace = opened.options, opened.trace
    manner, refine = MANNERS[options.method], untouched
    if manner.refits:
        cautious = manner.cautious and options.goal is None and (measure.told or options.bounded)
        error = partial(_error, measure) if cautious else lambda twin: 0.0
        refine = partial(refit_where_better, estimate=estimate, error=error)
    return Planner(trace, options, align, chosen_groups(trace, options), refine)


def _error(measure: ApproximationError, twin: Twin) -> float:
    return judged(twin, measure) if twin.changed else 0.0
