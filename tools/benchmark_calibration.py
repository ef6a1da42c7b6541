"""Seconds of `moments` and `calibrated` over the number of samples and of channels, on a chain of convolutions.

    python tools/benchmark_calibration.py [--samples 64 256 1024] [--channels 32 64 128 256] [--depth 6] [--size 16]
                                          [--model M.onnx --data INPUTS.npz] [--budget 0.7] [--json FILE] [--seed 0]

Half of the channels of every convolution are noisy copies of others, so that consumers are refitted; with --model that
file is condensed to --budget instead, by the first samples of --data. `plan` chooses channels and refits without data,
`calibrate` refits on samples. CPU seconds are of all threads, of the whole run: they do not mind what else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import onnx_condense as oc

COLUMNS = ("model", "samples", "plan", "calibrate", "wall", "cpu", "refitted")


def chain(channels: int, depth: int, size: int, seed: int) -> onnx.ModelProto:
    """3x3 convolutions with BatchNormalization and Relu, then a classifier."""
    generator = np.random.default_rng(seed)
    weights: dict[str, Any] = {}
    nodes, data = [], "x"
    for layer in range(depth):
        inner = 3 if layer == 0 else channels
        mains = generator.standard_normal((channels // 2, inner, 3, 3)) / (3 * inner**0.5)
        copies = mains + 0.1 / inner**0.5 * generator.standard_normal(mains.shape)
        weights[f"w{layer}"] = np.concatenate([mains, copies])
        weights |= {f"one{layer}": np.ones(channels), f"zero{layer}": np.zeros(channels)}
        statistics = [f"one{layer}", f"zero{layer}", f"zero{layer}", f"one{layer}"]
        nodes.append(helper.make_node("Conv", [data, f"w{layer}"], [f"c{layer}"], f"conv{layer}", pads=[1] * 4))
        nodes.append(helper.make_node("BatchNormalization", [f"c{layer}", *statistics], [f"n{layer}"]))
        nodes.append(helper.make_node("Relu", [f"n{layer}"], [f"r{layer}"]))
        data = f"r{layer}"
    weights["head"] = generator.standard_normal((channels, 10))
    nodes.append(helper.make_node("GlobalAveragePool", [data], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "head"], ["y"], "head"))
    shape = ["batch", 3, size, size]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def timed(model: onnx.ModelProto, samples: dict[str, Any] | None, **options: Any) -> dict[str, Any]:
    """One run: seconds of its stages, of the wall and of the CPU."""
    merge = "moments" if samples is None else "calibrated"
    wall, cpu = time.perf_counter(), time.process_time()
    result = oc.condense(model, oc.Options(merge=merge, calibration=samples, align=1, **options))
    seconds = result.report.seconds
    return {
        "plan": round(seconds["plan"], 2),
        "calibrate": round(seconds.get("calibrate", 0.0), 2),
        "wall": round(time.perf_counter() - wall, 2),
        "cpu": round(time.process_time() - cpu, 2),
        "refitted": len(result.plan.refits),
    }


def main() -> None:
    """Runs the benchmark, prints a table, and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--budget", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    host = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "blas_threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
        "onnx_condense": oc.__version__,
        "seed": arguments.seed,
    }
    print(json.dumps(host))
    print(*COLUMNS, sep="  ")
    rows = []
    if arguments.model:
        with np.load(arguments.data) as file:
            given = {name: file[name] for name in file.files if name != "target"}
        cases = [(arguments.model.stem, onnx.load(arguments.model), given, {"budget": ("params", arguments.budget)})]
    else:
        shape = (max(arguments.samples), 3, arguments.size, arguments.size)
        given = {"x": np.random.default_rng(arguments.seed).standard_normal(shape, dtype=np.float32)}
        cases = [
            (f"{n} channels", chain(n, arguments.depth, arguments.size, arguments.seed), given, {"threshold": 0.9})
            for n in arguments.channels
        ]
    for name, model, data, options in cases:
        for count in (0, *arguments.samples):
            samples = {key: value[:count] for key, value in data.items()} if count else None
            row = {"model": name, "samples": count, **timed(model, samples, **options)}
            print(*(row[column] for column in COLUMNS), sep="  ", flush=True)
            rows.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps(host | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
