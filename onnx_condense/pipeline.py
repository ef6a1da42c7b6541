"""The whole story: prepare, decide the widths, never slower, calibrate, write, prove, report."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial

import onnx

from onnx_condense.errors import UsageError, VerificationError
from onnx_condense.expected import shown
from onnx_condense.factoring.residual import Residual
from onnx_condense.factoring.weights import whole
from onnx_condense.merging.measured import Measured
from onnx_condense.merging.plan import Plan
from onnx_condense.merging.twin import Twin
from onnx_condense.model import files
from onnx_condense.model.blas import threads_for
from onnx_condense.model.files import Model
from onnx_condense.model.held import filled
from onnx_condense.model.trial import digest
from onnx_condense.operators.reasons import Because, Reason
from onnx_condense.options import INSPECT_THRESHOLDS, Options
from onnx_condense.planning.again import again
from onnx_condense.planning.alignment import width_multiple
from onnx_condense.planning.blame import blamed
from onnx_condense.planning.hardware import Hardware, Noted, ThisMachine
from onnx_condense.planning.heads import exact_heads, may_plan_again, without_heads
from onnx_condense.planning.no_larger import no_larger
from onnx_condense.planning.replay import check_error, replayed
from onnx_condense.planning.rotating import turned
from onnx_condense.planning.run import Run
from onnx_condense.planning.selection import chosen_groups, chosen_weights
from onnx_condense.planning.shortening import (
    exact_rank,
    has_norms,
    in_fewer_directions,
    streams_of,
    traced_through_norms,
)
from onnx_condense.planning.strategies import AtThresholds, WithinTolerance, strategy_of
from onnx_condense.planning.thresholds import Planner
from onnx_condense.planning.tying import held_once, ties_of
from onnx_condense.prepare import Clock, Opened, open_model
from onnx_condense.progress import Progress
from onnx_condense.proving.scorers import Scorer, scorer
from onnx_condense.proving.surgery import Case, prove, unchanged
from onnx_condense.report.cosines import cosines_of
from onnx_condense.report.making import (
    Ended,
    facts_before,
    pair_analysis,
    refusal_reports,
    report_of,
    tie_reports,
    warns,
)
from onnx_condense.report.values import Analysis, GroupAnalysis, HeadReport, Result, StreamReport
from onnx_condense.rewriting.kept import Failed
from onnx_condense.rewriting.writer import write
from onnx_condense.tracing.trace import Group, Refusal

_log = logging.getLogger(__name__)

Finish = Callable[[Opened], Result]
"""Condenses what was opened."""

Lost = Callable[[onnx.ModelProto], float]
"""What the outputs of a smaller model lose."""

Smaller = Callable[[Opened, Clock, float, float, Lost], Opened | None]
"""A smaller model in the place of what was opened, given the share of the model that is left otherwise and what its
outputs lose then; None where that is no worse."""


@dataclass(frozen=True)
class Surroundings:
    """Where a run takes place.

    Attributes:
        progress: called with the name of each stage.
        executor: its workers read shards and evaluate candidates (see `condense`).
        hardware: the machine for which widths are aligned, and on which models race.
    """

    progress: Progress | None = None
    executor: Executor | None = None
    hardware: Hardware = field(default_factory=ThisMachine)


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
        options: what to do; where nothing in them says how much is removed, the smallest model found whose outputs
            change by at most 1 % is made (see `Options.settled`).
        replay: a plan to apply instead of judging the model.
        dry_run: stop at the plan; the returned model is the input and nothing is verified.
        progress: called with the name of each stage.
        executor: its workers read the shards of `options.calibration` (files, by their absolute paths) and sum over
            them, and evaluate the candidates of a search; the result is the same, bit for bit, with any number of
            workers and with none.

    Raises:
        InputError: the model or the data cannot be used.
        LimitError: the model asks for more than it is trusted with.
        UsageError: a glob matches nothing, or options contradict each other.
        PlanError: the plan belongs to another model.
        VerificationError: the surgery limit, the tolerance or the budget is not met.
        EvaluationError: what `evaluate` names failed, or gave no score.
        WorkerError: workers of the executor died.
    """
    return condense_in(Surroundings(progress, executor), model, _checked(options), replay, dry_run)


def condense_in(
    surroundings: Surroundings, model: Model, options: Options, replay: Plan | None = None, dry_run: bool = False
) -> Result:
    """As `condense`, in other surroundings."""
    clock = Clock(surroundings.progress)
    score = scorer(options) if replay is None else None
    opened = open_model(
        model, options if replay is not None else options.settled(), clock, replay, surroundings.executor
    )
    opened = replace(opened, asked=options if options.open and replay is None else None)
    finish = partial(
        _condense, hardware=surroundings.hardware, clock=clock, score=score, replay=replay, dry_run=dry_run
    )
    with threads_for(opened.source.proto):
        if replay is not None:
            return finish(again(opened, replay, clock))
        narrow = in_fewer_directions(without_heads(opened, clock), clock, surroundings.hardware)
        found = _in_bases(held_once(narrow, clock), clock, finish)
        if dry_run or not may_plan_again(opened):
            return found
        ways = [(narrow, _shorter_streams)] * has_norms(opened) + [(opened, _fewer_heads)] * opened.trace.has_heads
        return _planned_again(opened, clock, finish, found, ways) if ways else found


