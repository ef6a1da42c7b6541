"""The whole story: load, trace, judge, plan, rewrite, verify, report."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_condense import model_io
from onnx_condense.alignment import block_width
from onnx_condense.canonicalize import fold_batchnorm
from onnx_condense.channels import Group, Trace, trace
from onnx_condense.errors import PlanError, UsageError, VerificationError
from onnx_condense.facts import Facts
from onnx_condense.inputs import Feed, input_specs, make_feeds
from onnx_condense.merging import Judgement, decide, judge
from onnx_condense.operators import embedding_rows
from onnx_condense.options import DEFAULT_THRESHOLD, INSPECT_THRESHOLDS, Options
from onnx_condense.plan import GroupPlan, Plan
from onnx_condense.report import (
    GroupReport,
    ModelFacts,
    RefusalReport,
    Report,
    VerificationReport,
    count_parameters,
    finite,
)
from onnx_condense.rewrite import Disagreement, Written, write
from onnx_condense.state import State
from onnx_condense.tolerance import fit
from onnx_condense.verify import Results, Verification, compare, results, surgery_limit

Progress = Callable[[str], None]
"""Called with the name of each stage as it begins."""

WARN_ABOVE = 0.1
"""Approximation error above which a run without a tolerance warns."""

INNER_TENSORS = 24
"""Intermediate tensors compared with the twin."""

INNER_LIMIT = 1e-3
"""Their limit: far above rounding of any of them, far below any error of the rewrite."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What `condense` returns: the condensed model (the input where nothing was condensed), the plan and the report."""

    model: onnx.ModelProto
    plan: Plan
    report: Report


@dataclass(frozen=True)
class GroupAnalysis:
    """One dependency group of `analyze`: what it could be condensed to at each threshold."""

    layers: tuple[str, ...]
    width: int
    widths: Mapping[float, int]
    highest_cosine: float


@dataclass(frozen=True)
class Analysis:
    """What could be condensed, and what not and why.

    share: of the parameters of Gemm, MatMul and Conv weights, the part whose channels are in dependency groups.
    """

    model: ModelFacts
    groups: tuple[GroupAnalysis, ...]
    refusals: tuple[RefusalReport, ...]
    share: float

    def to_json(self) -> dict[str, Any]:
        """The analysis as a JSON object; numbers that are not finite are null."""
        result: dict[str, Any] = finite(asdict(self))
        return result


class _Clock:
    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress or (lambda stage: None)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self._progress(stage)
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - start, 4)


@dataclass(frozen=True)
class _Traced:
    source: model_io.Source
    trace: Trace
    feeds: list[Feed]
    batch: int


