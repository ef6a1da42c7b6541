"""Large models: CPU seconds and peak memory of `inspect`, `--lossless`, `--threshold` and `--budget`.

    python tools/benchmark_large.py [--models ffn,file,external] [--folder DIR] [--json OUT]

Three generated models, half of whose hidden neurons are copies of others: an FFN of 4096-16384-4096 (0.5 GB) with
external data; a table of tokens with residual FFN blocks of 1024-4096-1024 as one file of 1.9 GB; the same with 3 GB of
external data. Each command runs in a process of its own. Beside it stands the floor: one that reads the model, forms
the Gram matrix of each hidden layer, and writes the model again with onnx and numpy alone.

Peaks are of the process itself; verification of models over 1 GB has processes of its own, whose largest peak stands
beside it. Needs as much disk as four copies of the largest model, and 12 GB of memory for the floor of the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

COMMANDS = {
    "inspect": ("inspect", "{model}"),
    "--lossless": ("{model}", "-o", "{out}", "--lossless", "--align", "1"),
    "--threshold": ("{model}", "-o", "{out}", "--threshold", "0.88", "--align", "1"),
    "--budget": ("{model}", "-o", "{out}", "--budget", "params={share}", "--align", "1"),
}

SHARES = {"ffn": 0.9, "file": 0.95, "external": 0.97}
"""What `--budget` keeps: the table of tokens, most of the others, stays as it is."""

SIZES = {
    "ffn": {"tokens": 0, "width": 4096, "hidden": 16384, "blocks": 1, "external": True},
    "file": {"tokens": 430_000, "width": 1024, "hidden": 4096, "blocks": 4, "external": False},
    "external": {"tokens": 700_000, "width": 1024, "hidden": 4096, "blocks": 4, "external": True},
}

Weight = tuple[str, NDArray[np.float32]]


def weights(tokens: int, width: int, hidden: int, blocks: int) -> Iterator[Weight]:
    """Names and numbers, one after the other; the second half of the hidden neurons are copies of the first."""
    generator = np.random.default_rng(0)
    if tokens:
        yield "table", generator.standard_normal((tokens, width), dtype=np.float32)
    for block in range(blocks):
        up = generator.standard_normal((width, hidden), dtype=np.float32) / np.float32(width**0.5)
        up[:, hidden // 2 :] = up[:, : hidden // 2]
        yield f"up{block}", up
        yield f"down{block}", generator.standard_normal((hidden, width), dtype=np.float32) / np.float32(hidden**0.5)


def build(path: Path, tokens: int, width: int, hidden: int, blocks: int, external: bool) -> None:
    """Writes a model without holding more than one of its weights."""
    kind, size = (TensorProto.INT64, 16) if tokens else (TensorProto.FLOAT, width)
    ids = helper.make_tensor_value_info("x", kind, ["n", size])
    nodes, data = [], "x"
    if tokens:
        nodes, data = [helper.make_node("Gather", ["table", "x"], ["r0"])], "r0"
    for block in range(blocks):
        nodes += [
            helper.make_node("MatMul", [data, f"up{block}"], [f"z{block}"]),
            helper.make_node("Relu", [f"z{block}"], [f"h{block}"]),
            helper.make_node("MatMul", [f"h{block}", f"down{block}"], [f"m{block}"]),
            helper.make_node("Add", [data, f"m{block}"], [f"r{block + 1}"]),
        ]
        data = f"r{block + 1}"
    result = helper.make_tensor_value_info(data, TensorProto.FLOAT, None)
    graph, offset, stored = helper.make_graph(nodes, "large", [ids], [result]), 0, path.with_name(f"{path.name}.data")
    with open(stored, "wb") as file:
        for name, value in weights(tokens, width, hidden, blocks):
            file.seek(offset)
            value.tofile(file)
            tensor = graph.initializer.add(name=name, dims=value.shape, data_type=TensorProto.FLOAT)
            tensor.data_location = TensorProto.EXTERNAL
            for key, said in (("location", stored.name), ("offset", offset), ("length", value.nbytes)):
                tensor.external_data.add(key=key, value=str(said))
            offset = -(-(offset + value.nbytes) // 4096) * 4096
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    if not external:
        onnx.save(onnx.load(path), path)
        stored.unlink()


def floor(path: Path, out: Path) -> None:
    """Reads a model, forms the Gram matrix of each hidden layer, 512 rows at a time, and writes the model again."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name.startswith("up"):
            rows = np.frombuffer(tensor.raw_data, dtype=np.float32).reshape(tuple(tensor.dims)).T
            for start in range(0, len(rows), 512):
                rows[start : start + 512] @ rows[start:].T
    external = path.with_name(f"{path.name}.data").exists()
    onnx.save(model, out, save_as_external_data=external, location=f"{out.name}.data")


