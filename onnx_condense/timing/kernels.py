"""What models take in onnxruntime: seconds in the kernels of small ones, and of whole runs, measured in turn."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnx_condense.arrays import Floats
from onnx_condense.model.inputs import Feed
from onnx_condense.model.runtime import Session, deployed, run
from onnx_condense.timing.benchmark import compare_latency
from onnx_condense.timing.profile import KERNEL

ROUNDS = 4
"""Times that each model has its turn: a burst of other work hits few of them."""

MOST_RUNS = 10
LEAST_RUNS = 2
TURN = 0.002
"""Runs in a turn, as many as this takes (seconds)."""

WARM = 2
"""Runs before anything counts."""

SECONDS = 4.0
"""Time limit of a race of whole models."""

TOGETHER = 32
BYTES = 2**28
"""Sessions that are open at once, and bytes of their models."""

BETWEEN = ("ReorderInput", "ReorderOutput")
"""Kernels that only bring data into the layout of convolutions and back: within a network neighbours share it."""


@dataclass(frozen=True, eq=False)
class Small:
    """A model that is timed: its bytes, and what it is fed."""

    model: bytes
    feed: Feed


def kernel_seconds(models: Sequence[Small], threads: int) -> list[float]:
    """Seconds per run in the kernels of each model. Raises InputError where one does not run."""
    return [seconds for some in _together(models) for seconds in _measured(some, threads)]


def run_seconds(models: Sequence[Small], threads: int, limit: float = SECONDS) -> list[float]:
    """Seconds per run of each model, all of which take the first one's inputs. Raises InputError as above."""
    raced = compare_latency([model.model for model in models], [models[0].feed], threads, limit)
    first = float(np.min(raced.medians[0]))
    return [first * raced.ratio(number).value for number in range(len(models))]


def _together(models: Sequence[Small]) -> Iterator[Sequence[Small]]:
    """Models that are open at once."""
    some: list[Small] = []
    size = 0
    for model in models:
        if some and (len(some) == TOGETHER or size + len(model.model) > BYTES):
            yield some
            some, size = [], 0
        some.append(model)
        size += len(model.model)
    if some:
        yield some


def _measured(models: Sequence[Small], threads: int) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        entered = [_Entered(model, threads, f"{folder}/{number}") for number, model in enumerate(models)]
        order = random.Random(0)
        for _ in range(ROUNDS):
            for one in order.sample(entered, len(entered)):
                one.turn()
        return [one.seconds() for one in entered]


class _Entered:
    """A session that has its turns."""

    def __init__(self, model: Small, threads: int, profile_to: str) -> None:
        self.active: Session = deployed(model.model, threads=threads, profile_to=profile_to)
        self.feed = model.feed
        for _ in range(WARM):
            start = time.perf_counter()
            run(self.active, None, self.feed)
        took = max(time.perf_counter() - start, 1e-9)
        self.runs = int(np.clip(TURN / took, LEAST_RUNS, MOST_RUNS))
        self.turns = 0

    def turn(self) -> None:
        self.turns += 1
        for _ in range(self.runs):
            self.active.run(None, self.feed)

    def seconds(self) -> float:
        """Of a run that nothing disturbed: the mean of the faster half."""
        events = json.loads(Path(self.active.end_profiling()).read_text())
        taken = _kernels(events, WARM + self.turns * self.runs)[WARM:]
        return float(np.sort(taken)[: max(1, len(taken) // 2)].mean())


def _kernels(events: Sequence[Mapping[str, object]], runs: int) -> Floats:
    """[runs] seconds in kernels, from the events of a profile of so many runs."""
    found: dict[str, list[float]] = {}
    for event in events:
        name, arguments = str(event.get("name")), event.get("args")
        if event.get("cat") != "Node" or not name.endswith(KERNEL) or not isinstance(arguments, Mapping):
            continue
        if arguments.get("op_name") not in BETWEEN:
            found.setdefault(name, []).append(float(str(event["dur"])) / 1e6)
    total = np.zeros(runs)
    for values in found.values():
        total += np.reshape(values, (runs, -1)).sum(1) if not len(values) % runs else sum(values) / runs
    return total


Measure = Callable[[Sequence[Small], int], list[float]]
"""`kernel_seconds`, or what stands in for it."""
