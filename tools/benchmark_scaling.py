"""How the tool's cost grows with nodes, channels, calibration samples and the size of images.

    pip install '.[plot]' && python tools/benchmark_scaling.py [--sweeps NAME,...] [--json OUT] [--fill]

CPU seconds of whole runs, start-up included, every run in a process of its own, at T = 0.88: chains of layers of 32
neurons (nodes); two hidden layers of so many neurons (channels); MobileNetV2 on images of so many pixels a side
(pixels). And to half of the parameters: four convolutions with 32 channels, calibrated on images of 32 x 32 (samples).
--fill draws tools/benchmark_scaling.svg. Rows of other sweeps in OUT stay.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

sys.path.insert(0, str(Path(__file__).parent))  # runpy does not

from _networks import Net, chain, mlp, mobilenet
from _pictures import COLOURS, STYLE, save
from benchmark_large import measured

PAPERS = ("--threshold", "0.88")
HALF = ("--budget", "params=0.5")


@dataclass(frozen=True)
class Sweep:
    """What grows. title: of its axis. model: of one value. samples: calibration samples of one value."""

    title: str
    values: Sequence[int]
    model: Callable[[int], onnx.ModelProto]
    samples: Callable[[int], int] = lambda value: 0
    options: Sequence[str] = PAPERS


def convolutions() -> onnx.ModelProto:
    """Four convolutions with 32 channels on images of 32 x 32, and ten classes."""
    net = Net(("n", 3, 32, 32))
    x = net.conv("x", (3, 32), (3, 1), act="Relu")
    for stride in (2, 1, 2):
        x = net.conv(x, (32, 32), (3, stride), act="Relu")
    net.gemm(net.node("Flatten", net.node("GlobalAveragePool", x)), 32, 10)
    return net.model(10)


SWEEPS: Mapping[str, Sweep] = {
    "nodes": Sweep("nodes", (999, 1998, 3999, 7998), lambda nodes: chain(nodes // 3)),
    "channels": Sweep("neurons of each of two layers", (256, 512, 1024, 2048, 4096), lambda n: mlp((n, n))),
    "samples": Sweep("calibration samples", (64, 256, 1024, 4096), lambda n: convolutions(), lambda n: n, HALF),
    "pixels": Sweep("side of the images, pixels", (64, 128, 224, 320), mobilenet),
}


def row(name: str, value: int) -> dict[str, Any]:
    """CPU seconds and peak memory of a run."""
    sweep = SWEEPS[name]
    with tempfile.TemporaryDirectory() as folder:
        model, inputs = Path(folder) / "model.onnx", Path(folder) / "inputs.npz"
        onnx.save(sweep.model(value), model)
        words = ["onnx-condense", str(model), "-o", str(Path(folder) / "out.onnx"), *sweep.options]
        words += ["--align", "1", "--force", "--quiet"]
        if sweep.samples(value):
            images = np.random.default_rng(0).standard_normal((sweep.samples(value), 3, 32, 32), dtype=np.float32)
            np.savez(inputs, x=images)
            words += ["--calibration", str(inputs)]
        found = measured(words)
    took = round(found["cpu"] + found["apart"], 2)
    return {"sweep": name, "value": value, "cpu": took, "peak_mb": found["peak"] >> 20, "code": found["code"]}


def draw(rows: Sequence[Mapping[str, Any]], target: Path) -> None:
    """CPU seconds over what grows, on logarithmic axes; dotted: in proportion to it."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update(STYLE | {"svg.hashsalt": "onnx-condense"})
    figure, panels = plt.subplots(2, 2, figsize=(9, 6), constrained_layout=True)
    for axis, (name, sweep), colour in zip(panels.flat, SWEEPS.items(), COLOURS, strict=False):
        found = sorted((one["value"], one["cpu"]) for one in rows if one["sweep"] == name)
        if not found:
            continue
        values, seconds = (np.array(part, dtype=float) for part in zip(*found, strict=True))
        axis.loglog(values, seconds, color=colour, marker="o", linewidth=1.8, markersize=4)
        axis.loglog(values, seconds[-1] * values / values[-1], color="black", linestyle=":", linewidth=0.8)
        axis.set_xlabel(sweep.title)
        axis.set_ylabel("CPU seconds")
        axis.set_ylim(0.5 * seconds.min(), 2 * seconds.max())
        axis.set_xticks(values, [f"{value:,.0f}" for value in values], minor=False)
        axis.set_xticks([], minor=True)
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
        axis.grid(color="0.92")
    save(figure, target, "CPU seconds of whole runs over what grows")
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sweeps", default=",".join(SWEEPS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--fill", action="store_true")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    asked = [name for name in given.sweeps.split(",") if name]
    known = json.loads(given.json.read_text())["rows"] if given.json and given.json.exists() else []
    rows = [one for one in known if one["sweep"] not in asked]
    host = {"machine": platform.machine(), "cores": os.cpu_count(), "onnxruntime": onnxruntime.__version__}
    for name in asked:
        for value in SWEEPS[name].values:
            rows.append(row(name, value))
            print(json.dumps(rows[-1]), flush=True)
            if given.json:
                given.json.write_text(json.dumps({"host": host, "rows": rows}, indent=1) + "\n")
    if given.fill:
        draw(rows, Path(__file__).with_suffix(".svg"))
    return int(any(one["code"] for one in rows))


if __name__ == "__main__":
    raise SystemExit(main())
