"""Accuracy of labelled networks after losing channels: onnxsim's structured pruning, and ours at equal parameters.

    pip install '.[images]' --group peers && python tools/compare_labelled.py FOLDER --data FOLDER [--only GLOB ...]
        [--images 2000] [--sparsity 0.3] [--seed 0] [--json OUT]

FOLDER holds index.json, whose rows may state `top1`: data set, layout and normalization of a network; --data holds
mnist/mnist.npz and cifar10/load.py. onnxsim simplifies and removes the given share of the channels, ranked by the L2
norm of their weights or by Wanda (64 training images). Where that removes at least 5 % of the parameters, ours keeps
the same share (`--budget params`, `--align 1`): without data what L2 keeps, with 64 and 256 training images what Wanda
keeps (what L2 keeps, where Wanda removes less). 32 more training images verify ours; nothing is chosen by them.
Accuracy is that of drawn test images. With --json every row is written as it comes, and rows that the file already
holds are not made again. Exit code 1 where ours loses more than onnxsim in its class (without data: L2; 256 images:
Wanda).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from onnx_condense import CondenseError, Options, condense
from onnx_condense.operators.queries import count_parameters

Array = NDArray[Any]

NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "[0,1]": ((0.0,), (1.0,)),
    "(x-.1307)/.3081": ((0.1307,), (0.3081,)),
    "cifar .2023": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar .2471": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""(mean, deviation) per colour of pixels in [0, 1]."""

ORDERS = {"nchw": (0, 3, 1, 2), "nhwc": (0, 1, 2, 3), "nchwT": (0, 3, 2, 1)}
"""Axes of [n, h, w, c] images; T exchanges height and width."""

FEWEST = 0.05
"""Share of the parameters that onnxsim must remove for a network to count."""

WANDA, FEW, MANY, VERIFY = 64, 64, 256, 32
"""Training images."""

L2, CALIBRATED = "onnxsim L2", "onnxsim Wanda"
CLASSES = {"ours, no data": L2, f"ours, {FEW}": CALIBRATED, f"ours, {MANY}": CALIBRATED}
"""Our rows, and the row of onnxsim whose parameters they keep."""

JUDGED = ("ours, no data", f"ours, {MANY}")
"""Our rows that must not lose more than onnxsim."""


class Images:
    """The data sets, each decoded when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, dict[str, Array]] = {}

    def __call__(self, name: str) -> dict[str, Array]:
        """train_x, train_y, test_x, test_y; images are uint8 [n, h, w, c]."""
        if name not in self._known:
            if name == "mnist":
                with np.load(self._folder / "mnist" / "mnist.npz") as file:
                    known = {key: file[key] for key in file.files}
            else:
                sys.path.insert(0, str(self._folder / "cifar10"))
                from load import load  # type: ignore[import-not-found]

                known = load()
            self._known[name] = {k: v[..., None] if k.endswith("_x") and v.ndim == 3 else v for k, v in known.items()}
        return self._known[name]


class Task:
    """What a network is measured on.

    batch: how many samples a run takes; `shape` has them first. test: the inputs, with their labels. training:
    unlabelled inputs in a seeded order.
    """

    def __init__(self, model: onnx.ModelProto, row: dict[str, Any], images: Images, count: int, seed: int) -> None:
        weights = {t.name for t in model.graph.initializer}
        (value,) = [v for v in model.graph.input if v.name not in weights]
        self.name = value.name
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        known = images(row["dataset"])
        mean, deviation = (np.array(part, dtype=np.float32) for part in NORMALIZATIONS[row["norm"]])
        size = int(np.prod(known["test_x"].shape[1:]))
        fixed = all(dims) and int(np.prod(dims)) % size == 0
        self.batch = int(np.prod(dims)) // size if fixed else 250
        self.shape = dims if fixed else [-1, *(d or 1 for d in dims[1:])]
        if not fixed and int(np.prod(self.shape[1:])) != size:
            self.shape = [-1, *np.transpose(known["test_x"][:1], ORDERS[row["layout"]]).shape[1:]]

        def prepared(pixels: Array) -> Array:
            x = (pixels.astype(np.float32) / 255 - mean) / deviation
            x = np.ascontiguousarray(np.transpose(x, ORDERS[row["layout"]]), dtype=np.float32)
            return x.reshape(-1, *self.shape[1:])

        drawn = np.random.default_rng(seed).permutation(len(known["test_x"]))[:count]
        self.test, self.labels = prepared(known["test_x"][drawn]), known["test_y"][drawn]
        order = np.random.default_rng(seed).permutation(len(known["train_x"]))[: MANY + VERIFY]
        self.training = prepared(known["train_x"][order])
        self.verifying = {self.name: self.training[MANY:]}

    def feeds(self, x: Array) -> Iterator[dict[str, Array]]:
        """Batches as the network takes them."""
        for start in range(0, len(x) - len(x) % (self.batch if self.shape[0] > 0 else 1), self.batch):
            yield {self.name: x[start : start + self.batch]}

    def accuracy(self, model: onnx.ModelProto) -> float:
        """Percent of the test images that get their label."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = [session.run(None, feed)[0] for feed in self.feeds(self.test)]
        scores = np.concatenate([f.reshape(-1, f.shape[-1]) if f.ndim > 1 else f[None] for f in found])
        return 100 * float((scores.argmax(1) == self.labels[: len(scores)]).mean())


