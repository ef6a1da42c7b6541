"""The whole story: load, trace, judge, plan, rewrite, verify, report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import onnx

from onnx_condense.documents import finite, head
from onnx_condense.merging.plan import Plan
from onnx_condense.merging.twin import Twin
from onnx_condense.model import files
from onnx_condense.model.files import Source
from onnx_condense.operators.queries import count_parameters
from onnx_condense.options import DEFAULT_TRIALS, INSPECT_THRESHOLDS, Options
from onnx_condense.planning.alignment import width_multiple
from onnx_condense.planning.budget import Pruner
from onnx_condense.planning.never_slower import LatencyReport, ensure_faster
from onnx_condense.planning.search import Candidate, SearchReport, goal_of, search
from onnx_condense.planning.thresholds import Builder
from onnx_condense.planning.tolerance import fit
from onnx_condense.prepare import Model, Opened, Progress, _Clock, open_model
from onnx_condense.proving.compare import Results, results
from onnx_condense.proving.scorers import ApproximationError, Measure, scorer
from onnx_condense.proving.surgery import VerificationReport, prove, unchanged
from onnx_condense.refitting.calibrate import calibrate, measured
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.refit import refit_where_better
from onnx_condense.report.making import alignment_report, group_reports, model_facts, refusal_reports, warnings_for
from onnx_condense.report.values import ModelFacts, RefusalReport, Report
from onnx_condense.rewriting.writer import Written, count_macs, write

ENOUGH = 32
"""Calibration samples from which on they choose a budget's channels, too."""

JUDGES = 64
"""Most of them that measure what the outputs lose, and at most half of them all."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What `condense` returns; `changed` says whether `model` is another than the input.

    Attributes:
        model: the condensed model; the input where nothing was condensed.
        plan: what was decided; its `groups` are empty where nothing was condensed.
        report: what was found, done and measured.
        source: the model as it came in.
    """

    model: onnx.ModelProto
    plan: Plan
    report: Report
    source: Source

    @property
    def changed(self) -> bool:
        return self.model is not self.source.proto


@dataclass(frozen=True)
class GroupAnalysis:
    """One dependency group of `analyze`: its producers, its channels, and the channels that stay at each threshold."""

    layers: tuple[str, ...]
    width: int
    widths: Mapping[float, int]
    highest_cosine: float


@dataclass(frozen=True)
class Analysis:
    """What could be condensed, and what not and why.

    share: of the parameters of Gemm, MatMul and Conv (and their quantized forms), the part that is sliced when groups
        shrink; not a number where there are none.
    """

    model: ModelFacts
    groups: tuple[GroupAnalysis, ...]
    refusals: tuple[RefusalReport, ...]
    share: float

    def to_json(self) -> dict[str, Any]:
        """The analysis as a JSON object; numbers that are not finite are null."""
        result: dict[str, Any] = finite(head("analysis", 1) | asdict(self))
        return result


