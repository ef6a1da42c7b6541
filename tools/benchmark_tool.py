"""The tool's own speed: CPU seconds of whole runs beside a floor and beside peers, with the seconds of their stages.

    python tools/benchmark_tool.py [--models NAME;...] [--commands NAME,...] [--runs 2] [--json OUT] [--most RATIO]

The floor is a process that loads the model, forms the Gram matrix of every weight, takes the graph through
GraphSurgeon once, runs each of three onnxruntime sessions once on two samples, and saves. The runs are
`onnx-condense MODEL --threshold 0.88 --align 1` and the same with --lossless. Peers, where they are installed (extra
`peers`), take a tenth of the channels: onnxsim simplifies and prunes, Torch-Pruning works on a module of the graph,
which is exported again. All take turns; the smallest of each counts.

Linear algebra has one thread: those that wait for each other count as busy, the more the busier the machine is. Python
may keep what it compiles, as it does where the tool is installed: else each run would compile the tool anew.
With --most, the exit code is 1 where a run takes more than so many times the floor, or over a floor of less than a
second, more than so many seconds above it: for CI, which knows no seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
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

COMMANDS = {
    "threshold": ("--threshold", "0.88"),
    "lossless": ("--lossless",),
}
OPTIONS = ("--align", "1", "--force", "--report")
TAKEN = 0.1
"""Share of the channels that peers remove."""


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


def onnxsim(path: Path, out: Path) -> None:
    """Simplified, and pruned by norms; nothing is compared."""
    import onnxsim

    simple, _ = onnxsim.simplify(onnx.load(path))
    onnx.save(onnxsim.apply_structured_pruning(simple, sparsity=TAKEN), out)


def torch_pruning(path: Path, out: Path) -> None:
    """Pruned by norms as a torch module, and exported; nothing is compared."""
    import torch
    import torch_pruning
    from _peers import exported
    from compare_latency import Network

    model = onnx.load(path)
    network = Network(model).eval()
    example = torch.zeros(1, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]))
    importance = torch_pruning.importance.MagnitudeImportance(p=2)
    last = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)][-1:]
    pruner = torch_pruning.pruner.MagnitudePruner
    pruner(network, example, importance=importance, pruning_ratio=TAKEN, ignored_layers=last).step()
    onnx.save(exported(network, example, model), out)


OTHERS: Mapping[str, Callable[[Path, Path], None]] = {
    "floor": floor,
    "onnxsim": onnxsim,
    "torch_pruning": torch_pruning,
}


def row_of(name: str, kinds: Sequence[str], runs: int, folder: Path) -> dict[str, Any]:
    """One model: builds it, and lets floor, tool and peers take turns on it."""
    model, out = folder / "model.onnx", folder / "out.onnx"
    onnx.save(NETWORKS[name](), model)
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for _ in range(runs):
        for kind, times in found.items():
            times.append(_once(kind, model, out, folder / f"{kind}.json"))
    row: dict[str, Any] = {"model": name, "bytes": model.stat().st_size}
    for kind, times in found.items():
        best = min(times, key=lambda time: time["cpu"] + time["apart"])
        said = {"cpu": round(best["cpu"] + best["apart"], 2), "peak": best["peak"], "code": best["code"]}
        report = folder / f"{kind}.json"
        row[kind] = said | ({"stages": json.loads(report.read_text())["seconds"]} if report.exists() else {})
    return row


def _once(kind: str, model: Path, out: Path, report: Path) -> dict[str, Any]:
    if kind in OTHERS:
        return measured((__file__, "--other", kind, str(model), str(out)))
    return measured(("onnx-condense", str(model), "-o", str(out), *COMMANDS[kind], *OPTIONS, str(report)))


def too_slow(row: Mapping[str, Any], most: float) -> list[str]:
    """What took too long beside the floor, in words."""
    least = row["floor"]["cpu"]
    allowed = max(most * least, least + most)
    slow = [(kind, row[kind]["cpu"]) for kind in COMMANDS if kind in row and row[kind]["cpu"] > allowed]
    return [f"{row['model']}, {kind}: {cpu:.1f} s, floor {least:.1f} s" for kind, cpu in slow]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the models and prints one line for each."""
    parser = argparse.ArgumentParser(description="the tool's own speed")
    parser.add_argument("--models", default=";".join(NETWORKS), help="names, with ; between them")
    parser.add_argument("--commands", default=",".join(COMMANDS), help=f"of {', '.join(COMMANDS)} and the peers")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--other", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--most", type=float, help="times the floor, or seconds above one of less than a second")
    parser.add_argument("--json", type=Path, help="keeps the rows of other models that it holds")
    given = parser.parse_args(arguments)
    if given.other:
        kind, model, out = given.other
        try:
            OTHERS[kind](Path(model), Path(out))
        except Exception as error:  # of a peer, whatever it is: it has no figure then
            print(f"{kind}: {error}", file=sys.stderr)
            return 1
        return 0
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    known = json.loads(given.json.read_text())["rows"] if given.json and given.json.exists() else []
    rows, slow, failed = {row["model"]: row for row in known}, list[str](), False
    host = {"machine": platform.machine(), "cores": os.cpu_count(), "onnxruntime": onnxruntime.__version__}
    asked = ["floor", *given.commands.split(",")]
    kinds = [kind for kind in asked if kind in ("floor", *COMMANDS) or importlib.util.find_spec(kind)]
    for name in given.models.split(";"):
        with tempfile.TemporaryDirectory() as folder:
            row = rows[name] = rows.get(name, {}) | row_of(name, kinds, given.runs, Path(folder))
        print(name, *(f"{kind} {row[kind]['cpu']} s" for kind in kinds), flush=True)
        slow += too_slow(row, given.most) if given.most else []
        if given.json:
            given.json.write_text(json.dumps({"host": host, "rows": [*rows.values()]}, indent=1) + "\n")
        failed |= any(row[kind]["code"] for kind in kinds if kind in COMMANDS)
    for line in slow:
        print("too slow:", line)
    return int(failed or bool(slow))


if __name__ == "__main__":
    raise SystemExit(main())
