"""Where the time goes: onnxruntime's profiler, per operator type and node."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnx_condense.model.inputs import Feed
from onnx_condense.model.runtime import CPU, deployed, run

RUNS = 30
SECONDS = 2.0
"""A profile covers RUNS runs, but no further run starts after this time."""

KERNEL = "_kernel_time"


@dataclass(frozen=True)
class NodeTime:
    """Operator type of a node, and seconds per run in its kernel."""

    operator: str
    seconds: float


@dataclass(frozen=True)
class Profile:
    """Seconds per run in kernels (medians over runs); those of If, Loop and Scan include what runs inside.

    operators: by operator type. nodes: by name in the graph that onnxruntime optimized. Both with the slowest first.
    """

    operators: Mapping[str, float]
    nodes: Mapping[str, NodeTime]


def profile(model: Path | bytes, feeds: Sequence[Feed], threads: int = 0, provider: str = CPU) -> Profile:
    """Profiles a model after one run that does not count. Raises InputError where it does not run."""
    with tempfile.TemporaryDirectory() as folder:
        active = deployed(model, threads=threads, provider=provider, profile_to=str(Path(folder) / "profile"))
        end = time.perf_counter() + SECONDS
        runs = 0
        for runs in range(RUNS + 1):
            run(active, None, feeds[runs % len(feeds)])
            if runs and time.perf_counter() >= end:
                break
        events = json.loads(Path(active.end_profiling()).read_text())
    return summarize(events, runs + 1)


def summarize(events: Sequence[Mapping[str, object]], runs: int) -> Profile:
    """The kernel events of a profile, which covers `runs` runs; the first does not count."""
    found: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    for event in events:
        name, arguments = str(event.get("name")), event.get("args")
        if event.get("cat") == "Node" and name.endswith(KERNEL) and isinstance(arguments, Mapping):
            node = name.removesuffix(KERNEL)
            found.setdefault(node, []).append(float(str(event["dur"])) / 1e6)
            kinds[node] = str(arguments.get("op_name", "?"))
    seconds = {name: _per_run(values, runs) for name, values in found.items()}
    operators: dict[str, float] = {}
    for name, value in seconds.items():
        operators[kinds[name]] = operators.get(kinds[name], 0.0) + value
    return Profile(
        dict(sorted(operators.items(), key=lambda pair: -pair[1])),
        {name: NodeTime(kinds[name], seconds[name]) for name in sorted(seconds, key=lambda name: -seconds[name])},
    )


def _per_run(values: list[float], runs: int) -> float:
    """Seconds that a node takes per run: the median, or the mean where it does not run equally often in all."""
    if len(values) % runs or runs == 1:
        return sum(values) / runs
    return float(np.median(np.reshape(values, (runs, -1)).sum(1)[1:]))
