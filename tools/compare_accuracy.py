"""Accuracy at equal parameters kept, without any fine-tuning: ours, baselines of the literature, and real peers.

    pip install '.[plot]' --group peers && python tools/compare_accuracy.py MODEL --data DATA [--mean M,M,M]
        [--std S,S,S] [--kept 0.9,0.8,0.7,0.6,0.5,0.4] [--only METHOD,...] [--module FILE:CLASS]
        [--samples N] [--json OUT] [--fill]

MODEL is a classifier of images. DATA is an .npz with train_x, train_y, test_x, test_y, or a folder with one, or with a
load.py whose load() returns them: images [n, height, width(, channels)] of 0 to 255, labels [n]. The model is fed
(x / 255 - mean) / std. Calibration takes training images without their labels, one seed, the same for all.

Data-free: `delete` (L1), `merging` (Kim et al. 2020), `folding` (Wang et al. 2025, with its data-free repair), all in
_baselines.py; `onnxsim` (structured L2), `torch-pruning` (magnitude), `svd` (every matrix, one share); ours with
`ratio` and `moments`. Calibrated: `wanda` (onnxsim, 64 images), ours with `calibrated-64`, `-256`, `-1024`; these see
so many images, no more.

Every method gets every setting that it offers, and its row is the setting with the best accuracy on 500 training images
that no method saw: the three of _baselines.py one share of the channels for all layers as in their papers, the same but
for residual streams, and our own widths (of `moments`); onnxsim and Torch-Pruning one share, one ranking over all
layers, and (Torch-Pruning) the layers inside blocks alone; `ratio` the paper's one threshold, and our budget.
Everything is at most as large as asked for; parameters are those of the written file over those of MODEL. Seconds are
those of the chosen setting, the search for its size included, without evaluation.

Rows are written as they are made: the same command goes on where it was interrupted. --only makes the rows of these
methods again (the three baselines need the row of `moments`, which is made where it is missing); run one command per
file at a time. Draws OUT.svg; --fill draws tools/compare_accuracy.svg and fills the table of docs/results.md
from all tools/compare_accuracy_*.json (and needs no MODEL).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from _accuracy import METHODS, WANDA, Row, draw, line, stored, table
from _baselines import delete, fold, merge_neurons
from _images import Images, load, outputs, prepared
from _marks import ROOT, fill
from _network import Method, Network, narrowed
from _peers import by_onnxsim, by_torch_pruning, tightest
from _svd import truncated

from onnx_condense import CondenseError, Options, condense
from onnx_condense.documents import write_atomically
from onnx_condense.merging.twin import Twin
from onnx_condense.operators.queries import count_parameters
from onnx_condense.planning.thresholds import Planner
from onnx_condense.prepare import open_model
from onnx_condense.rewriting.sizes import count_macs

KEPT = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
CALIBRATION = 1024
"""Training images that the methods may see at most."""

SELECTION = 500
"""Other training images, which choose a method's setting."""

VERIFIED = 16
"""Calibration images that ours verifies on, so that it sees no others."""

BASELINES: dict[str, Method] = {"delete": delete, "merging": merge_neurons, "folding": fold}

Made = tuple[str, onnx.ModelProto, dict[str, Any]]
"""(name of the setting, the model, what else its row says)."""


