"""What a run tells: one frozen value, rendered as versioned JSON or as a table."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from onnx_condense._version import __version__
from onnx_condense.builder import Builder
from onnx_condense.channels import Group, Trace
from onnx_condense.latency import Interval
from onnx_condense.model_io import serialize
from onnx_condense.operators import constant_floats, running_statistics
from onnx_condense.options import Options
from onnx_condense.plan import GroupPlan
from onnx_condense.state import State
from onnx_condense.verify import OutputComparison

FORMAT = "onnx-condense-report"
VERSION = 1

WARN_ABOVE = 0.1
"""Approximation error above which a run without a tolerance warns."""

FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
)


@dataclass(frozen=True)
class ModelFacts:
    """Size of a model.

    Attributes:
        sha256: of the file. path: where it is, None in memory.
        bytes: on disk.
        parameters: float initializers and Constants of rank >= 1, tied ones once, without running statistics of
            BatchNormalization; parameters_with_running_statistics counts those too.
        macs: multiply-accumulates of Conv, Gemm and MatMul with weights, per sample.
    """

    path: str | None
    sha256: str
    bytes: int
    parameters: int
    parameters_with_running_statistics: int
    macs: int


@dataclass(frozen=True)
class GroupReport:
    """One dependency group.

    layers: its producers. highest_cosine: between two of its channels. lowest_merged_cosine: None where nothing merged.
    held_back: how many merges alignment undid; held_back_channels: of which channels.
    sources: where refitted consumers' moments come from: "calibration", "batch-normalization" or "weights".
    """

    layers: tuple[str, ...]
    width_before: int
    width_after: int
    highest_cosine: float
    lowest_merged_cosine: float | None
    threshold: float | None
    method: str
    held_back: int
    held_back_channels: tuple[int, ...]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class RefusalReport:
    """Layers that stay as they are for one reason, and the parameters of their weights."""

    reason: str
    layers: tuple[str, ...]
    parameters: int


@dataclass(frozen=True)
class AlignmentReport:
    """The multiple that convolution widths were kept at, who says so, what that held back, and what to do about it."""

    multiple: int
    source: str
    held_back: int
    advice: str | None


@dataclass(frozen=True)
class VerificationReport:
    """Both error figures.

    Attributes:
        surgery_error, surgery_limit: condensed model against its expanded twin, relative L2.
        inner_error: the same over intermediate tensors, measured against their own size.
        surgery_integer_outputs_changed: names of integer outputs that differ there (an argmax between near equals may).
        noise: the original against itself, onnxruntime's optimizations off and on.
        approximation_error: original against condensed model, the largest relative L2 over float outputs.
        integer_outputs_changed: names.
        outputs: one comparison per output, original against condensed.
        samples, generated: how many, and whether they were generated.
    """

    surgery_error: float
    surgery_limit: float
    inner_error: float
    surgery_integer_outputs_changed: tuple[str, ...]
    noise: float
    approximation_error: float
    integer_outputs_changed: tuple[str, ...]
    outputs: tuple[OutputComparison, ...]
    samples: int
    generated: bool


@dataclass(frozen=True)
class SetupLatency:
    """The result's latency divided by the original's, with its 95 % interval; threads 0: all cores."""

    threads: int
    batch: int
    ratio: float
    low: float
    high: float

    @property
    def stable(self) -> bool:
        """Whether the interval is narrow enough to be a result."""
        return Interval(self.ratio, self.low, self.high).stable


@dataclass(frozen=True)
class LatencyReport:
    """What --ensure-faster found.

    Attributes:
        setups: ratios of the result; empty where the original is returned.
        widened: first layers of the groups that keep more channels than planned.
        rolled_back: first layers of the groups that stay as they were.
        candidates: how many were measured.
    """

    setups: tuple[SetupLatency, ...]
    widened: tuple[str, ...]
    rolled_back: tuple[str, ...]
    candidates: int

    @property
    def stable(self) -> bool:
        """Whether every ratio is a result."""
        return all(setup.stable for setup in self.setups)


@dataclass(frozen=True)
class CandidateReport:
    """A model that a search tried.

    value: its approximation error, or its score. accepted: whether that is within the bound. on_front: whether no other
    candidate is at most as large in parameters and MACs and at least as good, and better in one of them.
    """

    parameters: int
    macs: int
    value: float
    accepted: bool
    on_front: bool = False


@dataclass(frozen=True)
class SearchReport:
    """What --budget error=R or --evaluate tried.

    Attributes:
        measure: "error" or "score".
        bound: the largest error, or the lowest score, that is accepted.
        trials, evaluations: how many evaluations there may be, and how many there were; the original's score is one.
        candidates: the original and what was tried, largest first. The smallest that is accepted is the result.
    """

    measure: str
    bound: float
    trials: int
    evaluations: int
    candidates: tuple[CandidateReport, ...]


@dataclass(frozen=True)
class Report:
    """Everything that a run found and did; `to_json` is the stable form."""

    input: ModelFacts
    output: ModelFacts | None
    options: Mapping[str, Any]
    alignment: AlignmentReport
    latency: LatencyReport | None
    search: SearchReport | None
    groups: tuple[GroupReport, ...]
    refusals: tuple[RefusalReport, ...]
    verification: VerificationReport | None
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]

    @property
    def changed(self) -> bool:
        """Whether anything was condensed."""
        return any(g.width_after < g.width_before for g in self.groups)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object; numbers that are not finite are null."""
        head = {"format": FORMAT, "version": VERSION, "tool": {"name": "onnx-condense", "version": __version__}}
        host = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "numpy": np.__version__}
        result: dict[str, Any] = finite(head | {"host": host} | asdict(self))
        return result


