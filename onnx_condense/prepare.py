"""From a model to its trace: loaded, brought into the form that is traced, fed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import onnx_graphsurgeon as gs

from onnx_condense.errors import InputError, PlanError
from onnx_condense.expected import shown
from onnx_condense.forms import (
    bases,
    batchnorm,
    blocks,
    bodies,
    branches,
    functions,
    fused,
    integers,
    members,
    slopes,
    tied,
)
from onnx_condense.forms.bases import Rotation
from onnx_condense.forms.stack import Entered
from onnx_condense.forms.tied import Tie
from onnx_condense.merging.plan import Heads, Plan
from onnx_condense.merging.streams import ShortStream
from onnx_condense.model import files
from onnx_condense.model.blame import blamed
from onnx_condense.model.draws import DRAWS, Draw
from onnx_condense.model.files import Model, Source
from onnx_condense.model.inputs import Drawn, Feed, InputSpec, draw_feeds, sized, with_draw
from onnx_condense.model.outputs import Outputs
from onnx_condense.model.surgeon import import_graph
from onnx_condense.model.trial import Trial
from onnx_condense.model.variation import Axis, other_feeds, symbolic_axes
from onnx_condense.operators.facts import Facts, Tried, trial_of
from onnx_condense.operators.ranges import range_stated
from onnx_condense.operators.reasons import Because
from onnx_condense.operators.specs import model_specs
from onnx_condense.options import Options
from onnx_condense.progress import Progress
from onnx_condense.proving.surgery import VerificationReport
from onnx_condense.refitting.samples import Calibration
from onnx_condense.refitting.samples import opened as open_shards
from onnx_condense.refitting.synthetic import Span
from onnx_condense.rewriting.writer import Written
from onnx_condense.tracing.shuffles import trace_unshuffled
from onnx_condense.tracing.trace import Refusal, Trace
from onnx_condense.trust import has_run

_log = logging.getLogger(__name__)

# ---------------------------------------------------------------------------------------------------- stages


class Clock:
    """Names the stages for the progress display and adds up their seconds; of a stage within a stage, once."""

    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    def note(self, stage: str) -> None:
        """Announces a stage, or a part of one."""
        _log.debug("%s", stage)
        if self._progress is not None:
            self._progress(stage)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Announces a stage, and adds up the seconds that it takes."""
        self.note(stage)
        start, before = time.perf_counter(), sum(self.seconds.values())
        yield
        inner = sum(self.seconds.values()) - before
        took = time.perf_counter() - start - inner
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + took, 4)
        _log.debug("%s took %.3f s", stage, took)


@dataclass(frozen=True, eq=False)
class Cut:
    """A model that whole heads have left before it was opened.

    heads: which ones. written: the model without them. proof: of that, None where none was asked for.
    """

    heads: Heads
    written: Written
    proof: VerificationReport | None


@dataclass(frozen=True, eq=False)
class Shortened:
    """A model whose streams lie in fewer directions than before it was opened.

    streams: which ones. written: the model with them. proof: of that, None where none was asked for.
    """

    streams: tuple[ShortStream, ...]
    written: Written
    proof: VerificationReport | None


@dataclass(frozen=True, eq=False)
class Before:
    """What is done to a model before it is traced.

    cut: the whole heads that left. short: streams that lie in fewer directions then. ties: tables that are held once.
    rotations: streams in other bases.
    whole: the trace of the model as it came, None where that is the one that is used.
    """

    rotations: tuple[Rotation, ...] = ()
    cut: Cut | None = None
    ties: tuple[Tie, ...] = ()
    whole: Trace | None = None
    short: Shortened | None = None

    @property
    def counts(self) -> bool:
        """Whether the model is a smaller one by it alone."""
        return bool(self.cut or self.short or self.ties)

    @property
    def proof(self) -> VerificationReport | None:
        """That of all rewrites among them; None where there are none, or none was asked for."""
        cut, short = (None if one is None else one.proof for one in (self.cut, self.short))
        return cut if short is None else short.beside(cut)

    @property
    def written(self) -> Written | None:
        """The model that stands for the one that came; None where that is read."""
        if self.short is not None:
            return self.short.written
        return None if self.cut is None else self.cut.written


