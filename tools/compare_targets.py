"""Budgets of latency: what was asked for, what a race says, and accuracy beside budgets of parameters and MACs.

    python tools/compare_targets.py FOLDER [--only GLOB;...] [--threads 1] [--batch 1] [--repeats 3] [--seconds 4]
        [--data DATA] [--calibration IMAGES.npz] [--rivals] [--json OUT]

FOLDER holds the trained networks; an MLP, a VGG-like network and a transformer block, of random weights, are made here.
Each is condensed on this host with `--budget latency=F`, and races the original anew, --repeats times. With one thread
the clock of the thread is read, so that what others do counts little; how busy the machine was is written down. With
--calibration, trained networks are condensed with these inputs. With --data, accuracy on its test images is taken; with
--rivals too, of models by `params=F` and `macs=F` at several shares. All models of a network run in the same races, in
turn; what the rivals give at the latency of the first model (`equal`) lies between those next to it. Rows of OUT of
other networks and conditions stay.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parent))  # runpy does not

from _images import Images, cifar, outputs
from _networks import mlp, vit
from never_slower import vgg

from onnx_condense import Options, condense
from onnx_condense.timing.benchmark import Pace, clock_of, compare_latency, latency_feeds
from onnx_condense.timing.kept import machine
from onnx_condense.timing.race import interval


@dataclass(frozen=True)
class Network:
    """A network and the share of its latency that is asked for.

    trained: the name of its file. rivals: shares of units that take about as long.
    """

    target: float
    trained: str = ""
    rivals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    make: Callable[[], onnx.ModelProto] | None = None

    def model(self, folder: Path) -> onnx.ModelProto:
        """The network."""
        return self.make() if self.make is not None else onnx.load(folder / self.trained)


NETWORKS: Mapping[str, Network] = {
    "MLP 23-3200-1600-800-400-23": Network(0.6, make=mlp),
    "VGG-like": Network(0.6, make=vgg),
    "transformer block": Network(0.6, make=lambda: vit(width=384, blocks=1, heads=6)),
    "MobileNetV2": Network(0.6, "mobilenetv2_cifar10.onnx", {"macs": (0.6, 0.5, 0.4), "params": (0.4, 0.2)}),
    "ResNet-56": Network(0.75, "resnet56_cifar10.onnx", {"macs": (0.8, 0.7, 0.6), "params": (0.7, 0.5, 0.4)}),
}


@dataclass(frozen=True)
class Bench:
    """How models are measured. test: images that tell accuracy, where there are any."""

    threads: int
    batch: int
    repeats: int
    seconds: float
    test: Images | None

    def row(self, model: onnx.ModelProto, options: Options) -> tuple[dict[str, Any], onnx.ModelProto]:
        """A condensed model: its size, its error, its accuracy."""
        start = time.process_time()
        result = condense(model, options)
        report, target = result.report, result.report.target
        assert report.output is not None
        assert report.verification is not None
        assert options.budget is not None
        found = {
            "budget": f"{options.budget[0]}={options.budget[1]:g}",
            "parameters": report.output.parameters / report.input.parameters,
            "macs": report.output.macs / report.input.macs,
            "error": report.verification.approximation_error,
            "cpu": round(time.process_time() - start, 1),
        }
        if target is not None:
            found |= {"predicted": target.predicted, "gain": target.gain, "races": target.races}
        return found | self.accuracy(result.model), result.model

    def latencies(self, model: onnx.ModelProto, small: Sequence[onnx.ModelProto]) -> list[dict[str, Any]]:
        """The ratios of small models to the original, of several races of all."""
        feeds = latency_feeds(model, self.batch, None, {}, 0)
        races = []
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{number}.onnx" for number in range(len(small) + 1)]
            for one, path in zip((model, *small), paths, strict=True):
                onnx.save(one, path)
            for seed in range(self.repeats):
                pace = Pace(self.seconds * len(paths) / 2, seed, clock_of(self.threads))
                races.append(compare_latency(paths, feeds, self.threads, pace).ratios)
        found = []
        for number in range(1, len(paths)):
            whole = interval(np.concatenate([ratios[number] for ratios in races]))
            each = [float(np.median(ratios[number])) for ratios in races]
            row = {"ratio": whole.value, "low": whole.low, "high": whole.high, "each": each}
            found.append(row | {"load": os.getloadavg()[0]})
        return found

    def accuracy(self, model: onnx.ModelProto) -> dict[str, float]:
        """On test images."""
        if self.test is None:
            return {}
        return {"accuracy": float(np.mean(outputs(model, self.test.x).argmax(1) == self.test.y))}


def measured(name: str, network: Network, given: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """The rows of a network."""
    model = network.model(given.folder)
    at = f"{name}, batch {bench.batch}, {bench.threads or 'all'} thread(s)"
    print(at, flush=True)
    calibration = given.calibration if network.trained else None
    setups = [Options(budget=("latency", network.target), threads=bench.threads, batch=bench.batch)]
    if given.rivals:
        setups += [Options(budget=(unit, share)) for unit, shares in network.rivals.items() for share in shares]
    made = [bench.row(model, replace(options, calibration=calibration)) for options in setups]
    raced = bench.latencies(model, [small for _, small in made])
    rows = [row | latency for (row, _), latency in zip(made, raced, strict=True)]
    if "accuracy" in rows[0]:
        rows[0]["equal"] = {unit: at_equal(rows, unit) for unit in network.rivals if given.rivals}
    for row in rows:
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    found = {"model": name, "target": network.target, "threads": bench.threads, "batch": bench.batch}
    return found | {"calibration": calibration is not None, "rows": rows, "original": bench.accuracy(model)}


def at_equal(rows: Sequence[Mapping[str, Any]], unit: str) -> float | None:
    """The accuracy of budgets of a unit at the first row's latency, in proportion between two.

    None beyond the intervals of the fastest and the slowest.
    """
    known = sorted((row for row in rows if row["budget"].startswith(f"{unit}=")), key=lambda row: row["ratio"])
    wanted = rows[0]["ratio"]
    if not known[0]["low"] <= wanted <= known[-1]["high"]:
        return None
    return float(np.interp(wanted, [row["ratio"] for row in known], [row["accuracy"] for row in known]))


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="budgets of latency, measured")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="*")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    known = json.loads(given.json.read_text())["networks"] if given.json and given.json.exists() else []
    for name, network in NETWORKS.items():
        if not any(fnmatch(name, glob) for glob in given.only.split(";")):
            continue
        bench = Bench(given.threads, given.batch, given.repeats, given.seconds, cifar(given.data, network.trained))
        found = measured(name, network, given, bench)
        same = ("model", "threads", "batch", "calibration")
        known = [one for one in known if any(one.get(key, False) != found[key] for key in same)] + [found]
        if given.json:
            content = {"machine": machine(), "cores_busy": "see load of each row", "networks": known}
            given.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
