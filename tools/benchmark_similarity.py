"""Similarity against the bare Gram product: time ratio and memory, at 16,384 neurons of 4,096 weights.

    python tools/benchmark_similarity.py [--neurons 16384] [--weights 4096] [--rounds 3]

Both run interleaved in one process; the ratio is of medians. Memory is the peak of the resident set above what it was
with the weights in place, read in a process of its own. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onnx_condense.algebra.stages import Rule, Stage
from onnx_condense.algebra.vectors import Vectors
from onnx_condense.merging.similarity import condensation_groups, similarity

THRESHOLD = 0.88


def layer(neurons: int, weights: int, seed: int) -> NDArray[np.float32]:
    """Random rows, a tenth of which are noisy copies of others."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((neurons, weights), dtype=np.float32)
    copies = generator.choice(neurons, neurons // 5, replace=False).reshape(2, -1)
    rows[copies[0]] = rows[copies[1]] * 1.5 + 0.1 * rows[copies[0]]
    return rows


def ours(rows: NDArray[np.float32]) -> NDArray[np.int64]:
    """Similarity and grouping of one layer."""
    bias = np.zeros((len(rows), 1), dtype=np.float32)
    stage = Stage(Vectors.of(rows), bias, frozenset({0}), Rule.POSITIVE)
    return condensation_groups(similarity([stage], len(rows)), THRESHOLD)


def bare(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the comparison is against."""
    return rows @ rows.T


def seconds(function: Callable[[NDArray[np.float32]], object], rows: NDArray[np.float32]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function(rows)
    return time.perf_counter() - start


def peak_bytes(neurons: int, weights: int, seed: int) -> int:
    """Peak resident set of `ours` above the weights, in a process of its own."""
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[1]); import benchmark_similarity as b;"
        f"rows = b.layer({neurons}, {weights}, {seed}); b.ours(rows[:256]);"
        "start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; b.ours(rows);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)"
    )
    folder = __file__.rsplit("/", 1)[0]
    found = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    return int(found.stdout) * 1024


def main() -> None:
    """Runs the benchmark and prints its result."""
    parser = argparse.ArgumentParser(description="similarity against the bare Gram product")
    parser.add_argument("--neurons", type=int, default=16384)
    parser.add_argument("--weights", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    peak = peak_bytes(arguments.neurons, arguments.weights, arguments.seed)
    rows = layer(arguments.neurons, arguments.weights, arguments.seed)
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    for _ in range(arguments.rounds):
        times["bare"].append(seconds(bare, rows))
        times["ours"].append(seconds(ours, rows))
    medians = {name: float(np.median(values)) for name, values in times.items()}
    result = {
        "neurons": arguments.neurons,
        "weights": arguments.weights,
        "bare_seconds": round(medians["bare"], 2),
        "ours_seconds": round(medians["ours"], 2),
        "ratio": round(medians["ours"] / medians["bare"], 3),
        "peak_bytes_beyond_weights": peak,
        "rounds": arguments.rounds,
        "seed": arguments.seed,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
