"""Two truth tests of the tracer and the rewriter, on every model of a folder.

deletion: half of every free cell is deleted at random; the small model must equal its expanded twin, intermediate
tensors included, within the surgery limit.
copies: half of every free cell is overwritten with exact copies of the other half; `--lossless --align 1` must give
back the planted model's function, and remove what was planted.

    python tools/truth.py FOLDER [--test deletion|copies|both] [--json OUT]

Prints one JSON line per model and a summary: which models fail, the share of parameters reached (median and mean), and
the most frequent reasons for what is not reached.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_condense import Options, VerificationError, condense
from onnx_condense.arrays import Ints
from onnx_condense.errors import CondenseError
from onnx_condense.merging.paths import by_channel, from_channels, paths
from onnx_condense.merging.plan import GroupPlan, Read
from onnx_condense.merging.twin import Twin
from onnx_condense.prepare import open_model
from onnx_condense.proving.compare import results
from onnx_condense.proving.surgery import Case, prove
from onnx_condense.rewriting.kept import Disagreement
from onnx_condense.rewriting.writer import write
from onnx_condense.tracing.balance import even_out
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Group, Trace


def half(group: Group, generator: np.random.Generator) -> tuple[Ints, Ints]:
    """(removed, kept) channels: half of every cell, rounded down, and as many of every line; paired at random."""
    partner = np.full(len(group.units), -1)
    for cell in group.cells:
        shuffled = generator.permutation(cell)
        count = len(cell) // 2
        partner[shuffled[:count]] = shuffled[count : 2 * count]
    removed = np.flatnonzero(even_out(partner >= 0, np.ones(len(partner)), group.partitions))
    return removed, partner[removed]


def deletion_plan(trace: Trace, group: Group, removed: Ints) -> GroupPlan:
    """A plan that deletes channels without compensation."""
    main = np.arange(len(group.units))
    main[removed] = -1
    none = (0.0,) * len(main)
    reads = tuple(Read(p.slot.node, p.slot.input, p.number, "", none, none) for p in paths(trace, group))
    return GroupPlan(group.index, group.layers, tuple(main.tolist()), (1.0,) * len(main), -1.0, (), reads)


def deletion(path: Path, seed: int) -> dict[str, Any]:
    """Random deletion of half of every group; what cannot be removed evenly is left out, as the tool does."""
    opened = open_model(path, Options(align=1, seed=seed))
    expected = results(opened.source.proto, opened.feeds)
    stay: set[int] = set()
    while True:
        twin, generator = Twin(opened.trace), np.random.default_rng(seed)
        for group in opened.trace.groups:
            removed, _ = half(group, generator)
            if group.index not in stay and len(removed):
                twin.apply(group, deletion_plan(opened.trace, group, removed))
        try:
            small, expanded = write(twin, {}), write(twin, {}, expanded=True)
            break
        except Disagreement as problem:
            found = {g.index for g in opened.trace.groups if np.isin(g.units, problem.units).any()} - stay
            if not found:
                raise
            stay |= found
    case = Case(opened.source.proto, expected, opened.feeds, opened.others)
    proof = prove(case, opened.trace, small, expanded, Options())
    return {"uneven": len(stay), "surgery_error": proof.surgery_error, "inner_error": proof.inner_error}


def planted(path: Path, seed: int) -> tuple[onnx.ModelProto, int]:
    """The model with copies planted in every group, and how many channels became copies."""
    opened = open_model(path, Options(align=1, seed=seed))
    trace, generator, twin = opened.trace, np.random.default_rng(seed), Twin(opened.trace)
    count = 0
    for group in trace.groups:
        target, source = half(group, generator)
        count += len(target)
        for slot in trace.slots:
            if slot.role == "contracted" or slot.labels.ndim > twin.weight(slot.node, slot.input).ndim:
                continue
            units = trace.unit_of[atoms_of(slot.labels.reshape(-1))]
            value = twin.weight(slot.node, slot.input)
            slices = by_channel(value, slot.axes, slot.groups).copy()
            for j, m in zip(group.units[target], group.units[source], strict=True):
                slices[units == j] = slices[units == m]
            twin.folded[slot.node, slot.input] = from_channels(slices, slot.axes, value.shape, slot.groups)
    return write(twin, {}, expanded=True).model, count


def copies(path: Path, seed: int) -> dict[str, Any]:
    """Exact copies in every group, condensed with --lossless."""
    model, count = planted(path, seed)
    result = condense(model, Options(lossless=True, align=1, seed=seed))
    removed = sum(g.width_before - g.width_after for g in result.report.groups)
    proof = result.report.verification
    assert proof is not None
    return {"planted": count, "removed": removed, "error": proof.approximation_error, "limit": proof.surgery_limit}


def main() -> int:
    """Runs the tests; exit code 1 when a model fails one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--test", choices=("deletion", "copies", "both"), default="both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tests = {"deletion": deletion, "copies": copies}
    wanted = tests if arguments.test == "both" else {arguments.test: tests[arguments.test]}
    rows, reasons, shares = [], Counter[str](), []
    for path in sorted(arguments.folder.rglob("*.onnx")):
        row: dict[str, Any] = {"model": str(path.relative_to(arguments.folder))}
        start = time.perf_counter()
        try:
            trace = open_model(path, Options()).trace
            row["reached"] = round(trace.reached(), 4) if np.isfinite(trace.reached()) else None
            shares.append(trace.reached())
            for refusal in trace.refusals:
                reasons[str(refusal.reason)] += refusal.parameters
            for name, test in wanted.items():
                row[name] = test(path, arguments.seed)
        except VerificationError as error:
            row["failed"] = str(error)
        except CondenseError as error:
            row["refused"] = str(error)
        row["seconds"] = round(time.perf_counter() - start, 2)
        print(json.dumps(row), flush=True)
        rows.append(row)
    failed = [r["model"] for r in rows if "failed" in r]
    summary = {
        "models": len(rows),
        "loaded": len(shares),
        "failed": failed,
        "reached_median": float(np.nanmedian(shares)),
        "reached_mean": float(np.nanmean(shares)),
        "reasons": reasons.most_common(12),
    }
    print(json.dumps(summary))
    if arguments.json:
        arguments.json.write_text(json.dumps({"summary": summary, "rows": rows}, indent=1))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
