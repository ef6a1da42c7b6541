"""The whole story: load, trace, judge, plan, rewrite, verify, report."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import onnx

from onnx_condense import model_io
from onnx_condense.alignment import width_multiple
from onnx_condense.bodies import flatten
from onnx_condense.builder import Builder
from onnx_condense.calibration import calibrate, measured
from onnx_condense.canonicalize import fold_batchnorm
from onnx_condense.channels import Refusal, Trace
from onnx_condense.errors import PlanError
from onnx_condense.evaluation import ApproximationError, Measure, scorer
from onnx_condense.facts import Facts
from onnx_condense.faster import ensure_faster
from onnx_condense.feeds import model_specs
from onnx_condense.fused import unfuse
from onnx_condense.inlining import inline
from onnx_condense.inputs import Feed, make_feeds, other_feed, sized
from onnx_condense.model_io import Source
from onnx_condense.options import DEFAULT_TRIALS, INSPECT_THRESHOLDS, Options
from onnx_condense.plan import Plan
from onnx_condense.proof import prove, unchanged
from onnx_condense.pruning import Pruner
from onnx_condense.qoperators import opened as open_integers
from onnx_condense.refitting import Estimate, refit_where_better
from onnx_condense.report import (
    LatencyReport,
    ModelFacts,
    RefusalReport,
    Report,
    SearchReport,
    VerificationReport,
    alignment_report,
    count_parameters,
    finite,
    group_reports,
    model_facts,
    refusal_reports,
    warnings_for,
)
from onnx_condense.rewrite import Written, count_macs, write
from onnx_condense.search import Candidate, goal_of, search
from onnx_condense.shards import Calibration
from onnx_condense.shards import opened as open_shards
from onnx_condense.shuffles import trace_unshuffled
from onnx_condense.state import State
from onnx_condense.tolerance import fit
from onnx_condense.verify import Results, results

Model = str | os.PathLike[str] | onnx.ModelProto
Progress = Callable[[str], None]
"""Called with the name of each stage as it begins."""

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
        result: dict[str, Any] = finite(asdict(self))
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
        builder.refine = lambda state: refit_where_better(state, estimate, partial(_error, opened, expected))
    elif options.refits:
        builder.refine = lambda state: refit_where_better(state, estimate, lambda _: 0.0)
    latency = found = None
    again = partial(_decide, opened, builder, expected)
    with clock("plan"):
        if replay is not None:
            state = builder.replayed(replay)
        elif options.budgeted:
            state, found, again = _budgeted(opened, builder, expected, estimate, score, clock)
        else:
            state = again()
    if options.ensure_faster and state.plans:
        with clock("measure"):
            state, latency = ensure_faster(opened.source, opened.feeds, builder, again)
    if replay is None and (latency is not None or not options.budgeted):
        _calibrate(opened, clock, state)
    plan = replay or _plan(opened, builder, state)
    if dry_run or not (state.plans or opened.folded):
        verification = None if dry_run else unchanged(expected, options)
        report = _report(opened, builder, state, None, verification, latency, found, source, clock)
        return Result(opened.source.proto, plan, report, opened.source)
    with clock("rewrite"):
        provenance = model_io.provenance(opened.source, plan.options)
        small, twin = write(state, provenance), write(state, provenance, expanded=True)
    with clock("verify"):
        proof = prove(opened.source.proto, expected, opened.trace, opened.feeds, opened.other, small, twin, options)
    report = _report(opened, builder, state, small, proof, latency, found, source, clock)
    return Result(small.model, plan, report, opened.source)


def rewrite(model: Model, plan: Plan) -> onnx.ModelProto:
    """Applies a plan to the model that it names, without verification. Raises PlanError for another model."""
    opened = open_model(model, Options(), replay=plan)
    state = Builder(opened.trace, opened.options, plan.align).replayed(plan)
    if not (state.plans or opened.folded):
        return opened.source.proto
    return write(state, model_io.provenance(opened.source, plan.options)).model


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


# ---------------------------------------------------------------------------------------------------- stages


class _Clock:
    """Names the stages for the progress display and adds up their seconds; of a stage within a stage, once."""

    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self.note = progress or (lambda stage: None)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self.note(stage)
        start, before = time.perf_counter(), sum(self.seconds.values())
        yield
        inner = sum(self.seconds.values()) - before
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - start - inner, 4)


@dataclass(frozen=True)
class Opened:
    """A model that is loaded and traced, with its verification inputs.

    other: a feed with other sizes on every symbolic axis. batch: size of a symbolic batch axis in the feeds.
    folded: whether a BatchNormalization became part of the weights before it.
    calibration: the inputs to estimate from; the feeds are a part of what was given where there are no others.
    """

    source: Source
    options: Options
    trace: Trace
    feeds: list[Feed]
    other: Feed | None
    batch: int
    folded: bool
    calibration: Calibration


def open_model(
    model: Model,
    options: Options,
    clock: _Clock | None = None,
    replay: Plan | None = None,
    executor: Executor | None = None,
) -> Opened:
    """Loads and traces a model. Raises InputError, UsageError and PlanError as `condense` does."""
    clock = clock or _Clock(None)
    with clock("load"):
        source = model_io.load(model)
        if replay is not None:
            if replay.model_sha256 != source.sha256:
                raise PlanError(f"the plan belongs to another model (sha256 {replay.model_sha256[:12]}): plan this one")
            options = _replayed(options, replay)
        plain = unfuse(inline(source.proto))
        working = fold_batchnorm(plain) if options.fold_batchnorm else plain
        graph = model_io.import_graph(working)
        specs = model_specs(working, graph)
        feeds: list[Feed] = []
        calibration = Calibration((), executor)
        if options.calibration is not None and replay is None:
            shards, feeds = open_shards(sized(specs, options.input_shape), options.calibration, options.data is None)
            calibration = Calibration(shards, executor)
        if not feeds:
            feeds = make_feeds(working, specs, options.data, options.input_shape, options.seed)
        other = other_feed(working, specs, feeds[0], options.seed)
    with clock("trace"):
        form, inner = open_integers(working)
        flat = flatten(form, feeds[0], other)
        graph = graph if flat.model is working else model_io.import_graph(flat.model)
        traced = trace_unshuffled(Facts(flat.model, graph, flat.feed, flat.other, flat.bodies, inner))
        left = [Refusal(*refusal) for refusal in flat.left]
        traced = replace(traced, refusals=(*traced.refusals, *left), untraced=sum(r.parameters for r in left))
    batches = [len(feeds[0][s.name]) for s in specs if s.dims and isinstance(s.dims[0], str)]
    return Opened(source, options, traced, feeds, other, max([1, *batches]), working is not plain, calibration)


def _replayed(options: Options, plan: Plan) -> Options:
    """The plan's options, with the inputs that the caller gives. Raises PlanError."""
    try:
        planned = Options.of_plan(plan.options, plan.align)
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError(f"the plan's options are damaged ({error}): write it again with --plan") from error
    shapes = plan.input_shapes if options.data is None else {}
    return replace(planned, data=options.data, seed=options.seed, tolerance=options.tolerance, input_shape=shapes)


