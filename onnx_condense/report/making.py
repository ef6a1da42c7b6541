"""Makes a report of what a run found and did."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from onnx_condense.factoring.spectrum import spectrum
from onnx_condense.factoring.weights import Factorable, factorable
from onnx_condense.forms.tied import Tie
from onnx_condense.goals import ScoreDrop
from onnx_condense.merging.factors import Factor
from onnx_condense.merging.judging import Judgement
from onnx_condense.merging.plan import GroupPlan
from onnx_condense.merging.twin import Twin
from onnx_condense.model import files, wire
from onnx_condense.model.protos import unused
from onnx_condense.operators.queries import count_parameters
from onnx_condense.operators.reasons import Reason
from onnx_condense.options import Options
from onnx_condense.planning.blame import Blame
from onnx_condense.planning.candidates import alternatives
from onnx_condense.planning.latencies import LatencyReport, TargetReport
from onnx_condense.planning.planned import Aside, Planned
from onnx_condense.planning.run import Run
from onnx_condense.planning.thresholds import Planner
from onnx_condense.prepare import Opened
from onnx_condense.proving.compare import NOTHING_TOLD
from onnx_condense.proving.surgery import VerificationReport
from onnx_condense.report.operators import by_operator
from onnx_condense.report.values import (
    WARN_ABOVE,
    AlignmentReport,
    GroupReport,
    HeadReport,
    ModelFacts,
    PairAnalysis,
    PairReport,
    RefusalReport,
    Report,
    StreamReport,
    TieReport,
)
from onnx_condense.rewriting.sizes import count_macs
from onnx_condense.rewriting.writer import Written
from onnx_condense.tracing.trace import Group, Refusal, Trace

_log = logging.getLogger(__name__)

LOOK = 2**33
"""Multiplications that a look at the ranks of one weight may cost."""

FEW = "no calibration inputs are left to verify on, which says little of others: give more of them, or --data"


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        planned: what was decided.
        align_source: who says which multiple widths were kept at.
        latency: what was measured, where that was asked for.
        written: the small model; None where nothing was written.
        verification: None where nothing was verified.
        blame: the groups that change the outputs most, where those changed much at thresholds.
    """

    planned: Planned
    align_source: str
    latency: LatencyReport | None
    written: Written | None = None
    verification: VerificationReport | None = None
    blame: tuple[Blame, ...] = ()


