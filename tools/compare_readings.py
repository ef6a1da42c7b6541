"""What may be taken for the vector of a channel: what networks keep at a threshold, and what their outputs lose.

    python tools/compare_readings.py FOLDER|MODEL ... [--threshold 0.88] [--most BYTES] [--json OUT]

Readings: `constants` (rows with all constants, BatchNormalization folded in), `kernels` (without what a
BatchNormalization adds: the paper's), `both` (with, and without any: the default), `functions` (`both`, and what
consumers read must be as correlated as the threshold says, on synthetic inputs). All else is as `--merge auto` has it
without data: consumers are refitted, channels that hardly vary go. Outputs are compared on generated inputs; models of
at most --most bytes are taken. With --json every row is written as it comes, and rows that the file already holds are
not made again. (Networks with labels: compare_labelled.py; thresholds on the models of models/: readme_example.py.)
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_condense import CondenseError, Options
from onnx_condense.documents import write_atomically
from onnx_condense.merging.judging import Judgement, judge
from onnx_condense.merging.methods import Manner
from onnx_condense.merging.paths import Path as Reads
from onnx_condense.planning.run import Run
from onnx_condense.planning.thresholds import Planner
from onnx_condense.prepare import Clock, open_model
from onnx_condense.refitting.consumer import consumer_of
from onnx_condense.rewriting.sizes import parameters_of
from onnx_condense.tracing.trace import Group

SMALL, LARGE = 0.01, 0.1
"""Errors of the outputs that count as little and as much."""

Row = dict[str, Any]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Reading:
    """manner: the one of the run, changed. functions: whether what consumers read must be correlated, too."""

    manner: Callable[[Manner], Manner]
    functions: bool = False


READINGS: Mapping[str, Reading] = {
    "constants": Reading(lambda manner: replace(manner, bare=False)),
    "kernels": Reading(lambda manner: replace(manner, bare=False, apart=True)),
    "both": Reading(lambda manner: manner),
    "functions": Reading(lambda manner: manner, functions=True),
}


def judged(run: Run, group: Group, reading: Reading) -> Judgement:
    """How the channels of a group compare by a reading."""
    planner = run.planner
    found = judge(planner.original, group, reading.manner(planner.manner(group)))
    if not reading.functions or found.highest <= 0:
        return found
    for path in found.paths:
        correlated = _correlations(run, path, len(group.units))
        if correlated is not None:
            pairs = zip(found.alike, found.members, strict=True)
            found = replace(found, alike=tuple(np.minimum(a, correlated[np.ix_(cell, cell)]) for a, cell in pairs))
    return found


def _correlations(run: Run, path: Reads, n: int) -> Floats | None:
    """[n, n] of what a consumer reads; None where it cannot be estimated."""
    consumer = consumer_of(run.opened.trace, path.slot)
    known = None if consumer is None else run.estimate.moments([consumer])[0]
    if consumer is None or known is None:
        return None
    result, taps = np.zeros((n, n)), consumer.layout.taps
    for rank in np.unique(path.rank).tolist():
        here = path.rank == rank
        for tap in range(taps):
            features = path.places[here] * taps + tap
            result[np.ix_(path.units[here], path.units[here])] += known.xx[np.ix_(features, features)]
    deviation = np.sqrt(np.maximum(result.diagonal(), 0))
    deviation[deviation == 0] = np.inf
    result /= np.outer(deviation, deviation)
    np.fill_diagonal(result, -1)
    return result


def row_of(path: Path, name: str, threshold: float) -> Row:
    """What one model keeps and loses by one reading."""
    start = time.process_time()
    head = {"model": path.name, "reading": name, "threshold": threshold}
    try:
        run = Run.of(open_model(path, Options(threshold=threshold, align=1)), 1, Clock(None))
        groups = [group for group in run.planner.groups if group.index not in run.planner.quantized]
        judgements = {group.index: judged(run, group, READINGS[name]) for group in groups}
        planner: Planner = replace(run.planner, judgements=judgements)
        twin = planner.build().twin
        kept = parameters_of(twin) / max(1, parameters_of(planner.original))
        error = float(run.error(twin))
    except CondenseError as problem:
        return head | {"note": str(problem).splitlines()[0][:200]}
    return head | {"parameters": kept, "error": error, "seconds": round(time.process_time() - start, 2)}


def table(rows: list[Row]) -> Iterator[str]:
    """One line per reading: how many models shrink, how many of those change by 1 % and by 10 %, what goes."""
    yield "| reading | models | shrunk by more than 1 % | within 1 % | within 10 % | parameters removed, mean |"
    yield "|---|---|---|---|---|---|"
    for name in READINGS:
        mine = [row for row in rows if row["reading"] == name and "error" in row and np.isfinite(row["error"])]
        shrunk = [row for row in mine if row["parameters"] < 0.99]
        within = [sum(row["error"] <= bound for row in shrunk) for bound in (SMALL, LARGE)]
        removed = np.mean([1 - row["parameters"] for row in mine]) if mine else 0.0
        yield f"| {name} | {len(mine)} | {len(shrunk)} | {within[0]} | {within[1]} | {removed:.1%} |"


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="what may be taken for the vector of a channel")
    parser.add_argument("models", type=Path, nargs="+", metavar="FOLDER|MODEL")
    parser.add_argument("--threshold", type=float, default=0.88)
    parser.add_argument("--most", type=int, default=2**21, metavar="BYTES")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    rows: list[Row] = []
    if given.json is not None and given.json.exists():
        rows = json.loads(given.json.read_text())["rows"]
    known = {(row["model"], row["reading"], row["threshold"]) for row in rows}
    found = (file for top in given.models for file in (sorted(top.rglob("*.onnx")) if top.is_dir() else [top]))
    for path in (file for file in found if file.stat().st_size <= given.most):
        for name in READINGS:
            if (path.name, name, given.threshold) in known:
                continue
            rows.append(row_of(path, name, given.threshold))
            print(json.dumps(rows[-1]), flush=True)
            if given.json is not None:
                write_atomically(given.json, (json.dumps({"rows": rows}, indent=1) + "\n").encode())
    print("\n".join(table([row for row in rows if row["threshold"] == given.threshold])))


if __name__ == "__main__":
    main()
