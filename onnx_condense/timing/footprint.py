"""Load time and peak memory of one model, in a process of its own (`python -m onnx_condense.timing.footprint`)."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from onnx_condense.model.inputs import Feed
from onnx_condense.model.runtime import deployed, run

LOADS = 5
LOADING_SECONDS = 2.0
"""A model is loaded LOADS times, but no further time once this long has passed."""

RUNS = 3


@dataclass(frozen=True)
class Footprint:
    """What a model takes besides time.

    load_seconds: from the file to a session that can run, median. peak_memory: bytes that loading it and running it
    add to a process at their highest; None where the system does not tell.
    """

    load_seconds: float
    peak_memory: int | None


def footprint(model: Path, feeds: Sequence[Feed], threads: int, provider: str) -> Footprint | None:
    """Measures a model file in a fresh process; None where that process dies (out of memory)."""
    package = Path(__file__).parent.parent
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=pickle.dumps((model.absolute(), list(feeds[:1]), threads, provider)),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        check=False,
    )
    return Footprint(**json.loads(done.stdout)) if done.returncode == 0 else None


def measure_here(model: Path, feed: Feed, threads: int, provider: str) -> Footprint:
    """What `footprint` measures, in this process."""
    before = _reset_peak()
    seconds = []
    begin = time.perf_counter()
    start = begin
    active = deployed(model, threads=threads, provider=provider)
    seconds.append(time.perf_counter() - start)
    for _ in range(RUNS):
        run(active, None, feed)
    peak = _peak()
    del active
    while len(seconds) < LOADS and time.perf_counter() - begin < LOADING_SECONDS:
        start = time.perf_counter()
        deployed(model, threads=threads, provider=provider)
        seconds.append(time.perf_counter() - start)
    return Footprint(float(np.median(seconds)), max(0, peak - before) if peak is not None else None)


def _reset_peak() -> int:
    """Resident bytes now, from which on the peak counts."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak so far stays
        return _peak() or 0
    return int(psutil.Process().memory_info().rss)


def _peak() -> int | None:
    """The highest resident bytes of this process; not `ru_maxrss` on Linux, which starts at the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 if "VmHWM" in lines else None
    windows = getattr(psutil.Process().memory_info(), "peak_wset", None)
    if windows is not None:
        return int(windows)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


if __name__ == "__main__":
    given, (inputs,), count, name = pickle.load(sys.stdin.buffer)
    found = measure_here(given, inputs, count, name)
    print(json.dumps({"load_seconds": found.load_seconds, "peak_memory": found.peak_memory}))