def report_of(run: Run, ended: Ended) -> Report:
    """The report of a run; its warnings are logged, too."""
    batch, planner, written = run.opened.batch, run.planner, ended.written
    groups = group_reports(planner, ended.planned)
    latency = ended.latency
    changed = {*latency.widened, *latency.rolled_back} if latency else set()
    warnings = (
        *_latency_warnings(run.options, latency),
        *_target_warnings(ended.planned.target),
        *_planning_warnings(planner, ended.planned.aside),
    )
    warnings += _output_warnings(run.options, ended.verification, ended.blame)
    if run.judges_itself and ended.verification is not None:
        warnings += (FEW,)
    if written is not None:
        warnings += _dropped(run.opened.source.proto)
    for warning in warnings:
        _log.warning(warning)
    return Report(
        facts_before(run.opened),
        model_facts(written.model, written.macs // batch) if written else None,
        (run.opened.asked or run.options).to_json(),
        alignment_report(planner.align, ended.align_source, [g for g in groups if g.layers[0] not in changed]),
        latency,
        ended.planned.search,
        groups,
        refusal_reports(run.opened.trace.refusals),
        ended.verification,
        warnings,
        dict(run.clock.seconds),
        run.opened.axes,
        pair_reports(run.opened.trace, ended.planned.twin),
        alternatives(ended.planned.search) if run.by_default and ended.planned.search else (),
        by_operator(run.opened.source.proto, written.model if written else None),
        ended.planned.target,
        head_reports(run.opened),
        tie_reports(run.opened.before.ties),
        stream_reports(run.opened),
    )


def facts_before(opened: Opened) -> ModelFacts:
    """Size of the model that was opened."""
    source = opened.source
    macs = count_macs(Twin(opened.whole)) // opened.batch
    return model_facts(source.proto, macs, sha256=source.sha256, size=source.size, path=source.path)


def model_facts(
    model: onnx.ModelProto, macs: int, sha256: str | None = None, size: int = 0, path: Path | None = None
) -> ModelFacts:
    """Size of a model; sha256 and bytes of its serialization where it is no file yet."""
    if sha256 is None:
        sha256, size = files.digest_of(model), wire.size(model)
    return ModelFacts(str(path) if path else None, sha256, size, *count_parameters(model.graph), macs)


def alignment_report(multiple: int, source: str, groups: Sequence[GroupReport]) -> AlignmentReport:
    """What alignment held back, over the groups that were kept at the multiple."""
    held = [group for group in groups if group.held_back]
    if not held:
        return AlignmentReport(multiple, source, 0, None)
    total = sum(group.held_back for group in held)
    places = ", ".join(group.layers[0] for group in held)
    advice = f"alignment to multiples of {multiple} held back {total} merges ({places}): --align 1 makes them"
    return AlignmentReport(multiple, source, total, advice)


def group_reports(planner: Planner, planned: Planned) -> tuple[GroupReport, ...]:
    """One row per group that the options chose."""
    return tuple(_group_report(planner, planned, group) for group in planner.groups)


def _group_report(planner: Planner, planned: Planned, group: Group) -> GroupReport:
    width, plan = len(group.units), planned.twin.plans.get(group.index)
    held = plan.held if plan else planned.held.get(group.index, ())
    pairs = zip(plan.main, plan.cosine, strict=True) if plan else ()
    merged = [cosine for i, (main, cosine) in enumerate(pairs) if main not in (i, -1)]
    at_threshold = planner.options.goal is None and not planner.manner(group).exact
    refits, mixed = planned.twin.refits.values(), planned.twin.mixes.get(group.index)
    sources = {r.source for r in refits if plan and any(r.node == q.node for q in plan.reads)}
    return GroupReport(
        layers=group.layers,
        width_before=width,
        width_after=len(plan.keep) if plan else width,
        highest_cosine=plan.highest if plan else planner.judged(group).highest,
        lowest_merged_cosine=min(merged) if merged else None,
        threshold=planner.thresholds[group.index] if at_threshold else None,
        method=planner.method(group) if plan else "none",
        held_back=len(held),
        held_back_channels=held,
        sources=tuple(sorted(sources if mixed is None else sources | {mixed.mix.source})),
        removed=_removed(plan, planner.judged(group)) if plan else {},
    )


def head_reports(opened: Opened) -> tuple[HeadReport, ...]:
    """One row per attention that whole heads left."""
    plans = opened.before.cut.heads.groups if opened.before.cut else ()
    return tuple(HeadReport(plan.layers, plan.width, len(plan.keep)) for plan in plans)


def tie_reports(ties: Sequence[Tie]) -> tuple[TieReport, ...]:
    """One row per table that is held once."""
    return tuple(TieReport(t.table, t.copies, None if t.basis is None else t.basis.shape[1]) for t in ties)


def stream_reports(opened: Opened) -> tuple[StreamReport, ...]:
    """One row per stream that lies in fewer directions."""
    streams = opened.before.short.streams if opened.before.short else ()
    return tuple(StreamReport(stream.layers, *stream.basis.shape) for stream in streams)


def pair_reports(trace: Trace, twin: Twin) -> tuple[PairReport, ...]:
    """One row per weight that became a pair of factors."""
    weights = {weight.place: weight for weight in factorable(trace)} if twin.factors else {}
    rows = ((weights[place], factor) for place, factor in sorted(twin.factors.items()))
    return tuple(_pair_report(weight, factor) for weight, factor in rows)


def _pair_report(weight: Factorable, factor: Factor) -> PairReport:
    bands = (0, None) if factor.bands is None else (len(factor.bands.frequent), factor.bands.rare)
    sizes = weight.outputs, weight.inputs, weight.full, factor.rank
    return PairReport(weight.layer, *sizes, factor.source, *bands)


def pair_analysis(twin: Twin, weight: Factorable, shares: Sequence[float]) -> PairAnalysis:
    """What a pair could be of a weight, at some shares of its squared numbers."""
    m, n = weight.outputs, weight.inputs
    ranks = {}
    if m * n * min(m, n) <= LOOK:
        lost = spectrum(weight.matrix(twin), None).lost
        ranks = {share: max(1, int(np.argmax(lost <= 1 - share))) for share in shares}
    return PairAnalysis(weight.layer, m, n, weight.pays(twin), ranks)


def _removed(plan: GroupPlan, judgement: Judgement) -> dict[str, int]:
    """Why the channels of a group went, and how many for each reason."""
    main = np.array(plan.main)
    merged, gone = (main >= 0) & (main != np.arange(len(main))), main < 0
    constant = np.any([np.array(read.constant) != 0 for read in plan.reads], axis=0) & gone
    unread = gone & judgement.unread
    constant = ~unread & (constant | (gone & judgement.gone))
    rest = gone & ~unread & ~constant
    exact = judgement.manner.exact  # what nobody reads once other channels have gone
    counts = {"merged": merged, "unread": unread | rest if exact else unread, "constant": constant}
    if not exact:
        counts["spared"] = rest
    return {reason: int(found.sum()) for reason, found in counts.items() if found.any()}


def refusal_reports(refusals: Sequence[Refusal]) -> tuple[RefusalReport, ...]:
    """Reasons, ordered by the parameters that they cost."""
    found: dict[str, list[tuple[str, int]]] = {}
    for refusal in refusals:
        found.setdefault(str(refusal.reason), []).append((refusal.layer, refusal.parameters))
    reports = [
        RefusalReport(reason, tuple(layer for layer, _ in places), sum(size for _, size in places))
        for reason, places in found.items()
    ]
    return tuple(sorted(reports, key=lambda r: (-r.parameters, r.reason)))


def _latency_warnings(options: Options, latency: LatencyReport | None) -> tuple[str, ...]:
    found = []
    if latency is not None and not latency.stable:
        found.append("the latency is too unstable to be a result: quiet the machine and run --ensure-faster again")
    if options.budget is not None and latency is not None and (latency.widened or latency.rolled_back):
        found.append("groups that made it slower are wider than --budget asks for: drop --ensure-faster to meet it")
    return tuple(found)


def _target_warnings(target: TargetReport | None) -> tuple[str, ...]:
    if target is None or target.measured is None or not target.missed:
        return ()
    found, asked = target.measured, target.share
    interval = f"{found.ratio:.3f} ({found.low:.3f} to {found.high:.3f})"
    return (f"the latency is {interval} of the original's, {asked:g} was asked for: {target.why}",)


def _planning_warnings(planner: Planner, aside: Aside) -> tuple[str, ...]:
    found = []
    if aside.uneven:
        names = ", ".join(aside.uneven)
        found.append(f"the channels of {names} cannot be removed evenly: their groups stay as they are")
    if aside.enlarging:
        names = ", ".join(aside.enlarging)
        found.append(f"writing down {names}, which the file only describes, would make it larger: their groups stay")
    failed = [f"{r.layer} ({r.reason.cause.at})" for r in planner.trace.refusals if r.reason.root is Reason.FAILED]
    failed += aside.failed
    if failed:
        found.append(f"an error of this program costs {', '.join(dict.fromkeys(failed))}: please report it")
    layers = [g.layers[0] for g in planner.groups if g.index in planner.quantized]
    if layers:
        named = f"{layers[0]} is" if len(layers) == 1 else f"{layers[0]} and {len(layers) - 1} more are"
        advice = "only what stays exact on the integers is merged; condense the float model, then quantize it"
        found.append(f"{named} quantized: {advice}")
    return tuple(found)


def _dropped(model: onnx.ModelProto) -> tuple[str, ...]:
    """What is not written again, because nothing reads it."""
    dropped = unused(model)
    if not dropped:
        return ()
    named = dropped[0].name if len(dropped) == 1 else f"{dropped[0].name} and {len(dropped) - 1} more"
    size = sum(math.prod(tensor.dims) for tensor in dropped)
    return (f"nothing reads {named} ({size:,} numbers): dropped",)


def warns(options: Options, verification: VerificationReport) -> bool:
    """Whether outputs are known to have changed more than a run without a bound leaves unsaid."""
    bounded = options.bounded or isinstance(options.goal, ScoreDrop)
    return not bounded and verification.approximation_error > WARN_ABOVE


def _output_warnings(
    options: Options, verification: VerificationReport | None, blame: Sequence[Blame]
) -> tuple[str, ...]:
    if verification is None:
        return ()
    found = []
    error = verification.approximation_error
    if np.isnan(error):
        exact = "; only what is exact was merged" if options.lossless else ""
        found.append(f"{NOTHING_TOLD}: what the outputs lost is not known{exact}")
    elif warns(options, verification):
        advice = "bound it with --tolerance, or raise --threshold"
        if options.goal is not None:
            advice = f"bound it with --budget error={WARN_ABOVE:g} instead, or keep more"
        found.append(f"the outputs changed by {error:.2g} ({verification.measure}){_blame(blame)}: {advice}")
    if verification.integer_outputs_changed:
        found.append(f"integer outputs changed: {', '.join(verification.integer_outputs_changed)}")
    return tuple(found)


def _blame(blame: Sequence[Blame]) -> str:
    """Which groups change them most, and how to spare those."""
    if not blame:
        return ""
    each = [f"{b.layer} ({b.error:.2g} alone; --layer-threshold '{b.layer}={b.threshold:g}' spares it)" for b in blame]
    return f", most by {', '.join(each)}"