# ---------------------------------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class Comparison:
    """One model with its images, and what the methods make of it.

    rows: what is there already: (method, share) -> row.
    """

    model: onnx.ModelProto
    test: Images
    selection: Images
    calibration: np.ndarray[Any, Any]
    module: str | None
    rows: dict[tuple[str, float], Row]

    @cached_property
    def network(self) -> Network:
        return Network.of(self.model)

    @cached_property
    def expected(self) -> np.ndarray[Any, Any]:
        return outputs(self.model, self.test.x)

    @cached_property
    def _input(self) -> str:
        return str(self.model.graph.input[0].name)

    def row(self, method: str, share: float) -> Row:
        """Makes and measures; says why where the method cannot."""
        if method in BASELINES and ("moments", share) not in self.rows:
            self.rows["moments", share] = self.row("moments", share)
        try:
            made = list(self._timed(self._made(method, share)))
        except ImportError as error:
            return {"method": method, "kept": share, "skipped": f"{error}: pip install . --group peers"}
        except CondenseError as error:
            return {"method": method, "kept": share, "skipped": str(error)}
        if not made:
            return {"method": method, "kept": share, "skipped": "does not get so small"}
        scores = [self._accuracy(model, self.selection) if len(made) > 1 else 0.0 for (_, model, _), _ in made]
        (setting, model, facts), seconds = made[int(np.argmax(scores))]
        return (
            {"method": method, "kept": share, "setting": setting} | self.measured(model) | {"seconds": seconds} | facts
        )

    def measured(self, model: onnx.ModelProto) -> Row:
        """What the columns say of a model."""
        found = outputs(model, self.test.x)
        error = np.linalg.norm(found - self.expected) / np.linalg.norm(self.expected)
        return {
            "parameters": count_parameters(model.graph)[0] / self.network.parameters,
            "macs": _macs(model) / _macs(self.model),
            "accuracy": float(np.mean(found.argmax(1) == self.test.y)),
            "agreement": float(np.mean(found.argmax(1) == self.expected.argmax(1))),
            "error": float(error),
        }

    def _accuracy(self, model: onnx.ModelProto, images: Images) -> float:
        return float(np.mean(outputs(model, images.x).argmax(1) == images.y))

    def _timed(self, made: Iterator[Made]) -> Iterator[tuple[Made, float]]:
        """Each with the seconds that it took, the search for its size included."""
        start = time.perf_counter()
        for entry in made:
            yield entry, round(time.perf_counter() - start, 2)
            start = time.perf_counter()

    def _made(self, method: str, share: float) -> Iterator[Made]:
        target = share * self.network.parameters
        if method in BASELINES:
            yield from self._baseline(BASELINES[method], share, target)
        elif method == "onnxsim":
            yield from ((*made, {}) for made in by_onnxsim(self.model, target, None))
        elif method == "wanda":
            batches = [{self._input: part} for part in np.split(self.calibration[:WANDA], 8)]
            yield from ((*made, {}) for made in by_onnxsim(self.model, target, batches))
        elif method == "torch-pruning":
            inner = [name for group in self.network.inner for name in group.layers]
            yield from ((*made, {}) for made in by_torch_pruning(self.model, target, self.module, inner))
        elif method == "svd":
            made = tightest(lambda gone: truncated(self.model, 1 - gone), _parameters, target)
            if made is not None:
                yield "one share", made, {}
        elif method == "ratio":
            yield self._ours(Options(budget=("params", share), merge="ratio", align=1), "our budget")
            threshold = self._threshold(target)
            if threshold is not None:
                yield self._ours(Options(threshold=threshold, merge="ratio", align=1), "one threshold")
        elif method == "moments":
            yield self._ours(Options(budget=("params", share), merge="moments", align=1), "our budget")
        else:
            images = {self._input: self.calibration[: int(method.rpartition("-")[2])]}
            few = {self._input: self.calibration[:VERIFIED]}
            options = Options(budget=("params", share), merge="calibrated", align=1, calibration=images, data=few)
            yield self._ours(options, "our budget")

    def _ours(self, options: Options, setting: str) -> Made:
        done = condense(self.model, options)
        widths = {str(group.index): len(group.keep) for group in done.plan.groups}
        return setting, done.model, {"widths": widths}

    def _baseline(self, method: Method, share: float, target: float) -> Iterator[Made]:
        network = self.network
        yield "one share", narrowed(network, method, network.uniform(network.groups, target)).model, {}
        if len(network.inner) < len(network.groups):
            widths = network.uniform(network.inner, target)
            if network.size(widths) <= target:
                yield "inner layers", narrowed(network, method, widths).model, {}
        known = self.rows["moments", share].get("widths")
        if known is not None:
            widths = {int(index): width for index, width in known.items()}
            yield "our widths", narrowed(network, method, widths).model, {}

    def _threshold(self, target: float) -> float | None:
        """The highest threshold at which the paper's condensation leaves at most so many parameters."""
        opened = self.network.opened
        planner = Planner(opened.trace, Options(threshold=0.01, merge="ratio", align=1), 1, opened.trace.groups)

        def size(share: float) -> int:
            twin = planner.build(share).twin
            return int(self.network.size({g.index: len(twin.kept(g)) for g in self.network.groups}))

        share = tightest(lambda removed: removed, size, target)
        return None if share is None else 1 - (1 - 0.01) * share