def _in_bases(opened: Opened, clock: Clock, finish: Finish) -> Result:
    """A model with its streams in other bases, where those do."""
    other = turned(opened, clock)
    if other is not opened:
        try:
            return finish(other)
        except VerificationError as error:  # the channels as they are may do
            _log.warning("streams in another basis are left alone: %s", error)
    return finish(opened)


def _fewer_heads(opened: Opened, clock: Clock, kept: float, loss: float, lost: Lost) -> Opened | None:
    """The model after whole heads left, where there are cheap ones (see `Smaller`)."""
    from onnx_condense.planning.fewer_heads import fewer_heads  # few runs have budgets

    return fewer_heads(opened, clock, kept, loss)


def _shorter_streams(opened: Opened, clock: Clock, kept: float, loss: float, lost: Lost) -> Opened | None:
    """The model with streams in fewer directions, where there are cheap ones to leave out (see `Smaller`)."""
    from onnx_condense.planning.shorter_streams import shorter_streams  # few runs have budgets

    return shorter_streams(opened, clock, kept, loss, lost)


def _planned_again(
    opened: Opened, clock: Clock, finish: Finish, found: Result, ways: Sequence[tuple[Opened, Smaller]]
) -> Result:
    """The run on the model, made smaller in one of these ways before, whose outputs lose least."""
    from onnx_condense.planning.fewer_heads import losses  # few runs have budgets

    lost = losses(opened)
    loss = lost(found.outline)
    for start, smaller in ways:
        other = smaller(start, clock, found.report.share_of(opened.options.goal), loss, lost)
        if other is None:
            continue
        try:
            again = _in_bases(held_once(other, clock), clock, finish)
        except VerificationError as error:  # the model as it was may do
            _log.warning("the model that was planned first is taken: %s", error)
            continue
        after = lost(again.outline)
        if after < loss:
            found, loss = again, after
    return found


def _condense(
    opened: Opened, hardware: Hardware, clock: Clock, score: Scorer | None, replay: Plan | None, dry_run: bool
) -> Result:
    multiple, said = width_multiple(opened.options, hardware.block_width) if replay is None else _stated(replay)
    run, options = Run.of(opened, multiple, clock), opened.options
    if run.by_default and not run.measure.told and options.calibration is None:
        run = run.asking(options.exactly())
    options = run.options
    with clock("plan"):
        strategy = strategy_of(run, score, replay, hardware)
        planned = strategy.twin()
    latency = None
    if options.ensure_faster and planned.twin.plans:
        from onnx_condense.planning.never_slower import ensure_faster  # few runs measure

        with clock("measure"):
            planned, latency = ensure_faster(opened, strategy, planned, Noted(hardware, clock.note))
    if replay is None and not (options.budgeted or options.ensure_faster):
        with clock("plan"):
            planned = run.planner.factored(planned)
    if not planned.calibrated:
        run.calibrate(planned.twin)
    judged = isinstance(strategy, AtThresholds)
    if judged or isinstance(strategy, WithinTolerance):
        planned = no_larger(planned)
    plan = replay or _plan(run, planned.twin)
    ended = Ended(planned, said, latency)
    if dry_run or not (planned.twin.changed or opened.folded or opened.before.counts):
        verification = None if dry_run else unchanged(opened.source.proto, run.expected, options)
        report = report_of(run, replace(ended, verification=verification))
        cosines = cosines_of(run.planner, planned)
        return Result(opened.source.proto, plan, report, opened.source, cosines=cosines, costs=planned.costs)
    with clock("rewrite"):
        provenance = files.provenance(opened.source, plan.options)
        small, expanded = write(planned.twin, provenance), write(planned.twin, provenance, expanded=True)
    with clock("verify"):
        feeds, others, told = opened.feeds, opened.others, run.measure.told
        case = Case(opened.source.proto, run.expected, feeds, others, told, opened.unoptimized, run.elsewhere)
        proof = prove(case, opened.trace, small, expanded, options).beside(opened.before.proof)
        error = proof.approximation_error
        measured = Measured(error if math.isfinite(error) else None, digest(opened.feeds[:1]))
        blame = blamed(run.planner, planned, run.error) if judged and warns(options, proof) else ()
    if replay is None:
        plan = replace(plan, measured=measured)
    elif not math.isnan(error):
        check_error(replay.measured, measured)
    report = report_of(run, replace(ended, written=small, verification=proof, blame=blame))
    return Result(small.model, plan, report, opened.source, small, cosines_of(run.planner, planned), planned.costs)