@dataclass(frozen=True)
class Opened:
    """A model that is loaded and traced, with its verification inputs.

    others: feeds with other sizes on symbolic axes. axes: what these are.
    told: whether generated feeds move the outputs (see `Drawn`). batch: size of a symbolic batch axis in the feeds.
    folded: whether a BatchNormalization became part of the weights before it. before: what else was done, likewise.
    held: calibration inputs that verify.
    span: between which numbers its inputs lie, where that is known.
    calibration: the inputs to estimate from; the feeds are a part of what was given where there are no others.
    unoptimized: on the feeds and the others, what the model gives without optimizations; None where that is not known.
    asked: the options as they were given, where nothing in them said how much is removed.
    specs: what the inputs are.
    generated: the feeds that there would be without data, for budgets; none where they are the feeds.
    """

    source: Source
    options: Options
    trace: Trace
    feeds: list[Feed]
    others: tuple[Feed, ...]
    axes: tuple[Axis, ...]
    told: bool | None
    batch: int
    folded: bool
    calibration: Calibration
    unoptimized: Sequence[Outputs | None]
    before: Before = Before()
    held: Sequence[Feed] = ()
    asked: Options | None = None
    specs: tuple[InputSpec, ...] = ()
    generated: tuple[Feed, ...] = ()
    span: Span | None = None

    @property
    def without_data(self) -> Sequence[Feed]:
        """The feeds that there would be without data."""
        return self.generated or self.feeds

    @property
    def whole(self) -> Trace:
        """The trace of the model as it came."""
        return self.before.whole or self.trace


def open_model(
    model: Model,
    options: Options,
    clock: Clock | None = None,
    replay: Plan | None = None,
    executor: Executor | None = None,
) -> Opened:
    """Loads and traces a model. Raises InputError, UsageError and PlanError as `condense` does.

    Of a plan that lets heads go, all that comes before them.
    """
    clock = clock or Clock(None)
    with clock("load"):
        source = files.load(model)
        if replay is not None:
            if not isinstance(replay, Plan):
                raise PlanError(f"what is replayed is a Plan, as Plan.load(path), not {shown(replay)}")
            if replay.model_sha256 != source.sha256:
                raise PlanError(f"the plan belongs to another model (sha256 {replay.model_sha256[:12]}): plan this one")
            options = _replayed(options, replay)
    before = Before() if replay is None or replay.done_before else Before(replay.rotations)
    with blamed(source.proto, str(source.path or "the model")):
        return _opened(source, options, clock, before, partial(_calibration, options, executor=executor))


def reopened(opened: Opened, clock: Clock, before: Before) -> Opened:
    """The same model after other steps. Raises PlanError where they are not the model's."""
    known, before = (opened.calibration, [*opened.held]), replace(before, whole=opened.whole)
    return replace(_opened(opened.source, opened.options, clock, before, lambda specs: known), asked=opened.asked)


def reopened_where_it_fits(opened: Opened, clock: Clock, before: Before) -> Opened:
    """The same; as it was where the steps are not for what the file holds (weights that a form only made)."""
    try:
        return reopened(opened, clock, before)
    except PlanError:
        return opened


