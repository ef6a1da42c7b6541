"""Is the benchmark honest? A model against its own copy, and against one with 10 % more of the same work.

    python tools/benchmark_trials.py [--trials 20] [--seconds 10] [--threads 1] [--json OUT]

A chain of 20 equal layers races its copy and a chain of 22, convolutions and Gemms. The copy must read "no measurable
difference" and the longer chain "slower" in at least 19 of 20 trials, else the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import onnx_condense as oc

LAYERS = 20
CHANNELS = {"Conv": 32, "Gemm": 256}
SHARE = 0.95


def chain(kind: str, layers: int) -> onnx.ModelProto:
    """Equal layers in a row, each followed by Relu; weights keep the size of what passes."""
    generator, channels = np.random.default_rng(0), CHANNELS[kind]
    shape = [1, channels, 16, 16] if kind == "Conv" else [1, channels]
    size = [channels, channels, 3, 3] if kind == "Conv" else [channels, channels]
    options = {"pads": [1, 1, 1, 1]} if kind == "Conv" else {"transB": 1}
    nodes, weights = [], []
    for layer in range(layers):
        weight = generator.standard_normal(size) * np.sqrt(2 / np.prod(size[1:]))
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"w{layer}"))
        nodes.append(helper.make_node(kind, [f"x{layer}", f"w{layer}"], [f"z{layer}"], **options))
        nodes.append(helper.make_node("Relu", [f"z{layer}"], [f"x{layer + 1}"]))
    ends = [helper.make_tensor_value_info(f"x{n}", TensorProto.FLOAT, shape) for n in (0, layers)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> int:
    """Runs the trials and prints one line for each."""
    parser = argparse.ArgumentParser(description="is the benchmark honest?")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    host = {"machine": platform.machine(), "cores": os.cpu_count(), "onnxruntime": onnxruntime.__version__}
    print(host, f"{arguments.threads} threads, at most {arguments.seconds:g} s each")
    trials = []
    for kind in CHANNELS:
        for layers, wanted in ((LAYERS, "no measurable difference"), (LAYERS * 11 // 10, "slower")):
            hits = 0
            for seed in range(arguments.trials):
                found = oc.benchmark(
                    chain(kind, LAYERS),
                    chain(kind, layers),
                    threads=arguments.threads,
                    seconds=arguments.seconds,
                    seed=seed,
                )
                busy, row = found.batches[0].busy, found.batches[0].models[1]
                hits += row.verdict == wanted
                text = f"{row.ratio:.3f} ({row.ratio_low:.3f} to {row.ratio_high:.3f}) {row.verdict}"
                print(
                    f"{kind} {LAYERS}:{layers} {text}{'' if row.stable else ', unstable'}, busy {busy:.1f}", flush=True
                )
                trials.append(
                    {"kind": kind, "layers": layers, "seed": seed} | found.to_json()["batches"][0]["models"][1]
                )
            print(f"{kind} {LAYERS}:{layers}: {hits} of {arguments.trials} are {wanted}\n", flush=True)
            trials[-1]["hits"], trials[-1]["wanted"] = hits, wanted
    if arguments.json:
        arguments.json.write_text(json.dumps({"host": host, "trials": trials}, indent=1) + "\n")
    return int(any(t["hits"] < SHARE * arguments.trials for t in trials if "hits" in t))


if __name__ == "__main__":
    raise SystemExit(main())