def _parameters(model: onnx.ModelProto) -> int:
    return count_parameters(model.graph)[0]


def _macs(model: onnx.ModelProto) -> int:
    opened = open_model(model, Options())
    return count_macs(Twin(opened.trace)) // opened.batch


# ---------------------------------------------------------------------------------------------------- results


def save(path: Path, content: Row) -> None:
    """The whole file or nothing; rows in the order of METHODS."""
    order = list(METHODS)
    rows = sorted(content["rows"], key=lambda row: (order.index(row["method"]), -row["kept"]))
    write_atomically(path, (json.dumps(content | {"rows": rows}, indent=1) + "\n").encode())


# ---------------------------------------------------------------------------------------------------- command


def compare(given: argparse.Namespace, target: Path, fail: Callable[[str], None]) -> Row:
    """Makes the rows that are missing or asked for again, and returns everything."""
    model = onnx.load(given.model)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    arrays = load(given.data, CALIBRATION)
    train = np.random.default_rng(given.seed).permutation(len(arrays["train_x"]))
    ready = partial(prepared, mean=given.mean, std=given.std, shape=shape)
    chosen = train[CALIBRATION:][-SELECTION:]
    head = {
        "model": given.model.stem,
        "sha256": hashlib.sha256(given.model.read_bytes()).hexdigest(),
        "images": min(given.samples, len(arrays["test_x"])),
        "mean": given.mean,
        "std": given.std,
        "seed": given.seed,
    }
    known: Row = json.loads(target.read_text()) if target.exists() else {}
    if known and any(known.get(key) != value for key, value in head.items()):
        fail(f"{target} is of another model or of other images: name another file with --json, or remove it")
    comparison = Comparison(
        model,
        Images(ready(arrays["test_x"][: given.samples]), arrays["test_y"][: given.samples]),
        Images(ready(arrays["train_x"][chosen]), arrays["train_y"][chosen]),
        ready(arrays["train_x"][train[:CALIBRATION]]),
        given.module,
        {(row["method"], row["kept"]): row for row in known.get("rows", ()) if row["method"] in METHODS},
    )
    host = f"{platform.machine()}, {os.cpu_count()} cores, onnxruntime {onnxruntime.__version__}"
    head |= {"host": host, "accuracy": float(np.mean(comparison.expected.argmax(1) == comparison.test.y))}
    for method in given.only or METHODS:
        for share in given.kept:
            old = comparison.rows.get((method, share))
            if old is None or given.only:
                comparison.rows[method, share] = comparison.row(method, share)
                save(target, head | {"rows": list(comparison.rows.values())})
            print(line(comparison.rows[method, share]), flush=True)
    return head | {"rows": list(comparison.rows.values())}


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="accuracy at equal parameters kept")
    add = parser.add_argument

    def numbers(text: str) -> list[float]:
        return [float(part) for part in text.split(",")]

    add("model", type=Path, nargs="?")
    add("--data", type=Path)
    add("--mean", type=numbers, default=[0.0])
    add("--std", type=numbers, default=[1.0])
    add("--kept", type=numbers, default=list(KEPT))
    add("--only", type=lambda text: text.split(","), metavar="METHOD,...", help=", ".join(METHODS))
    add("--module", metavar="FILE:CLASS", help="a torch module with the model's weights, for Torch-Pruning")
    add("--samples", type=int, default=5000, help="test images at most")
    add("--seed", type=int, default=0)
    add("--json", type=Path)
    add("--fill", action="store_true")
    given = parser.parse_args()
    if (given.model is None) is (given.data is not None) or (given.model is None and not given.fill):
        parser.error("pass MODEL with --data DATA, or --fill alone")
    if unknown := set(given.only or ()) - set(METHODS):
        parser.error(f"--only {', '.join(sorted(unknown))}: the methods are {', '.join(METHODS)}")
    if given.model is not None:
        target = given.json or ROOT / "tools" / f"compare_accuracy_{given.model.stem}.json"
        try:
            draw([compare(given, target, parser.error)], target.with_suffix(".svg"))
        except (OSError, CondenseError) as error:
            parser.error(str(error))
    if given.fill:
        draw(stored(), ROOT / "tools" / "compare_accuracy.svg")
        fill("accuracy", table(stored()))


if __name__ == "__main__":
    main()