def condense(
    model: Model,
    options: Options | None = None,
    *,
    replay: Plan | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> Result:
    """Condenses a model and proves the result with onnxruntime.

    Args:
        model: a path, or a model in memory (which is not changed).
        options: what to do; `Options()` condenses at threshold 0.88.
        replay: a plan to apply instead of judging the model.
        dry_run: stop at the plan; the returned model is the input and nothing is verified.
        progress: called with the name of each stage.
        executor: its workers read the shards of `options.calibration` (files, by their absolute paths) and sum over
            them, and evaluate the candidates of a search; the result is the same, bit for bit, with any number of
            workers and with none.

    Raises:
        InputError: the model or the data cannot be used.
        UsageError: a glob matches nothing, or options contradict each other.
        PlanError: the plan belongs to another model.
        VerificationError: the surgery limit, the tolerance or the budget is not met.
        EvaluationError: what `evaluate` names failed, or gave no score.
        WorkerError: workers of the executor died.
    """
    options = options or Options()
    clock = _Clock(progress)
    score = scorer(options) if replay is None else None
    opened = open_model(model, options, clock, replay, executor)
    options = opened.options
    multiple, source = width_multiple(options) if replay is None else (replay.align, "the plan")
    builder = Builder(opened.trace, options, multiple)
    estimate = Estimate(opened.trace, opened.trace.facts.feed, options.seed)
    with clock("verify"):
        expected = results(opened.source.proto, opened.feeds)
    if options.method == "auto" and not options.budgeted:
        builder.refine = lambda twin: refit_where_better(twin, estimate, partial(_error, opened, expected))
    elif options.refits:
        builder.refine = lambda twin: refit_where_better(twin, estimate, lambda _: 0.0)
    latency = found = None
    again = partial(_decide, opened, builder, expected)
    with clock("plan"):
        if replay is not None:
            twin = builder.replayed(replay)
        elif options.budgeted:
            twin, found, again = _budgeted(opened, builder, expected, estimate, score, clock)
        else:
            twin = again()
    if options.ensure_faster and twin.plans:
        with clock("measure"):
            twin, latency = ensure_faster(opened.source, opened.feeds, builder, again)
    if replay is None and (latency is not None or not options.budgeted):
        _calibrate(opened, clock, twin)
    plan = replay or _plan(opened, builder, twin)
    if dry_run or not (twin.plans or opened.folded):
        verification = None if dry_run else unchanged(expected, options)
        report = _report(opened, builder, twin, None, verification, latency, found, source, clock)
        return Result(opened.source.proto, plan, report, opened.source)
    with clock("rewrite"):
        provenance = files.provenance(opened.source, plan.options)
        small, expanded = write(twin, provenance), write(twin, provenance, expanded=True)
    with clock("verify"):
        proof = prove(opened.source.proto, expected, opened.trace, opened.feeds, opened.other, small, expanded, options)
    report = _report(opened, builder, twin, small, proof, latency, found, source, clock)
    return Result(small.model, plan, report, opened.source)


def rewrite(model: Model, plan: Plan) -> onnx.ModelProto:
    """Applies a plan to the model that it names, without verification. Raises PlanError for another model."""
    opened = open_model(model, Options(), replay=plan)
    twin = Builder(opened.trace, opened.options, plan.align).replayed(plan)
    if not (twin.plans or opened.folded):
        return opened.source.proto
    return write(twin, files.provenance(opened.source, plan.options)).model


def analyze(model: Model, options: Options | None = None, progress: Progress | None = None) -> Analysis:
    """Says what could be condensed, to which width at several thresholds, what not, and why. Changes nothing.

    Raises InputError and UsageError as `condense` does.
    """
    clock = _Clock(progress)
    opened = open_model(model, options or Options(), clock)
    builder = Builder(opened.trace, opened.options, 1)
    with clock("judge"):
        groups = tuple(
            GroupAnalysis(
                group.layers,
                len(group.units),
                {t: builder.width_at(group, t) for t in INSPECT_THRESHOLDS},
                builder.judged(group).highest,
            )
            for group in builder.groups
        )
    refusals = refusal_reports(opened.trace)
    return Analysis(_facts_before(opened), groups, refusals, opened.trace.reached())


def _decide(opened: Opened, builder: Builder, expected: Results) -> Twin:
    """The twin at the thresholds, or at those that the tolerance asks for."""
    tolerance = opened.options.tolerance
    return builder.build(1.0) if tolerance is None else fit(builder, partial(_error, opened, expected), tolerance)


def _budgeted(
    opened: Opened, builder: Builder, expected: Results, estimate: Estimate, score: Measure | None, clock: _Clock
) -> tuple[Twin, SearchReport | None, partial[Twin]]:
    """The twin that meets a budget, what was tried for it, and what makes it again with other multiples."""
    options, calibration = opened.options, opened.calibration
    goal = goal_of(options, score, ApproximationError(expected, opened.feeds), opened.source.proto, clock.note)
    unit, share = options.budget if options.budget is not None and goal is None else ("params", 0.0)
    feeds = opened.feeds
    if calibration.samples >= ENOUGH:
        judging, rest = calibration.split(min(JUDGES, calibration.samples // 2))
        if rest.samples:
            real = measured(opened.trace, rest, options.seed)
            feeds, estimate = judging, Estimate(opened.trace, opened.feeds[0], options.seed, real, estimate)
    pruner = Pruner(builder, estimate, unit, _measure(unit), feeds, clock.note)
    found = None
    if goal is None:
        twin = pruner.fit(share, partial(_calibrate, opened, clock))
    else:
        make = partial(_candidate, opened, builder, clock)
        trials = options.trials or DEFAULT_TRIALS
        twin, found = search(pruner, make, goal, trials, clock.note, calibration.executor)
    return twin, found, partial(pruner.loosened, twin)


def _calibrate(opened: Opened, clock: _Clock, twin: Twin) -> None:
    """Refits a twin on the calibration inputs, where there are any."""
    if opened.calibration.samples and opened.options.refits and twin.plans:
        with clock("calibrate"):
            calibrate(twin, opened.calibration, opened.options.seed, clock.note)


def _candidate(opened: Opened, builder: Builder, clock: _Clock, twin: Twin) -> Candidate:
    """The very model that would be written for a twin."""
    _calibrate(opened, clock, twin)
    written = write(twin, files.provenance(opened.source, _named(opened, builder)))
    return Candidate(written.model, count_parameters(written.model.graph)[0], written.macs // opened.batch)


def _error(opened: Opened, expected: Results, twin: Twin) -> float:
    """The approximation error of a twin."""
    return ApproximationError(expected, opened.feeds)(write(twin, {}).model) if twin.plans else 0.0


def _measure(unit: str) -> Callable[[Twin], int]:
    """What a budget bounds, of a twin."""
    if unit == "macs":
        return lambda twin: write(twin, {}).macs
    return lambda twin: count_parameters(write(twin, {}).model.graph)[0]


def _named(opened: Opened, builder: Builder) -> dict[str, Any]:
    """The options of the plan, as JSON values."""
    return opened.options.to_json() | {"align": builder.align}


def _plan(opened: Opened, builder: Builder, twin: Twin) -> Plan:
    options = opened.options
    shapes = {name: tuple(array.shape) for name, array in opened.feeds[0].items()}
    groups = tuple(twin.plans[index] for index in sorted(twin.plans))
    refits = tuple(twin.refits[place] for place in sorted(twin.refits))
    named = _named(opened, builder)
    return Plan(
        opened.source.sha256, options.method, named, builder.align, shapes, options.fold_batchnorm, groups, refits
    )


def _facts_before(opened: Opened) -> ModelFacts:
    source = opened.source
    macs = count_macs(Twin(opened.trace)) // opened.batch
    return model_facts(source.proto, macs, sha256=source.sha256, size=source.size, path=source.path)


def _report(
    opened: Opened,
    builder: Builder,
    twin: Twin,
    small: Written | None,
    verification: VerificationReport | None,
    latency: LatencyReport | None,
    found: SearchReport | None,
    align_source: str,
    clock: _Clock,
) -> Report:
    after = model_facts(small.model, small.macs // opened.batch) if small else None
    groups = group_reports(builder, twin)
    changed = {*latency.widened, *latency.rolled_back} if latency else set()
    warnings = warnings_for(verification, latency, opened.options, builder)
    for warning in warnings:
        _log.warning(warning)
    return Report(
        _facts_before(opened),
        after,
        opened.options.to_json(),
        alignment_report(builder.align, align_source, [g for g in groups if g.layers[0] not in changed]),
        latency,
        found,
        groups,
        refusal_reports(opened.trace),
        verification,
        warnings,
        dict(clock.seconds),
    )