def rewrite(model: Model, plan: Plan) -> onnx.ModelProto:
    """Applies a plan to the model that it names, without verification.

    Raises:
        InputError: the model cannot be used.
        PlanError: the plan belongs to another model.
    """
    opened = again(open_model(model, Options(), replay=plan), plan, Clock(None), proved=False)
    twin = replayed(opened.trace, plan)
    if not (twin.changed or opened.folded or opened.before.counts):
        return filled(opened.source.proto)
    written = write(twin, files.provenance(opened.source, plan.options))
    return filled(written.model)


def analyze(model: Model, options: Options | None = None, progress: Progress | None = None) -> Analysis:
    """Says what could be condensed, to which width at several thresholds, what not, and why. Changes nothing.

    Args:
        model: a path, or a model in memory.
        options: which groups are looked at, how they are judged, and the inputs.
        progress: called with the name of each stage.

    Raises:
        InputError: the model or the data cannot be used.
        LimitError: the model asks for more than it is trusted with.
        UsageError: a glob matches nothing.
    """
    clock = Clock(progress)
    opened = open_model(model, _checked(options), clock)
    planner = Planner(opened.trace, opened.options, 1, chosen_groups(opened.trace, opened.options))
    with clock("judge"), threads_for(opened.source.proto):
        looked_at = [_looked_at(planner, group) for group in planner.groups]
    groups = tuple(found for found in looked_at if isinstance(found, GroupAnalysis))
    failed = [refusal for found in looked_at if isinstance(found, list) for refusal in found]
    refusals = refusal_reports([*opened.trace.refusals, *failed])
    with clock("judge"):
        chosen = chosen_weights(opened.trace, planner.options)
        pairs = [weight for weight in chosen if weight.pays(planner.original)]
        looks = tuple(pair_analysis(planner.original, weight, INSPECT_THRESHOLDS) for weight in pairs)
    with_pairs = opened.trace.reached([weight.place for weight in pairs])
    large = [Refusal(w.layer, Because(Reason.NO_SMALLER), w.outputs * w.inputs) for w in chosen if w not in pairs]
    stay = refusal_reports([*whole(opened.trace), *large])
    share = opened.trace.reached()
    with clock("judge"):
        heads, ties = _heads(opened), tie_reports(() if opened.options.widths_only else ties_of(opened))
        streams = _streams(opened)
    known = refusals, share, opened.axes, looks, with_pairs, stay, heads, ties, streams
    return Analysis(facts_before(opened), groups, *known)


def _heads(opened: Opened) -> tuple[HeadReport, ...]:
    """How many whole heads there are, and how many are left without loss."""
    planner = exact_heads(opened)
    if planner is None:
        return ()
    kept = dict(planner.build().twin.widths)
    return tuple(HeadReport(g.layers, len(g.units), kept.get(g.index, len(g.units))) for g in planner.groups)


def _streams(opened: Opened) -> tuple[StreamReport, ...]:
    """The streams that normalizations read, and how many directions their writers fill."""
    whole, reports = traced_through_norms(opened), list[StreamReport]()
    for group, stream, twin in () if whole is None else streams_of(whole, opened):
        width, because = len(group.units), None if isinstance(stream, Residual) else str(stream)
        rank = exact_rank(stream, twin) if isinstance(stream, Residual) else width
        reports.append(StreamReport(group.layers, width, rank, because))
    return tuple(reports)


def _looked_at(planner: Planner, group: Group) -> GroupAnalysis | list[Refusal]:
    """What could be condensed of a group; where an error of ours happened, refusals of its layers."""
    try:
        widths = {t: planner.width_at(group, t) for t in INSPECT_THRESHOLDS}
    except Failed as problem:
        because, trace = Because(Reason.FAILED, problem.text), planner.trace
        producers = zip(group.layers, group.producers, strict=True)
        return [Refusal(layer, because, trace.size(node)) for layer, node in producers]
    return GroupAnalysis(group.layers, len(group.units), widths, planner.judged(group).highest)


def _checked(options: Options | None) -> Options:
    """What a caller gave, or the defaults."""
    if options is not None and not isinstance(options, Options):
        raise UsageError(f"options is an Options, as Options(threshold=0.9), not {shown(options)}")
    return options or Options()


def _stated(plan: Plan) -> tuple[int, str]:
    """The multiple that a plan states, and who says so."""
    return plan.align, "the plan"


def _plan(run: Run, twin: Twin) -> Plan:
    """What was decided, as a plan to be replayed."""
    source, options, before = run.opened.source, run.options, run.opened.before
    shapes = {name: tuple(array.shape) for name, array in run.opened.feeds[0].items()}
    groups = tuple(twin.plans[index] for index in sorted(twin.plans))
    refits = tuple(twin.refits[place] for place in sorted(twin.refits))
    mixes = tuple(twin.mixes[index].mix for index in sorted(twin.mixes))
    return Plan(
        source.sha256,
        options.method,
        run.stated,
        run.planner.align,
        shapes,
        options.fold_batchnorm,
        groups,
        refits,
        factors=tuple(twin.factors[place] for place in sorted(twin.factors)),
        rotations=before.rotations if twin.changed else (),
        mixes=mixes,
        heads=before.cut.heads if before.cut else None,
        ties=before.ties,
        streams=before.short.streams if before.short else (),
    )