MEASURED = """
import json, os, resource, runpy, sys
sys.argv = sys.argv[1:]
code = 0
try:
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        from onnx_condense.cli.main import main
        code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code or 0
own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
high = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
found = {"code": code, "cpu": own.ru_utime + own.ru_stime, "apart": others.ru_utime + others.ru_stime,
         "peak": int(high.split()[1]) * 1024, "peak_apart": others.ru_maxrss * 1024}
open(os.environ["MEASURED"], "w").write(json.dumps(found))
"""
"""Runs a command, or this file, and says what it took."""


def measured(arguments: Sequence[str]) -> dict[str, Any]:
    """What a process takes: CPU seconds and peaks in bytes, of itself and of those that verify."""
    with tempfile.NamedTemporaryFile() as said:
        start = time.perf_counter()
        surroundings = os.environ | {"MEASURED": said.name}
        subprocess.run([sys.executable, "-c", MEASURED, *arguments], env=surroundings, check=True)
        wall = time.perf_counter() - start
        found: dict[str, Any] = json.loads(Path(said.name).read_text())
    return found | {"wall": wall}


def rows_of(kind: str, commands: Sequence[str], folder: Path) -> Iterator[dict[str, Any]]:
    """Builds a model in a folder, and runs commands on it."""
    model, out = folder / f"{kind}.onnx", folder / "out.onnx"
    build(model, **SIZES[kind])
    size = sum(path.stat().st_size for path in folder.iterdir())
    for command in commands:
        words = COMMANDS.get(command, (__file__, "--floor", "{model}", "{out}"))
        stated = [word.format(model=model, out=out, share=SHARES[kind]) for word in words]
        found = measured(stated if command == "floor" else ["onnx-condense", *stated])
        written = [*folder.glob(f"{out.name}*")]
        written_bytes = sum(path.stat().st_size for path in written)
        yield {"model": kind, "bytes": size, "command": command, "written": written_bytes} | found
        for path in written:
            path.unlink()


def main() -> int:
    """Runs the commands on the models and prints one line for each."""
    parser = argparse.ArgumentParser(description="large models: time and memory")
    parser.add_argument("--models", default=",".join(SIZES))
    parser.add_argument("--commands", default=",".join(("floor", *COMMANDS)))
    parser.add_argument("--folder", type=Path, help="where the models are built")
    parser.add_argument("--floor", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="keeps the rows of other models and commands that it holds")
    given = parser.parse_args()
    if given.floor:
        floor(*given.floor)
        return 0
    known = json.loads(given.json.read_text())["rows"] if given.json and given.json.exists() else []
    rows = {(row["model"], row["command"]): row for row in known}
    host = {"machine": platform.machine(), "cores": os.cpu_count(), "onnxruntime": onnxruntime.__version__}
    for kind in given.models.split(","):
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            for row in rows_of(kind, given.commands.split(","), Path(name)):
                rows[kind, row["command"]] = row
                sizes = (f"{key} {row[key] / 2**20:,.0f} MB" for key in ("bytes", "written", "peak", "peak_apart"))
                print(kind, row["command"], f"cpu {row['cpu']:.1f} + {row['apart']:.1f} s,", *sizes, flush=True)
                if given.json:
                    text = json.dumps({"host": host, "rows": [*rows.values()]}, indent=1)
                    given.json.write_text(text + "\n")
    return int(any(row["code"] for row in rows.values()))


if __name__ == "__main__":
    raise SystemExit(main())
