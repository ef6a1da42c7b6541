"""Kills `onnx-condense` at random moments while it replaces its output, and says what is there then.

    python tools/kill_save.py [--kills 60] [--seed 0] [--megabytes 8] [--json FILE]

Two models are condensed to one place in turn, as one file and with their weights in a file of their own. From the first
byte that a run writes on, its process gets a SIGKILL after a random time, or before a random file operation. Then the
old pair or the new one must be there, whole: anything else counts as mixed. Exit 0 where nothing was mixed, and an
undisturbed run afterwards left nothing but its own files.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_condense.cli.main import main as program
from onnx_condense.errors import CondenseError
from onnx_condense.model import files

KINDS = ("plain", "external")
OUT = "out.onnx"
TOUCHING = ("open", "os.rename", "os.remove", "os.mkdir", "os.chmod")
"""Events of the interpreter that touch a file."""


def model(seed: int, megabytes: int) -> onnx.ModelProto:
    """A small MLP whose hidden neurons are copies, beside a large table that stays as it is."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((300, 40)).astype(np.float32)
    weights = {
        "w": np.concatenate([rows, rows]),
        "v": generator.standard_normal((3, 600)).astype(np.float32),
        "table": generator.standard_normal((megabytes * 256, 1024)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["z"], transB=1),
        helper.make_node("Relu", ["z"], ["h"]),
        helper.make_node("Gemm", ["h", "v"], ["y"], transB=1),
        helper.make_node("Gather", ["table", "i"], ["row"]),
    ]
    inputs = [("x", TensorProto.FLOAT, [1, 40]), ("i", TensorProto.INT64, [1])]
    outputs = [("y", TensorProto.FLOAT, [1, 3]), ("row", TensorProto.FLOAT, [1, 1024])]
    ports = [[helper.make_tensor_value_info(*port) for port in side] for side in (inputs, outputs)]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", *ports, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def begun(folder: Path, source: Path, least: int) -> int:
    """Begins a run in a process of its own, forked to spare the imports; returns its id once it begins to write.

    Before the `least`-th file operation from there on, the process kills itself; 0: before none.
    """
    read, write = os.pipe()
    process = os.fork()
    if not process:
        sys.addaudithook(_Watch(folder, write, least))
        asked = ("--threshold", "0.9", "--force", "--quiet", "--align", "1")
        os._exit(program([str(source), "-o", str(folder / OUT), *asked]))
    os.close(write)
    os.read(read, 1)
    os.close(read)
    return process


class _Watch:
    """Says when the first file is written in a folder, and kills this process at an operation after that."""

    def __init__(self, folder: Path, say: int, least: int) -> None:
        self.folder, self.say, self.least, self.count = str(folder), say, least, 0

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in TOUCHING or self.folder not in (path := str(arguments[0])):
            return
        if self.count == 0 and not path.endswith(".part"):
            return
        if self.count == 0:
            os.write(self.say, b"!")
        self.count += 1
        if self.count == self.least:
            os.kill(os.getpid(), signal.SIGKILL)


def finished(folder: Path, source: Path) -> float:
    """An undisturbed run; returns the seconds that it took from the first byte on. Raises SystemExit if it failed."""
    process = begun(folder, source, 0)
    start = time.perf_counter()
    if os.waitpid(process, 0)[1]:
        raise SystemExit("an undisturbed run failed")
    return time.perf_counter() - start


def killed(folder: Path, source: Path, generator: random.Random, seconds: float) -> bool:
    """Whether a run was killed before its end."""
    by_time = generator.random() < 0.5
    process = begun(folder, source, 0 if by_time else generator.randint(1, 20))
    if by_time:
        time.sleep(generator.uniform(0, seconds))
        os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def found(folder: Path) -> str:
    """The sha256 of the model with its weights, or why there is none."""
    try:
        return files.load(folder / OUT).sha256
    except CondenseError as error:
        return str(error)


def kills(kind: str, folder: Path, wanted: int, generator: random.Random, megabytes: int) -> Counter[str]:
    """How often the old pair, the new one, or something else was there after a kill; and litter after all."""
    sources, whole, seconds = [], [], []
    for seed in range(2):
        sources.append(folder / f"model{seed}" / "m.onnx")
        sources[-1].parent.mkdir()
        external = {"save_as_external_data": True, "location": "m.data"} if kind == "external" else {}
        onnx.save(model(seed, megabytes), sources[-1], **external)
    place = folder / "place"
    place.mkdir()
    for source in sources:
        seconds.append(finished(place, source))
        whole.append(found(place))
    now, counts = 1, Counter({"old": 0, "new": 0, "mixed": 0, "litter": 0})
    while counts.total() < wanted:
        if not killed(place, sources[1 - now], generator, max(seconds)):
            now = 1 - now
            continue
        state = found(place)
        counts["old" if state == whole[now] else "new" if state == whole[1 - now] else "mixed"] += 1
        if state == whole[1 - now]:
            now = 1 - now
    finished(place, sources[0])
    left = {path.name for path in place.iterdir()} - {OUT, *files.load(place / OUT).external}
    counts["litter"] = len(left)
    return counts


def main() -> None:
    """Both kinds; exit 1 where something was mixed, or stayed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=60, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--megabytes", type=int, default=8, help="size of the models")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    generator = random.Random(given.seed)
    results = {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as name:
            counts = kills(kind, Path(name), given.kills, generator, given.megabytes)
        results[kind] = dict(counts)
        print(f"{kind}: {', '.join(f'{count} {what}' for what, count in counts.items())}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(any(counts["mixed"] or counts["litter"] for counts in results.values()))


if __name__ == "__main__":
    main()
