"""Makes the parts of a report."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import onnx

from onnx_condense.merging.plan import GroupPlan
from onnx_condense.merging.twin import Twin
from onnx_condense.model.protos import serialize
from onnx_condense.operators.queries import count_parameters
from onnx_condense.options import Options
from onnx_condense.planning.never_slower import LatencyReport
from onnx_condense.planning.thresholds import Builder
from onnx_condense.proving.surgery import VerificationReport
from onnx_condense.report.values import WARN_ABOVE, AlignmentReport, GroupReport, ModelFacts, RefusalReport
from onnx_condense.tracing.trace import Group, Trace

# ---------------------------------------------------------------------------------------------------- making


def model_facts(
    model: onnx.ModelProto, macs: int, sha256: str | None = None, size: int = 0, path: Path | None = None
) -> ModelFacts:
    """Size of a model; sha256 and bytes of its serialization where it is no file yet."""
    if sha256 is None:
        data = serialize(model)
        sha256, size = hashlib.sha256(data).hexdigest(), len(data)
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


def group_reports(builder: Builder, twin: Twin) -> tuple[GroupReport, ...]:
    """One row per group that the options chose."""
    return tuple(_group_report(builder, twin, group, twin.plans.get(group.index)) for group in builder.groups)


def _group_report(builder: Builder, twin: Twin, group: Group, plan: GroupPlan | None) -> GroupReport:
    width, method = len(group.units), "lossless" if builder.rule(group) == "lossless" else builder.options.method
    held = plan.held if plan else builder.held.get(group.index, ())
    pairs = zip(plan.main, plan.cosine, strict=True) if plan else ()
    merged = [cosine for i, (main, cosine) in enumerate(pairs) if main not in (i, -1)]
    return GroupReport(
        layers=group.layers,
        width_before=width,
        width_after=len(plan.keep) if plan else width,
        highest_cosine=plan.highest if plan else builder.judged(group).highest,
        lowest_merged_cosine=min(merged) if merged else None,
        threshold=None if method == "lossless" or builder.options.budgeted else builder.thresholds[group.index],
        method=method if plan else "none",
        held_back=len(held),
        held_back_channels=held,
        sources=tuple(
            sorted({r.source for r in twin.refits.values() if plan and any(r.node == q.node for q in plan.reads)})
        ),
    )


def refusal_reports(traced: Trace) -> tuple[RefusalReport, ...]:
    """Reasons, ordered by the parameters that they cost."""
    found: dict[str, list[tuple[str, int]]] = {}
    for refusal in traced.refusals:
        found.setdefault(str(refusal.reason), []).append((refusal.layer, refusal.parameters))
    reports = [
        RefusalReport(reason, tuple(layer for layer, _ in places), sum(size for _, size in places))
        for reason, places in found.items()
    ]
    return tuple(sorted(reports, key=lambda r: (-r.parameters, r.reason)))


def warnings_for(
    verification: VerificationReport | None, latency: LatencyReport | None, options: Options, builder: Builder
) -> tuple[str, ...]:
    """What the user should know, each with what to do."""
    found = []
    if latency is not None and not latency.stable:
        found.append("the latency is too unstable to be a result: quiet the machine and run --ensure-faster again")
    if options.budget is not None and latency is not None and (latency.widened or latency.rolled_back):
        found.append("groups that made it slower are wider than --budget asks for: drop --ensure-faster to meet it")
    if builder.uneven:
        names = ", ".join(builder.uneven)
        found.append(f"the channels of {names} cannot be removed evenly: their groups stay as they are")
    if builder.enlarging:
        names = ", ".join(builder.enlarging)
        found.append(f"writing down {names}, which the file only describes, would make it larger: their groups stay")
    layers = [g.layers[0] for g in builder.groups if g.index in builder.quantized]
    if layers:
        named = f"{layers[0]} is" if len(layers) == 1 else f"{layers[0]} and {len(layers) - 1} more are"
        advice = "only what stays exact on the integers is merged; condense the float model, then quantize it"
        found.append(f"{named} quantized: {advice}")
    if verification is None:
        return tuple(found)
    error = verification.approximation_error
    if options.tolerance is None and not options.searches and not error <= WARN_ABOVE:
        advice = "bound it with --tolerance, or raise --threshold"
        if options.budgeted:
            advice = f"bound it with --budget error={WARN_ABOVE:g} instead, or keep more"
        found.append(f"the outputs changed by {error:.2g} (relative L2): {advice}")
    if verification.integer_outputs_changed:
        found.append(f"integer outputs changed: {', '.join(verification.integer_outputs_changed)}")
    return tuple(found)