def _decide(opened: Opened, builder: Builder, expected: Results) -> State:
    """The state at the thresholds, or at those that the tolerance asks for."""
    tolerance = opened.options.tolerance
    return builder.build(1.0) if tolerance is None else fit(builder, partial(_error, opened, expected), tolerance)


def _budgeted(
    opened: Opened, builder: Builder, expected: Results, estimate: Estimate, score: Measure | None, clock: _Clock
) -> tuple[State, SearchReport | None, partial[State]]:
    """The state that meets a budget, what was tried for it, and what makes it again with other multiples."""
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
        state = pruner.fit(share, partial(_calibrate, opened, clock))
    else:
        make = partial(_candidate, opened, builder, clock)
        trials = options.trials or DEFAULT_TRIALS
        state, found = search(pruner, make, goal, trials, clock.note, calibration.executor)
    return state, found, partial(pruner.loosened, state)


def _calibrate(opened: Opened, clock: _Clock, state: State) -> None:
    """Refits a state on the calibration inputs, where there are any."""
    if opened.calibration.samples and opened.options.refits and state.plans:
        with clock("calibrate"):
            calibrate(state, opened.calibration, opened.options.seed, clock.note)


def _candidate(opened: Opened, builder: Builder, clock: _Clock, state: State) -> Candidate:
    """The very model that would be written for a state."""
    _calibrate(opened, clock, state)
    written = write(state, model_io.provenance(opened.source, _named(opened, builder)))
    return Candidate(written.model, count_parameters(written.model.graph)[0], written.macs // opened.batch)


def _error(opened: Opened, expected: Results, state: State) -> float:
    """The approximation error of a state."""
    return ApproximationError(expected, opened.feeds)(write(state, {}).model) if state.plans else 0.0


def _measure(unit: str) -> Callable[[State], int]:
    """What a budget bounds, of a state."""
    if unit == "macs":
        return lambda state: write(state, {}).macs
    return lambda state: count_parameters(write(state, {}).model.graph)[0]


def _named(opened: Opened, builder: Builder) -> dict[str, Any]:
    """The options of the plan, as JSON values."""
    return opened.options.to_json() | {"align": builder.align}


def _plan(opened: Opened, builder: Builder, state: State) -> Plan:
    options = opened.options
    shapes = {name: tuple(array.shape) for name, array in opened.feeds[0].items()}
    groups = tuple(state.plans[index] for index in sorted(state.plans))
    refits = tuple(state.refits[place] for place in sorted(state.refits))
    named = _named(opened, builder)
    return Plan(
        opened.source.sha256, options.method, named, builder.align, shapes, options.fold_batchnorm, groups, refits
    )


def _facts_before(opened: Opened) -> ModelFacts:
    source = opened.source
    macs = count_macs(State(opened.trace)) // opened.batch
    return model_facts(source.proto, macs, sha256=source.sha256, size=source.size, path=source.path)


def _report(
    opened: Opened,
    builder: Builder,
    state: State,
    small: Written | None,
    verification: VerificationReport | None,
    latency: LatencyReport | None,
    found: SearchReport | None,
    align_source: str,
    clock: _Clock,
) -> Report:
    after = model_facts(small.model, small.macs // opened.batch) if small else None
    groups = group_reports(builder, state)
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