def finite(value: Any) -> Any:
    """JSON values with null for every number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value


def count_parameters(graph: onnx.GraphProto) -> tuple[int, int]:
    """(without, with) running statistics of BatchNormalization; see ModelFacts."""
    statistics = {name for node in graph.node for name in running_statistics(node)}
    tensors = [*graph.initializer, *(t.values for t in graph.sparse_initializer)]
    sizes = [(t.name, math.prod(t.dims)) for t in tensors if t.dims and t.data_type in FLOATS]
    for node in graph.node:
        sizes.append((node.output[0] if node.output else "", constant_floats(node, FLOATS)))
    without, whole = sum(size for name, size in sizes if name not in statistics), sum(size for _, size in sizes)
    for node in graph.node:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                inner = count_parameters(body)
                without, whole = without + inner[0], whole + inner[1]
    return without, whole


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


def group_reports(builder: Builder, state: State) -> tuple[GroupReport, ...]:
    """One row per group that the options chose."""
    return tuple(_group_report(builder, state, group, state.plans.get(group.index)) for group in builder.groups)


def _group_report(builder: Builder, state: State, group: Group, plan: GroupPlan | None) -> GroupReport:
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
            sorted({r.source for r in state.refits.values() if plan and any(r.node == q.node for q in plan.reads)})
        ),
    )


def pareto(tried: Sequence[CandidateReport], higher: bool) -> tuple[CandidateReport, ...]:
    """Candidates, largest first, with those marked that no other one beats. `higher`: whether high values are good."""

    def costs(candidate: CandidateReport) -> tuple[float, ...]:
        value = -candidate.value if higher else candidate.value
        return candidate.parameters, candidate.macs, value

    def beaten(candidate: CandidateReport) -> bool:
        mine = costs(candidate)
        rivals = (costs(other) for other in tried)
        return any(other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in rivals)

    ranked = sorted(tried, key=lambda c: (-c.parameters, -c.macs))
    return tuple(replace(candidate, on_front=not beaten(candidate)) for candidate in ranked)


def refusal_reports(traced: Trace) -> tuple[RefusalReport, ...]:
    """Reasons, ordered by the parameters that they cost."""
    found: dict[str, list[tuple[str, int]]] = {}
    for refusal in traced.refusals:
        found.setdefault(refusal.reason, []).append((refusal.layer, refusal.parameters))
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