def by_onnxsim(model: onnx.ModelProto, task: Task, method: str, sparsity: float) -> onnx.ModelProto:
    """onnxsim's structured pruning of a simplified model."""
    import onnxsim

    simple, _ = onnxsim.simplify(model)
    if method == L2:
        pruned: onnx.ModelProto = onnxsim.apply_structured_pruning(simple, sparsity=sparsity)
    else:
        feeds = list(task.feeds(task.training[:WANDA]))
        pruned = onnxsim.apply_structured_wanda_pruning(simple, calibration_data=feeds, sparsity=sparsity)
    return pruned


def by_us(model: onnx.ModelProto, task: Task, method: str, share: float) -> onnx.ModelProto:
    """Ours at a share of the parameters."""
    if method == "ours, no data":
        return condense(model, Options(budget=("params", share), align=1)).model
    images = FEW if method == f"ours, {FEW}" else MANY
    given = {task.name: task.training[:images]}
    options = Options(budget=("params", share), align=1, calibration=given, data=task.verifying)
    return condense(model, options).model


def rows_of(name: str, model: onnx.ModelProto, task: Task, known: dict[str, Any], sparsity: float) -> Iterator[Any]:
    """Every row of a network that is not known, each as it is made."""
    before = count_parameters(model.graph)[0]

    def row(method: str, make: Callable[[], onnx.ModelProto]) -> dict[str, Any]:
        if method not in known:
            start = time.perf_counter()
            try:
                made = make()
                seconds = time.perf_counter() - start
                kept = count_parameters(made.graph)[0] / before
                found = {"parameters": kept, "accuracy": task.accuracy(made), "seconds": round(seconds, 2)}
            except Exception as error:  # peers raise what they like; a row that failed says why
                if method.startswith("ours") and not isinstance(error, CondenseError):
                    raise
                found = {"note": (str(error).splitlines() or [type(error).__name__])[0][:200]}
            known[method] = {"network": name, "method": method} | found
        return known[method]  # type: ignore[no-any-return]

    yield row("original", lambda: model)
    for method in (L2, CALIBRATED):
        yield row(method, partial(by_onnxsim, model, task, method, sparsity))
    for method in CLASSES:
        peer = pair_of(method, known)
        if peer is not None:
            yield row(method, partial(by_us, model, task, method, known[peer]["parameters"]))


def pair_of(method: str, known: Mapping[str, dict[str, Any]]) -> str | None:
    """The row of onnxsim beside which one of ours stands: L2 where its own removes too little, None for neither."""
    labels = (CLASSES[method], L2)
    return next((label for label in labels if known[label].get("parameters", 1.0) <= 1 - FEWEST), None)


