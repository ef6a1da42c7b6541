"""The tool's own speed: CPU seconds of a whole run beside a floor, with the seconds of its stages.

    python tools/benchmark_tool.py [--models NAME,...] [--runs 2] [--json OUT]

The floor is a process that loads the model, forms the Gram matrix of every weight, takes the graph through
GraphSurgeon once, runs each of three onnxruntime sessions once on two samples, and saves. The run is
`onnx-condense MODEL --threshold 0.88 --align 1`. Floor and run take turns; the smallest of each counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).parent))  # runpy does not

from _networks import NETWORKS
from benchmark_large import measured


def floor(path: Path, out: Path) -> None:
    """What no tool that compares channels and proves its result can do without."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1 and tensor.data_type == onnx.TensorProto.FLOAT:
            rows = numpy_helper.to_array(tensor)
            rows = rows.reshape(len(rows), -1) if rows.ndim > 2 else rows.T
            rows @ rows.T
    written = gs.export_onnx(gs.import_onnx(model))
    for _ in range(3):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        given = session.get_inputs()[0]
        shape = [size if isinstance(size, int) else 2 for size in given.shape]
        session.run(None, {given.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)})
    onnx.save(written, out)


def row_of(name: str, runs: int, folder: Path) -> dict[str, Any]:
    """One model: builds it, and lets floor and tool take turns on it."""
    model, out, report = folder / "model.onnx", folder / "out.onnx", folder / "report.json"
    onnx.save(NETWORKS[name](), model)
    options = ("--threshold", "0.88", "--align", "1", "--force", "--report")
    commands = {
        "floor": (__file__, "--floor", str(model), str(out)),
        "tool": ("onnx-condense", str(model), "-o", str(out), *options, str(report)),
    }
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in commands}
    for _ in range(runs):
        for kind, command in commands.items():
            found[kind].append(measured(command))
    best = {kind: min(times, key=lambda time: time["cpu"] + time["apart"]) for kind, times in found.items()}
    cpu = {kind: round(time["cpu"] + time["apart"], 2) for kind, time in best.items()}
    return {
        "model": name,
        "bytes": model.stat().st_size,
        "floor": cpu["floor"],
        "cpu": cpu["tool"],
        "ratio": round(cpu["tool"] / cpu["floor"], 2),
        "peak": best["tool"]["peak"],
        "code": best["tool"]["code"],
        "stages": json.loads(report.read_text())["seconds"] if report.exists() else {},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the models and prints one line for each."""
    parser = argparse.ArgumentParser(description="the tool's own speed")
    parser.add_argument("--models", default=";".join(NETWORKS), help="names, with ; between them")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--floor", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="keeps the rows of other models that it holds")
    given = parser.parse_args(arguments)
    if given.floor:
        floor(*given.floor)
        return 0
    known = json.loads(given.json.read_text())["rows"] if given.json and given.json.exists() else []
    rows = {row["model"]: row for row in known}
    host = {"machine": platform.machine(), "cores": os.cpu_count(), "onnxruntime": onnxruntime.__version__}
    for name in given.models.split(";"):
        with tempfile.TemporaryDirectory() as folder:
            row = rows[name] = row_of(name, given.runs, Path(folder))
        print(name, f"floor {row['floor']} s, tool {row['cpu']} s, {row['ratio']} times", row["stages"], flush=True)
        if given.json:
            given.json.write_text(json.dumps({"host": host, "rows": [*rows.values()]}, indent=1) + "\n")
    return int(any(row["code"] for row in rows.values()))


if __name__ == "__main__":
    raise SystemExit(main())