def condense(
    model: str | os.PathLike[str] | onnx.ModelProto,
    options: Options | None = None,
    *,
    replay: Plan | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Condenses a model and proves the result with onnxruntime.

    Args:
        model: a path, or a model in memory (which is not changed).
        options: what to do; `Options()` condenses at threshold 0.88.
        replay: a plan to apply instead of judging the model.
        dry_run: stop at the plan; the returned model is the input and nothing is verified.
        progress: called with the name of each stage.

    Raises:
        InputError: the model or the data cannot be used.
        UsageError: a glob matches nothing, or options contradict each other.
        PlanError: the plan belongs to another model.
        VerificationError: the surgery limit or the tolerance is not met.
    """
    options = options or Options()
    clock = _Clock(progress)
    if replay is not None:
        options = replace(options, fold_batchnorm=replay.fold_batchnorm, input_shape=options.input_shape or _fitting(model, replay))
    traced = _open(model, options, clock)
    if replay is not None and replay.model_sha256 != traced.source.sha256:
        raise PlanError(f"the plan belongs to another model (sha256 {replay.model_sha256[:12]}): plan this one again")
    builder = _Builder(traced.trace, options, replay.align if replay else _alignment(options))
    with clock("verify"):
        original = results(traced.source.proto, traced.feeds)
    with clock("plan"):
        if replay is not None:
            state = builder.replayed(replay)
        elif options.tolerance is None or dry_run:
            state = builder.build(1.0)
        else:
            state = fit(builder, lambda s: _error(s, traced.feeds, original), options.tolerance)
    plan = replay or _plan(traced, options, builder, state)
    if dry_run or not state.plans:
        with clock("report"):
            verification = None if dry_run else _identity(original, bool(options.data))
            report = _report(traced, options, builder, state, None, None, verification, clock)
        return Result(traced.source.proto, plan, report)
    with clock("rewrite"):
        provenance = model_io.provenance(traced.source, plan.options)
        small, twin = write(state, provenance), write(state, provenance, expanded=True)
    with clock("verify"):
        verification = _verify(traced, small, twin, original, options)
    with clock("report"):
        report = _report(traced, options, builder, state, small, twin, verification, clock)
    return Result(small.model, plan, report)


def rewrite(model: str | os.PathLike[str] | onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """Applies a plan to the model that it names, without verification. Raises PlanError for another model."""
    options = Options(fold_batchnorm=plan.fold_batchnorm, input_shape=_fitting(model, plan))
    traced = _open(model, options, _Clock(None))
    if plan.model_sha256 != traced.source.sha256:
        raise PlanError(f"the plan belongs to another model (sha256 {plan.model_sha256[:12]}): plan this one again")
    state = _Builder(traced.trace, options, plan.align).replayed(plan)
    if not state.plans:
        return traced.source.proto
    return write(state, model_io.provenance(traced.source, plan.options)).model


def analyze(
    model: str | os.PathLike[str] | onnx.ModelProto, options: Options | None = None, progress: Progress | None = None
) -> Analysis:
    """Says what could be condensed, to which width at several thresholds, what not, and why. Changes nothing."""
    options = options or Options()
    clock = _Clock(progress)
    traced = _open(model, options, clock)
    builder = _Builder(traced.trace, options, 1)
    groups = []
    with clock("judge"):
        for group in builder.groups:
            judgement = builder.judged(group, builder.original)
            widths = {t: builder.width_at(judgement, t) for t in INSPECT_THRESHOLDS}
            groups.append(GroupAnalysis(group.layers, len(group.units), widths, judgement.highest))
    whole = write(builder.original, {}, expanded=True)
    grouped = {n for g in traced.trace.groups for n in g.producers}
    reached = sum(traced.trace.sizes[n] for n in grouped)
    total = sum(traced.trace.sizes.values())
    facts = _model_facts(traced.source.path, traced.source.sha256, traced.source.size, traced.source.proto, whole.macs // traced.batch)
    return Analysis(facts, tuple(groups), _refusals(traced.trace), reached / total if total else 0.0)


# ---------------------------------------------------------------------------------------------------- stages


def _open(model: str | os.PathLike[str] | onnx.ModelProto, options: Options, clock: _Clock) -> _Traced:
    with clock("load"):
        source = model_io.load(model)
        working = fold_batchnorm(source.proto) if options.fold_batchnorm else source.proto
        graph = model_io.import_graph(working)
        sizes = {t.name: t.dims[0] for t in working.graph.initializer if len(t.dims)}
        plain = input_specs(working)
        integers = [s.name for s in plain if s.dtype.kind in "iu"]
        found = {name: embedding_rows(graph.nodes, name, sizes) for name in integers}
        specs = input_specs(working, {name: rows for name, rows in found.items() if rows})
        feeds = make_feeds(working, specs, options.data, options.input_shape, options.seed)
    with clock("trace"):
        traced = trace(Facts(working, graph, feeds[0]))
    symbolic = [s.name for s in specs if s.dims and isinstance(s.dims[0], str)]
    batch = len(feeds[0][symbolic[0]]) if symbolic else 1
    return _Traced(source, traced, feeds, max(1, batch))


def _fitting(model: str | os.PathLike[str] | onnx.ModelProto, plan: Plan) -> Mapping[str, tuple[int, ...]]:
    """The plan's input shapes, where the model has such inputs (else the sha256 will not match, which is said later)."""
    names = {spec.name for spec in input_specs(model_io.load(model).proto)}
    return {name: shape for name, shape in plan.input_shapes.items() if name in names}


def _alignment(options: Options) -> int:
    return block_width() if options.align == "auto" else int(options.align)


class _Builder:
    """Builds states: every group judged and decided, in the order that the options ask for."""

    def __init__(self, traced: Trace, options: Options, align: int) -> None:
        self.trace = traced
        self.options = options
        self.align = align
        self.original = State(traced)
        self.groups = [g for g in traced.groups if self._chosen(g)]
        self.method = options.method
        self._judged: dict[int, Judgement] = {}
        self._stay: set[int] = set()
        self.unaligned: list[str] = []

    def thresholds(self) -> dict[int, float]:
        """Group index -> the threshold that the options ask for; 1 where only lossless merges are wanted."""
        default = self.options.threshold or DEFAULT_THRESHOLD
        result = {group.index: default for group in self.groups}
        for pattern, value in self.options.layer_threshold:
            found = [g for g in self.groups if _matches(self._names(g), pattern)]
            if not found:
                self._no_match("--layer-threshold", pattern)
            result.update((g.index, value) for g in found)
        return result

    def build(self, towards: float | Mapping[int, float]) -> State:
        """A state with thresholds T + (1 - T)(1 - towards); `towards` is one number or one per group, 1 is T itself.

        Groups whose shapes do not work out stay as they are.
        """
        scale = dict.fromkeys(self.thresholds(), towards) if isinstance(towards, float) else dict(towards)
        wanted = {index: 1 - (1 - t) * scale[index] for index, t in self.thresholds().items()}
        while True:
            state = self._pass(wanted)
            try:
                write(state, {})
                return state
            except Disagreement as problem:
                self._set_aside(problem)

    def replayed(self, plan: Plan) -> State:
        """The state that a plan describes. Raises PlanError when the groups are not the plan's."""
        state = State(self.trace)
        by_index = {g.index: g for g in self.trace.groups}
        for decided in plan.groups:
            group = by_index.get(decided.index)
            if group is None or group.layers != decided.layers or len(group.units) != decided.width:
                raise PlanError(f"the plan does not fit the model at {decided.layers[0]}: plan it again with this version")
            state.apply(group, decided)
        return state

    def judged(self, group: Group, state: State) -> Judgement:
        """How the group's channels compare; on the original weights only once."""
        if state is not self.original:
            return judge(state, group, self.method, self.options.depthwise)
        if group.index not in self._judged:
            self._judged[group.index] = judge(state, group, self.method, self.options.depthwise)
        return self._judged[group.index]

    def width_at(self, judgement: Judgement, threshold: float) -> int:
        """Channels that stay at a threshold, before alignment."""
        plan = decide(judgement, self.trace, self.method, self.options.depthwise, threshold, 1)
        return len(judgement.group.units) if plan is None else len(plan.keep)

    def _pass(self, wanted: Mapping[int, float]) -> State:
        state = State(self.trace)
        repeat = True
        while repeat:
            repeat = False
            for group in self.groups:
                if group.index in self._stay:
                    continue
                cascading = self.method == "lossless" or self.options.sequential
                judgement = self.judged(group, state if cascading else self.original)
                plan = decide(judgement, self.trace, self.method, self.options.depthwise, wanted[group.index], self.align)
                if plan is not None:
                    state.apply(group, plan)
                    repeat = self.method == "lossless"
        return state

    def _set_aside(self, problem: Disagreement) -> None:
        concerned = {g.index for g in self.trace.groups if np.isin(g.units, problem.units).any()} - self._stay
        if not concerned:
            raise problem
        self._stay |= concerned
        self.unaligned.append(problem.name)

    def _names(self, group: Group) -> list[str]:
        nodes = [self.trace.facts.nodes[n] for n in group.producers]
        weights = [t.name for node in nodes for t in node.inputs[1:]]
        return [*group.layers, *(node.name for node in nodes), *weights]

    def _chosen(self, group: Group) -> bool:
        for name, patterns in (("--include", self.options.include), ("--exclude", self.options.exclude)):
            for pattern in patterns:
                if not any(_matches(self._names(g), pattern) for g in self.trace.groups):
                    self._no_match(name, pattern)
        included = not self.options.include or any(_matches(self._names(group), p) for p in self.options.include)
        return included and not any(_matches(self._names(group), p) for p in self.options.exclude)

    def _no_match(self, option: str, pattern: str) -> None:
        raise UsageError(f"{option} {pattern} matches no layer that can be condensed: see the names with onnx-condense inspect")


def _matches(names: list[str], pattern: str) -> bool:
    return any(name and fnmatchcase(name, pattern) for name in names)


def _error(state: State, feeds: list[Feed], original: Results) -> float:
    if not state.plans:
        return 0.0
    return compare(original, results(write(state, {}).model, feeds)).error


def _plan(traced: _Traced, options: Options, builder: _Builder, state: State) -> Plan:
    shapes = {name: tuple(array.shape) for name, array in traced.feeds[0].items()}
    plans: list[GroupPlan] = [state.plans[index] for index in sorted(state.plans)]
    named = options.to_json() | {"align": builder.align}
    return Plan(traced.source.sha256, options.method, named, builder.align, shapes, options.fold_batchnorm, tuple(plans))


def _verify(traced: _Traced, small: Written, twin: Written, original: Results, options: Options) -> VerificationReport:
    feeds = traced.feeds
    condensed = results(small.model, feeds)
    surgery = compare(results(twin.model, feeds), condensed, reference=original)
    noise = compare(results(traced.source.proto, feeds, optimize=False), original)
    limit = surgery_limit(noise)
    approximation = compare(original, condensed)
    inner = _inner_error(traced, small, twin)
    lossless = options.method == "lossless"
    if not surgery.error <= limit or not inner <= max(INNER_LIMIT, 100 * limit):
        raise VerificationError(
            f"the rewritten model is not what was planned (surgery error {max(surgery.error, inner):.1e}, limit {limit:.1e}): "
            "nothing is written; please report this model"
        )
    if lossless and not approximation.error <= limit:
        raise VerificationError(
            f"--lossless changed the outputs by {approximation.error:.1e}, more than the limit {limit:.1e}: "
            "nothing is written; leave layers out with --exclude"
        )
    if options.tolerance is not None and not approximation.error <= options.tolerance:
        raise VerificationError(
            f"the error {approximation.error:.3g} is above --tolerance {options.tolerance:g}: nothing is written; raise one of the two"
        )
    return VerificationReport(
        surgery.error,
        limit,
        inner,
        noise.error,
        approximation.error,
        approximation.mismatched,
        approximation.outputs,
        approximation.samples,
        options.data is None,
    )


def _inner_error(traced: _Traced, small: Written, twin: Written) -> float:
    """Condensed model against twin on intermediate tensors: outputs alone are blind where they no longer depend on inputs."""
    facts = traced.trace.facts
    changed = {key[0] for key in _changed_consumers(small, traced.trace)}
    names = [facts.nodes[i].outputs[0].name for i in sorted(changed)][:INNER_TENSORS]
    if not names:
        return 0.0
    pair = []
    for written in (twin, small):
        probe = onnx.ModelProto()
        probe.CopyFrom(written.model)
        known = {o.name for o in probe.graph.output}
        probe.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
        pair.append(results(probe, traced.feeds[:1], optimize=False, wanted=names))
    left = [{name: _narrow(value, small.alive.get(name, {})) for name, value in feed.items()} for feed in pair[0]]
    return compare(left, pair[1], reference=left).error


def _narrow(value: np.ndarray[tuple[int, ...], np.dtype[np.generic]], lines: Mapping[int, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    for axis, line in lines.items():
        value = value.compress(line, axis)
    return value


def _changed_consumers(small: Written, traced: Trace) -> list[tuple[int, int]]:
    names = {name for name in small.alive}
    nodes = traced.facts.nodes
    return [(s.node, s.input) for s in traced.slots if s.role == "contracted" and any(t.name in names for t in nodes[s.node].inputs)]


# ---------------------------------------------------------------------------------------------------- reporting


def _identity(original: Results, given: bool) -> VerificationReport:
    same: Verification = compare(original, original)
    return VerificationReport(0.0, 0.0, 0.0, 0.0, 0.0, (), same.outputs, same.samples, not given)


def _model_facts(path: Path | None, sha256: str, size: int, model: onnx.ModelProto, macs: int) -> ModelFacts:
    return ModelFacts(str(path) if path else None, sha256, size, *count_parameters(model.graph), macs)


def _report(
    traced: _Traced,
    options: Options,
    builder: _Builder,
    state: State,
    small: Written | None,
    twin: Written | None,
    verification: VerificationReport | None,
    clock: _Clock,
) -> Report:
    source = traced.source
    macs = (twin or write(State(traced.trace), {}, expanded=True)).macs // traced.batch
    before = _model_facts(source.path, source.sha256, source.size, source.proto, macs)
    after = None
    if small is not None:
        data = model_io.serialize(small.model)
        digest = hashlib.sha256(data).hexdigest()
        after = _model_facts(None, digest, len(data), small.model, small.macs // traced.batch)
    thresholds = builder.thresholds()
    groups = tuple(_group_report(g, state.plans.get(g.index), builder, thresholds[g.index]) for g in builder.groups)
    warnings = _warnings(groups, verification, options, builder)
    for warning in warnings:
        _log.warning(warning)
    return Report(
        before, after, options.to_json(), builder.align, groups, _refusals(traced.trace), verification, warnings, dict(clock.seconds)
    )


def _group_report(group: Group, plan: GroupPlan | None, builder: _Builder, threshold: float) -> GroupReport:
    width = len(group.units)
    highest = plan.highest if plan else builder.judged(group, builder.original).highest
    merged = [c for i, (m, c) in enumerate(zip(plan.main, plan.cosine, strict=True)) if m not in (i, -1)] if plan else []
    lossless = builder.method == "lossless"
    return GroupReport(
        group.layers,
        width,
        len(plan.keep) if plan else width,
        highest,
        min(merged) if merged else None,
        None if lossless else threshold,
        builder.method if plan else "none",
        plan.held_back if plan else 0,
    )


def _refusals(traced: Trace) -> tuple[RefusalReport, ...]:
    """Reasons, ordered by the parameters that they cost."""
    found: dict[str, list[tuple[str, int]]] = {}
    for refusal in traced.refusals:
        found.setdefault(refusal.reason, []).append((refusal.layer, refusal.parameters))
    reports = [RefusalReport(r, tuple(layer for layer, _ in l), sum(p for _, p in l)) for r, l in found.items()]
    return tuple(sorted(reports, key=lambda r: (-r.parameters, r.reason)))


def _warnings(
    groups: tuple[GroupReport, ...], verification: VerificationReport | None, options: Options, builder: _Builder
) -> tuple[str, ...]:
    found = []
    if builder.unaligned:
        found.append(f"the channels of {', '.join(builder.unaligned)} cannot be removed evenly: their groups stay as they are")
    if verification is not None and options.tolerance is None and verification.approximation_error > WARN_ABOVE:
        found.append(
            f"the outputs changed by {verification.approximation_error:.2g} (relative L2): "
            "bound it with --tolerance, or raise --threshold"
        )
    if verification is not None and verification.integer_outputs_changed:
        found.append(f"integer outputs changed: {', '.join(verification.integer_outputs_changed)}")
    return tuple(found)
