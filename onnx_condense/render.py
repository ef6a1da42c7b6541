"""Reports as tables on a terminal; nothing is computed here."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from onnx_condense.pipeline import Analysis
from onnx_condense.report import GroupReport, ModelFacts, RefusalReport, Report
from onnx_condense.verify import Verification

LISTED = 3
"""Layers named per row; the rest is counted."""


def names(layers: tuple[str, ...]) -> str:
    """Layer names, the first few and how many more."""
    more = f" (+{len(layers) - LISTED} more)" if len(layers) > LISTED else ""
    return ", ".join(layers[:LISTED]) + more


def show_report(console: Console, report: Report) -> None:
    """The groups, the totals, both errors, the refusals."""
    table = Table("layers", "channels", "highest cosine", "method", title="Dependency groups", title_justify="left")
    for group in report.groups:
        table.add_row(names(group.layers), _widths(group), _cosine(group.highest_cosine), _method(group))
    console.print(table)
    _totals(console, report.input, report.output)
    _refusals(console, report.refusals)
    if report.alignment.advice:
        console.print(f"{report.alignment.advice[0].upper()}{report.alignment.advice[1:]}.")
    if report.verification is not None and report.output is not None:
        v = report.verification
        console.print(
            f"Surgery error {v.surgery_error:.1e} (limit {v.surgery_limit:.1e}): the rewrite is what was planned."
        )
        console.print(
            f"Approximation error {v.approximation_error:.3g} (relative L2) on {v.samples} "
            f"{'generated' if v.generated else 'given'} samples{_agreement(report)}."
        )


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


def _totals(console: Console, before: ModelFacts, after: ModelFacts | None) -> None:
    table = Table("", "before", "after", "left", title="Totals", title_justify="left")
    for label, name in (("parameters", "parameters"), ("MACs", "macs"), ("bytes", "bytes")):
        old, new = getattr(before, name), getattr(after, name) if after else None
        left = f"{new / old:.1%}" if new is not None and old else "-"
        table.add_row(label, f"{old:,}", f"{new:,}" if new is not None else "-", left)
    console.print(table)


def _refusals(console: Console, refusals: tuple[RefusalReport, ...]) -> None:
    if not refusals:
        return
    table = Table("layers that stay", "because it", "parameters", title="Not condensed", title_justify="left")
    for refusal in refusals:
        table.add_row(names(refusal.layers), refusal.reason, f"{refusal.parameters:,}")
    console.print(table)


def show_analysis(console: Console, analysis: Analysis) -> None:
    """Widths at several thresholds per group, and the reasons for the rest."""
    thresholds = sorted({t for g in analysis.groups for t in g.widths}, reverse=True)
    columns = [f"at {t:g}" for t in thresholds]
    table = Table("layers", "channels", *columns, "highest cosine", title="Could be condensed", title_justify="left")
    for group in analysis.groups:
        widths = [str(group.widths[t]) for t in thresholds]
        table.add_row(names(group.layers), str(group.width), *widths, _cosine(group.highest_cosine))
    console.print(table)
    console.print(f"{analysis.share:.1%} of the parameters of Gemm, MatMul and Conv lie in dependency groups.")
    _refusals(console, analysis.refusals)


def show_verification(console: Console, verification: Verification) -> None:
    """One row per output."""
    table = Table("output", "relative L2", "max abs", "cosine", "top-1 agreement")
    for output in verification.outputs:
        agreement = "-" if output.top1_agreement is None else f"{output.top1_agreement:.1%}"
        cosine = "-" if output.cosine is None else f"{output.cosine:.6f}"
        table.add_row(output.name, f"{output.relative_l2:.3e}", f"{output.max_abs:.3e}", cosine, agreement)
    console.print(table)