def _opened(
    source: Source,
    options: Options,
    clock: Clock,
    before: Before,
    calibrated: Callable[[Sequence[InputSpec]], tuple[Calibration, list[Feed]]],
) -> Opened:
    with clock("load"):
        base = source.proto if before.written is None else before.written.model
        plain = Entered(base).into(functions.enter, fused.enter, blocks.enter, slopes.enter)
        entered = plain.into(batchnorm.enter) if options.fold_batchnorm else plain
        folded = entered.model is not plain.model
        entered = _entered(entered, before)
        working = entered.model
        graph = import_graph(working)
        specs = model_specs(working, graph)
        calibration, held = calibrated(specs)
        trial = trial_of(working, graph)
        span = options.input_range or range_stated(working)
        draws = DRAWS if span is None else (Draw.between(*span),)
        drawn = (
            Drawn(held) if held else draw_feeds(trial, specs, options.data, options.input_shape, options.seed, draws)
        )
        feeds, generated = drawn.feeds, tuple[Feed, ...]()
        if held and options.goal is not None:
            generated = _beside(held, trial, specs, options, draws)
        others = other_feeds(trial, with_draw(specs, drawn.draw), feeds[0], options.seed)
        unoptimized = [trial.outputs(feed) if working is source.proto else None for feed in (*feeds, *others)]
        trial.close()
        axes = symbolic_axes(specs, [feeds[0], *others])
    with clock("trace"):
        entered = replace(entered, feed=feeds[0], others=others)
        entered = entered.into(branches.enter, integers.enter, bodies.enter, members.enter)
        stuck, same = [(axis.input, axis.axis) for axis in axes if not axis.varied], entered.model is working
        graph = graph if same else import_graph(entered.model)
        traced = _traced(entered, graph, Tried(stuck, trial.shapes) if same else Tried(stuck))
    has_run()
    batches = [len(feeds[0][s.name]) for s in specs if s.dims and isinstance(s.dims[0], str)]
    batch, told, known = max([1, *batches]), drawn.told, (calibration, unoptimized)
    opened = Opened(source, options, traced, feeds, others, axes, told, batch, folded, *known, before, held)
    return replace(opened, specs=tuple(specs), generated=generated, span=span)


def _beside(
    held: Sequence[Feed], trial: Trial, specs: list[InputSpec], options: Options, draws: Sequence[Draw]
) -> tuple[Feed, ...]:
    """Generated feeds beside given ones; of the sizes of these where the model runs at no others."""
    try:
        return tuple(draw_feeds(trial, specs, None, options.input_shape, options.seed, draws).feeds)
    except InputError:
        sizes = {spec.name: held[0][spec.name].shape for spec in specs if spec.dims}
        return tuple(draw_feeds(trial, specs, None, {**sizes, **options.input_shape}, options.seed, draws).feeds)


def _entered(entered: Entered, before: Before) -> Entered:
    """A model whose tables are held once and whose streams are in other bases. Raises PlanError as `reopened` does."""
    try:
        entered = entered.into(tied.form(before.ties)) if before.ties else entered
        return entered.into(bases.form(before.rotations)) if before.rotations else entered
    except ValueError as error:
        raise PlanError(f"the plan does not fit the model ({error}): plan it again") from error


def _calibration(
    options: Options, specs: Sequence[InputSpec], executor: Executor | None
) -> tuple[Calibration, list[Feed]]:
    """The inputs to estimate from, and those of them that verify; none where none are given."""
    if options.calibration is None:
        return Calibration((), executor), []
    shards, held = open_shards(
        sized(specs, options.input_shape), options.calibration, options.data is None, executor is not None
    )
    return Calibration(shards, executor), held


def _traced(entered: Entered, graph: gs.Graph, tried: Tried) -> Trace:
    """The trace of a model in the forms that it entered; bodies that were not copied are refusals."""
    traced = trace_unshuffled(Facts(entered.model, graph, entered.feed, entered.others, entered.copies, tried))
    skipped = [Refusal(layer, Because(reason), size) for layer, reason, size in entered.skipped]
    untraced = sum(refusal.parameters for refusal in skipped)
    return replace(
        traced, refusals=(*traced.refusals, *skipped), untraced=untraced, leave=entered.leave, plain=entered.plain
    )


def _replayed(options: Options, plan: Plan) -> Options:
    """The plan's options, with the inputs that the caller gives. Raises PlanError."""
    try:
        planned = Options.of_plan(plan.options, plan.align)
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError(f"the plan's options are damaged ({error}): write it again with --plan") from error
    shapes = plan.input_shapes if options.data is None else {}
    if options.tolerance is not None:  # what decided the widths has done so
        planned = replace(planned, budget=None, evaluate=None, max_drop=None, trials=None)
    return replace(
        planned,
        data=options.data,
        seed=options.seed,
        tolerance=options.tolerance,
        input_shape=shapes,
        input_range=options.input_range,
    )
