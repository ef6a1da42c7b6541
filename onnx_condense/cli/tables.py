"""Reports as tables on a terminal; nothing is computed here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from onnx_condense.model.variation import Axis
from onnx_condense.planning.candidates import SearchReport
from onnx_condense.planning.latencies import LatencyReport, SetupLatency, TargetReport
from onnx_condense.proving.compare import Verification
from onnx_condense.report.operators import OperatorReport
from onnx_condense.report.values import (
    Analysis,
    GroupReport,
    HeadReport,
    ModelFacts,
    PairReport,
    RefusalReport,
    Report,
    StreamReport,
    TieReport,
)

if TYPE_CHECKING:  # other commands start without what measures
    from onnx_condense.timing.benchmark import BatchLatency, Benchmark, ModelLatency
    from onnx_condense.timing.fusions import Fusion
    from onnx_condense.timing.profile import Profile

LISTED = 3
"""Layers named per row; the rest is counted."""


SLOWEST = 15
"""Nodes listed of a profile."""


ROWS = 100
"""Groups that are shown; of more, those that lost channels."""


def names(layers: tuple[str, ...]) -> str:
    """Layer names, the first few and how many more."""
    more = f" (+{len(layers) - LISTED} more)" if len(layers) > LISTED else ""
    return ", ".join(layers[:LISTED]) + more


def show_report(console: Console, report: Report) -> None:
    """The groups, the totals, both errors, the refusals."""
    heads = ("layers", "channels", "removed", "highest cosine", "method")
    table = Table(*heads, title="Dependency groups", title_justify="left")
    listed = report.groups
    if len(listed) > ROWS:
        listed = tuple(group for group in report.groups if group.removed)[:ROWS]
    for group in listed:
        removed = ", ".join(f"{count} {reason}" for reason, count in group.removed.items())
        table.add_row(names(group.layers), _widths(group), removed, _cosine(group.highest_cosine), _method(group))
    if len(listed) < len(report.groups):
        table.add_row(f"{len(report.groups) - len(listed)} more: --report FILE.json names all")
    console.print(table)
    _heads(console, report.heads, "left")
    _ties(console, report.ties, "Tables that are held once")
    _streams(console, report.streams, "left")
    _pairs(console, report.pairs)
    _totals(console, report.input, report.output)
    _operators(console, report.operators)
    _refusals(console, report.refusals)
    _axes(console, report.axes)
    if report.alignment.multiple > 1:
        console.print(f"Conv widths are kept at multiples of {report.alignment.multiple} ({report.alignment.source}).")
    if report.alignment.advice:
        console.print(f"{report.alignment.advice[0].upper()}{report.alignment.advice[1:]}.")
    if report.latency is not None:
        _latency(console, report.latency)
    if report.target is not None:
        _target(console, report.target)
    if report.search is not None:
        _search(console, report.search)
    if report.verification is not None and report.output is not None:
        v = report.verification
        console.print(
            f"Surgery error {v.surgery_error:.1e} (limit {v.surgery_limit:.1e}): the rewrite is what was planned."
        )
        found = f"{v.approximation_error:.3g} ({v.measure})"
        if math.isnan(v.approximation_error):
            found = "unknown (nothing comparable was seen)"
        samples = f"{v.samples} {'generated' if v.generated else 'given'} samples"
        console.print(f"Approximation error {found} on {samples}{_agreement(report)}.")


def _latency(console: Console, latency: LatencyReport) -> None:
    """The ratios that were measured, and what was undone for them."""
    for layers, done in ((latency.widened, "Widened"), (latency.rolled_back, "Rolled back")):
        if layers:
            console.print(f"{done}, because it made the model slower: {', '.join(layers)}.")
    for setup in latency.setups:
        console.print(f"Latency {_measured(setup)}.")
    _fusions(console, latency.fusions)


def _measured(setup: SetupLatency) -> str:
    """A ratio, and how it was measured."""
    interval = f"{setup.ratio:.3f} ({setup.low:.3f} to {setup.high:.3f}) of the original's"
    return f"at batch {setup.batch}, {_threads(setup.threads)}: {interval}"


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}" if count else "all cores"


def _fusions(console: Console, fusions: Sequence[Fusion]) -> None:
    """What onnxruntime no longer fuses."""
    if fusions:
        each = ", ".join(f"{one.operator} {one.before} → {one.after}" for one in fusions)
        console.print(f"onnxruntime fuses less than in the original: {each}.")


def _target(console: Console, target: TargetReport) -> None:
    """What was aimed at, and reached."""
    said = f"{target.predicted:.3f} by the cost table of {target.table}"
    if target.measured is None:
        there = f"{target.machine.get('processor') or 'another machine'}"
        console.print(
            f"Latency at batch {target.batch}, {_threads(target.threads)} of {there}: {said}; not measured here."
        )
    else:
        console.print(f"Latency {_measured(target.measured)}; {target.share:g} was asked for, {said}.")
    _fusions(console, target.fusions)


def _search(console: Console, search: SearchReport) -> None:
    """The candidates, and which of them no other one beats."""
    limit = f"at {'most' if search.measure == 'error' else 'least'} {search.bound:.6g}"
    title = f"Candidates, {search.evaluations} of at most {search.trials} evaluations"
    table = Table("parameters", "MACs", search.measure, limit, "Pareto front", title=title, title_justify="left")
    for candidate in search.candidates:
        marks = ("yes" if mark else "no" for mark in (candidate.accepted, candidate.on_front))
        value = f"{candidate.value:.3g}" if search.measure == "error" else f"{candidate.value:.6g}"
        table.add_row(f"{candidate.parameters:,}", f"{candidate.macs:,}", value, *marks)
    console.print(table)


def _agreement(report: Report) -> str:
    assert report.verification is not None
    found = [o.top1_agreement for o in report.verification.outputs if o.top1_agreement is not None]
    return f", top-1 agreement {min(found):.1%}" if found else ""


def _widths(group: GroupReport) -> str:
    if group.width_after == group.width_before:
        return str(group.width_before)
    return f"{group.width_before} → {group.width_after}"


def _cosine(value: float) -> str:
    return "-" if value <= -1 else f"{value:.3f}"


def _method(group: GroupReport) -> str:
    parts = [group.method] if group.width_after < group.width_before else ["unchanged"]
    parts += [f"by {source}" for source in group.sources]
    if group.threshold is not None:
        parts.append(f"T = {group.threshold:g}")
    if group.held_back:
        parts.append(f"{group.held_back} held back")
    return ", ".join(parts)


def _heads(console: Console, heads: Sequence[HeadReport], after: str) -> None:
    """Attention that whole heads left, or may leave."""
    if not heads:
        return
    table = Table("layers", "heads", after, title="Whole heads of attention", title_justify="left")
    for one in heads:
        table.add_row(names(one.layers), str(one.before), str(one.after))
    console.print(table)


def _ties(console: Console, ties: Sequence[TieReport], title: str) -> None:
    """Tables of embeddings that make logits, too."""
    if not ties:
        return
    table = Table("table", "makes", "rank", title=title, title_justify="left")
    for one in ties:
        table.add_row(one.table, names(one.copies) or "-", "-" if one.rank is None else str(one.rank))
    console.print(table)


def _streams(console: Console, streams: Sequence[StreamReport], after: str) -> None:
    """Streams that normalizations read."""
    if not streams:
        return
    stays = any(one.reason for one in streams)
    heads = ("layers that write", "channels", after, *(["stays because it"] if stays else []))
    table = Table(*heads, title="Streams that normalizations read", title_justify="left")
    for one in streams:
        rank = "-" if one.reason else str(one.rank)
        table.add_row(names(one.layers), str(one.width), rank, *([one.reason or ""] if stays else []))
    console.print(table)


def _pairs(console: Console, pairs: tuple[PairReport, ...]) -> None:
    """The weights that became pairs of factors."""
    if not pairs:
        return
    table = Table("layer", "weight", "rank", "method", title="Pairs of factors", title_justify="left")
    for pair in pairs:
        method = "exact" if pair.source is None else f"by {pair.source}"
        rank = f"{pair.full} → {pair.rank}"
        if pair.frequent:
            rank += f" of {pair.frequent:,} rows, {pair.rare} of the others"
        table.add_row(pair.layer, f"{pair.outputs:,} x {pair.inputs:,}", rank, method)
    console.print(table)


def _totals(console: Console, before: ModelFacts, after: ModelFacts | None) -> None:
    table = Table("", "before", "after", "left", title="Totals", title_justify="left")
    for label, name in (("parameters", "parameters"), ("MACs", "macs"), ("bytes", "bytes")):
        old, new = getattr(before, name), getattr(after, name) if after else None
        left = f"{new / old:.1%}" if new is not None and old else "-"
        table.add_row(label, f"{old:,}", f"{new:,}" if new is not None else "-", left)
    console.print(table)


def _operators(console: Console, operators: Sequence[OperatorReport]) -> None:
    """The types of operators that lost nodes or parameters, and how many others there are."""
    if all(row.nodes_after is None for row in operators):
        return
    changed = [row for row in operators if (row.nodes_before, row.parameters_before) != _after(row)]
    if not changed:
        return
    table = Table("operator", "nodes", "parameters", "left", title="By type of operator", title_justify="left")
    for row in changed:
        nodes, parameters = _after(row)
        left = f"{parameters / row.parameters_before:.1%}" if row.parameters_before else "-"
        nodes_told = _change(row.nodes_before, nodes)
        table.add_row(row.operator, nodes_told, _change(row.parameters_before, parameters), left)
    console.print(table)


def _after(row: OperatorReport) -> tuple[int, int]:
    return row.nodes_after or 0, row.parameters_after or 0


def _change(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,} → {after:,}"


def _refusals(
    console: Console,
    refusals: tuple[RefusalReport, ...],
    title: str = "Not condensed",
    head: str = "layers that stay",
) -> None:
    if not refusals:
        return
    table = Table(head, "because it", "parameters", title=title, title_justify="left")
    for refusal in refusals:
        table.add_row(names(refusal.layers), refusal.reason, f"{refusal.parameters:,}")
    console.print(table)


def _axes(console: Console, axes: tuple[Axis, ...]) -> None:
    """The axes whose sizes could not be varied."""
    stuck = tuple(
        f"{axis.input}[{axis.axis}]{f' ({axis.name})' if axis.name else ''}" for axis in axes if not axis.varied
    )
    if stuck:
        advice = "what may follow them stays as it is"
        console.print(f"Sizes of the inputs that could not be varied: {names(stuck)}; {advice}.")


def show_analysis(console: Console, analysis: Analysis) -> None:
    """Widths at several thresholds per group, and the reasons for the rest."""
    thresholds = sorted({t for g in analysis.groups for t in g.widths}, reverse=True)
    columns = [f"at {t:g}" for t in thresholds]
    table = Table("layers", "channels", *columns, "highest cosine", title="Could be condensed", title_justify="left")
    for group in analysis.groups:
        widths = [str(group.widths[t]) for t in thresholds]
        table.add_row(names(group.layers), str(group.width), *widths, _cosine(group.highest_cosine))
    console.print(table)
    _heads(console, analysis.heads, "left by --lossless")
    _ties(console, analysis.ties, "Tables that --lossless holds once")
    _streams(console, analysis.streams, "filled")
    if analysis.pairs:
        _ranks(console, analysis, thresholds)
        _refusals(console, analysis.whole, "No pairs of factors", "weights that stay whole")
    if math.isfinite(analysis.share):
        console.print(f"{analysis.share:.1%} of the parameters of all layers and tables lie in dependency groups.")
        if analysis.with_pairs > analysis.share:
            console.print(f"{analysis.with_pairs:.1%} of them do, or may become pairs of factors (--budget).")
    _refusals(console, analysis.refusals)
    _axes(console, analysis.axes)


def _ranks(console: Console, analysis: Analysis, shares: Sequence[float]) -> None:
    """Ranks that keep shares of the squared numbers of weights."""
    shares = shares or sorted({share for pair in analysis.pairs for share in pair.ranks}, reverse=True)
    columns = [f"keeps {share:g}" for share in shares]
    title = "Ranks of weights that may become pairs of factors"
    table = Table("layer", "weight", *columns, "smaller up to", title=title, title_justify="left")
    for pair in analysis.pairs:
        ranks = [str(pair.ranks.get(share, "-")) for share in shares]
        table.add_row(pair.layer, f"{pair.outputs:,} x {pair.inputs:,}", *ranks, str(pair.pays))
    console.print(table)


def show_verification(console: Console, verification: Verification) -> None:
    """One row per output."""
    table = Table("output", "relative L2", "max abs", "cosine", "top-1 agreement")
    for output in verification.outputs:
        agreement = "-" if output.top1_agreement is None else f"{output.top1_agreement:.1%}"
        cosine = "-" if output.cosine is None else f"{output.cosine:.6f}"
        table.add_row(output.name, f"{output.relative_l2:.3e}", f"{output.max_abs:.3e}", cosine, agreement)
    console.print(table)
    kind = "generated samples: --data INPUTS.npz compares on yours" if verification.generated else "given samples"
    console.print(f"On {verification.samples} {kind}.")


def show_benchmark(console: Console, found: Benchmark) -> None:
    """One table per batch size, and the profiles side by side."""
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}" if found.threads else "all cores"
    for batch in found.batches:
        sizes = ", ".join(f"{name} {'x'.join(map(str, shape)) or 'scalar'}" for name, shape in batch.shapes.items())
        title = f"Latency, {threads}, {found.provider.removesuffix('ExecutionProvider')}, {sizes}"
        table = Table(
            *("model", "median ms", "p90", "p99", "samples/s", "load ms", "memory MB", "ratio (95 %)", "verdict"),
            title=title,
            title_justify="left",
        )
        for model in batch.models:
            memory = "-" if model.peak_memory is None else f"{model.peak_memory / 1e6:.1f}"
            times = (_milliseconds(t) for t in (model.median, model.p90, model.p99))
            rest = (f"{model.throughput:.4g}", _milliseconds(model.load_seconds), memory, *_ratio(model))
            table.add_row(model.model, *times, *rest)
        console.print(table)
        if batch.profiles:
            _profiles(console, batch)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.4g}"


def _ratio(model: ModelLatency) -> tuple[str, str]:
    interval = "1" if model.verdict is None else f"{model.ratio:.3f} ({model.ratio_low:.3f} to {model.ratio_high:.3f})"
    return interval, (model.verdict or "the first") if model.stable else "too unstable to be a result"


def _profiles(console: Console, batch: BatchLatency) -> None:
    """Time per operator type, then per node, of all models side by side."""
    columns = [f"{model.model}, ms" for model in batch.models]
    by_type = Table("operator", *columns, title="Time per operator type", title_justify="left")
    for name in _slowest([profile.operators for profile in batch.profiles]):
        by_type.add_row(name, *(_milliseconds(profile.operators.get(name)) for profile in batch.profiles))
    console.print(by_type)
    nodes = [{name: node.seconds for name, node in profile.nodes.items()} for profile in batch.profiles]
    listed = _slowest(nodes)
    title = f"Time per node, {min(SLOWEST, len(listed))} of {len(listed)}"
    by_node = Table("node", "operator", *columns, title=title, title_justify="left")
    for name in listed[:SLOWEST]:
        by_node.add_row(name, _operator(batch.profiles, name), *(_milliseconds(times.get(name)) for times in nodes))
    console.print(by_node)


def _operator(profiles: tuple[Profile, ...], node: str) -> str:
    return next(profile.nodes[node].operator for profile in profiles if node in profile.nodes)


def _slowest(times: Sequence[Mapping[str, float]]) -> list[str]:
    """Every name, the one that takes any model longest first."""
    every = dict.fromkeys(name for one in times for name in one)
    return sorted(every, key=lambda name: -max(one.get(name, 0.0) for one in times))