def line(row: dict[str, Any], original: dict[str, Any]) -> str:
    """A table line."""
    head = f"| {row['network']} | {row['method']} | "
    if "note" in row:
        return head + f"{row['note']} | | | |"
    lost = original["accuracy"] - row["accuracy"]
    return head + f"{row['parameters']:.1%} | {row['accuracy']:.2f} | {lost:.2f} | {row['seconds']:.1f} |"


class Pair(NamedTuple):
    """A row of ours beside the one of onnxsim that it stands for, with the accuracies of the original and of both."""

    network: str
    method: str
    peer: str
    original: float
    theirs: float
    ours: float


def pairs(rows: Iterable[dict[str, Any]]) -> list[Pair]:
    """Every row of ours beside its peer's, by method."""
    networks: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        networks.setdefault(row["network"], {})[row["method"]] = row
    found = []
    for method in CLASSES:
        for name, known in networks.items():
            peer = pair_of(method, known) if "accuracy" in known.get(method, {}) else None
            if peer is not None:
                accuracies = (known[label]["accuracy"] for label in ("original", peer, method))
                found.append(Pair(name, method, peer, *accuracies))
    return found


def averages(found: Sequence[Pair]) -> list[tuple[str, int, float, float]]:
    """(method, networks, points that its peer loses on average, points that it loses)."""
    result = []
    for method in CLASSES:
        mine = [pair for pair in found if pair.method == method]
        if mine:
            whole, theirs, ours = np.mean([pair[3:] for pair in mine], axis=0).tolist()
            result.append((method, len(mine), whole - theirs, whole - ours))
    return result


def main() -> int:
    """Makes every row and prints the table."""
    parser = argparse.ArgumentParser(description="accuracy of labelled networks after losing channels")
    add = parser.add_argument
    add("folder", type=Path)
    add("--data", type=Path)
    add("--only", action="append", metavar="GLOB")
    add("--images", type=int, default=2000)
    add("--sparsity", type=float, default=0.3)
    add("--seed", type=int, default=0)
    add("--json", type=Path)
    given = parser.parse_args()
    index = given.folder / "index.json"
    if not index.is_file():
        sys.exit(f"{index} is missing: give the folder of labelled networks")
    images = Images(given.data or given.folder.parent / "data")
    host = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
    host |= {name: version(name) for name in ("onnx", "onnxruntime", "onnxsim", "onnx-condense")}
    settings = {"sparsity": given.sparsity, "images": given.images, "seed": given.seed}
    rows: list[dict[str, Any]] = []
    if given.json and given.json.exists():
        rows = json.loads(given.json.read_text())["rows"]
    print(", ".join(f"{name} {value}" for name, value in (host | settings).items()) + "\n")
    print("| network | method | parameters | accuracy | points lost | seconds |\n|" + "---|" * 6)
    for entry in json.loads(index.read_text()):
        name, top = entry["file"], entry.get("top1")
        if not top or (given.only and not any(fnmatch(name, pattern) for pattern in given.only)):
            continue
        if top["dataset"] not in ("mnist", "cifar") or top["norm"] not in NORMALIZATIONS or top["layout"] not in ORDERS:
            print(f"| {name} | layout or normalization is not stated, or not known here | | | | |", flush=True)
            continue
        model = onnx.load(given.folder / name)
        task = Task(model, top, images, given.images, given.seed)
        known = {row["method"]: row for row in rows if row["network"] == name}
        for row in rows_of(name, model, task, known, given.sparsity):
            if row not in rows:
                rows.append(row)
            print(line(row, known["original"]), flush=True)
            if given.json:
                text = json.dumps({"host": host, "settings": settings, "rows": rows}, indent=1) + "\n"
                given.json.write_text(text)
    print()
    for method, count, theirs, ours in averages(pairs(rows)):
        print(f"{count} networks: {CLASSES[method]} loses {theirs:.2f} points, {method} {ours:.2f}")
    worse = [pair for pair in pairs(rows) if pair.method in JUDGED and pair.ours < pair.theirs]
    for pair in worse:
        print(f"worse than {pair.peer}: {pair.network}, {pair.method}: {pair.ours:.2f} < {pair.theirs:.2f}")
    return int(bool(worse))


if __name__ == "__main__":
    raise SystemExit(main())
