"""Stages of an experiment: each runs once, leaves a JSON and its models in a folder, and is not run again."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from onnx_condense import benchmark
from onnx_condense.documents import write_atomically
from onnx_condense.errors import UsageError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

THREADS, BATCHES = (1, 2), (1, 64)
"""Of races."""

PACKAGES = ("numpy", "torch", "onnx", "onnxruntime", "cantera", "onnxsim", "torch-pruning")

Facts = dict[str, Any]


def host() -> Facts:
    """The machine, and the versions of what ran on it."""
    found: Facts = {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.machine()


def raced(original: Path, others: Mapping[str, Path], seconds: float) -> list[Facts]:
    """Latencies of models relative to the original's, as `onnx-condense bench` measures them: batches 1 and 64."""
    rows = []
    for threads in THREADS:
        found = benchmark(original, *others.values(), threads=threads, batches=BATCHES, seconds=seconds)
        for at in found.batches:
            for name, one in zip(others, at.models[1:], strict=True):
                rows.append({"network": name, "threads": threads, "batch": at.batch, "busy": round(at.busy, 2)})
                rows[-1] |= {key: round(getattr(one, key), 3) for key in ("ratio", "ratio_low", "ratio_high")}
                rows[-1] |= {"stable": one.stable, "milliseconds": round(1e3 * one.median, 3)}
    return rows


def arguments(description: str | None, threads: int, seconds: float) -> argparse.ArgumentParser:
    """What every experiment is asked; threads, seconds: where nothing is said."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = parser.add_argument
    add("--work", type=Path, required=True, metavar="DIR")
    add("--threads", type=int, default=threads)
    add("--seconds", type=float, default=seconds, help="that a race lasts at most")
    add("--toy", action="store_true", help="in seconds, to see that it works")
    add("--json", type=Path, metavar="OUT.json")
    add("stages", nargs="*", metavar="STAGE")
    return parser


class Work:
    """A folder with what the stages of one run left.

    Every stage has NAME.json: what it found, its seconds of wall and processor, and the settings that it ran with.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, json.loads(json.dumps(settings))
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """A file of the folder."""
        return self.folder / name

    def model(self, name: str) -> Path:
        """The model that a stage left."""
        return self.path(f"{name}.onnx")

    def found(self, name: str) -> Facts | None:
        """What a stage left; None where it has not run. Raises UsageError where its settings were others."""
        path = self.path(f"{name}.json")
        if not path.exists():
            return None
        facts: Facts = json.loads(path.read_text())
        if facts["settings"] != self.settings:
            raise UsageError(f"{path} was made with other settings: take another --work, or remove the folder")
        return facts

    def stage(self, name: str, run: Callable[[], Facts]) -> Facts:
        """What a stage left, after running it where it has not run."""
        known = self.found(name)
        if known is not None:
            return known
        wall, cpu = time.time(), time.process_time()
        facts = run()
        spent = {"wall": round(time.time() - wall, 1), "cpu": round(time.process_time() - cpu, 1)}
        facts = facts | {"seconds": spent, "settings": self.settings, "host": host()}
        write_atomically(self.path(f"{name}.json"), (json.dumps(facts, indent=1) + "\n").encode())
        print(f"{name}: {spent['cpu']:.0f} CPU s, {spent['wall']:.0f} s", flush=True)
        return facts

    def run(self, stages: Mapping[str, Callable[[], Facts]], asked: Sequence[str], target: Path | None) -> None:
        """Runs the stages that are asked for, all where none are; what is known stands in `target` after each.

        Raises UsageError for a stage that there is not.
        """
        unknown = [name for name in asked if name not in stages]
        if unknown:
            raise UsageError(f"no stage {unknown[0]}: there are {', '.join(stages)}")
        for name in asked or stages:
            self.stage(name, stages[name])
            if target is not None:
                write_atomically(target, (json.dumps(self.collected(stages), indent=1) + "\n").encode())

    def asked(self, parser: argparse.ArgumentParser, stages: Mapping[str, Callable[[], Facts]], name: str) -> None:
        """Runs what the command line asks for; name: of the file that gets what is known, of a run that is no toy."""
        given = parser.parse_args()
        target = given.json or (None if given.toy else HERE / f"{name}.json")
        try:
            self.run(stages, given.stages, target)
        except UsageError as error:
            parser.error(str(error))

    def collected(self, names: Iterable[str]) -> Facts:
        """One document of what the stages left: settings and machine once, then each stage that has run."""
        stages = {name: found for name in names if (found := self.found(name)) is not None}
        hosts = [facts.pop("host") for facts in stages.values()]
        for facts in stages.values():
            del facts["settings"]
        return {"settings": self.settings, "host": hosts[-1] if hosts else host(), "stages": stages}
