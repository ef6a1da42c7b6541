"""What models take in onnxruntime: seconds in the kernels of small ones, and of whole runs, measured in turn."""

from __future__ import annotations

import json
import logging
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnx_condense.arrays import Floats
from onnx_condense.errors import InputError
from onnx_condense.model.inputs import Feed
from onnx_condense.model.runtime import Session, deployed, run
from onnx_condense.timing.benchmark import Pace, clock_of, compare_latency
from onnx_condense.timing.profile import KERNEL

_log = logging.getLogger(__name__)

ROUNDS = 4
"""Times that each model has its turn: a burst of other work hits few of them."""

MOST_RUNS = 10
LEAST_RUNS = 2
TURN = 0.005
"""Runs in a turn, as many as this takes (seconds)."""

WARM = 2
"""Runs before anything counts."""

TOGETHER = 32
BYTES = 2**28
"""Sessions that are open at once, and bytes of their models."""

INTO, BACK = "ReorderInput", "ReorderOutput"
"""Kernels that only bring data into the layout of convolutions, and back."""


@dataclass(frozen=True, eq=False)
class Small:
    """A model that is timed: its bytes, and what it is fed."""

    model: bytes
    feed: Feed


@dataclass(frozen=True)
class Moves:
    """Kernels that bring data into another layout: how many, and seconds."""

    count: int
    seconds: float


@dataclass(frozen=True)
class Taken:
    """Seconds per run in the kernels of a model; those beside them that bring data into a layout, and back.

    Within a network neighbours share a layout: then none of these run.
    """

    seconds: float
    into: Moves
    back: Moves


NOTHING = Taken(0.0, Moves(0, 0.0), Moves(0, 0.0))


def run_seconds(models: Sequence[Small], threads: int, limit: float) -> list[float]:
    """Seconds per run of each model, all of which take the first one's inputs, by a race of at most `limit` seconds.

    Raises InputError as above.
    """
    raced = compare_latency(
        [model.model for model in models], [models[0].feed], threads, Pace(limit, clock=clock_of(threads))
    )
    first = float(np.min(raced.medians[0]))
    return [first * raced.ratio(number).value for number in range(len(models))]


def may_be_open(models: Sequence[Small]) -> bool:
    """Whether so many models may be timed together."""
    return len(models) <= TOGETHER and sum(len(model.model) for model in models) <= BYTES


def kernel_seconds(models: Sequence[Small], threads: int) -> list[Taken]:
    """Seconds per run in the kernels of each model, measured in turn; nothing of one that does not run by itself."""
    with tempfile.TemporaryDirectory() as folder:
        found = [_entered(model, threads, f"{folder}/{number}") for number, model in enumerate(models)]
        entered = [one for one in found if one is not None]
        order = random.Random(0)
        for _ in range(ROUNDS):
            for one in order.sample(entered, len(entered)):
                one.turn()
        return [NOTHING if one is None else one.taken() for one in found]


def _entered(model: Small, threads: int, profile_to: str) -> _Entered | None:
    try:
        return _Entered(model, threads, profile_to)
    except InputError as error:
        _log.debug("a part of the model is not timed: %s", error)
        return None


class _Entered:
    """A session that has its turns."""

    def __init__(self, model: Small, threads: int, profile_to: str) -> None:
        self.clock = clock_of(threads)
        self.active: Session = deployed(model.model, threads=threads, profile_to=profile_to)
        self.feed = model.feed
        for _ in range(WARM):
            start = self.clock()
            run(self.active, None, self.feed)
        took = max(self.clock() - start, 1e-9)
        self.runs = int(np.clip(TURN / took, LEAST_RUNS, MOST_RUNS))
        self.awake: list[float] = []

    def turn(self) -> None:
        for _ in range(self.runs):
            start, began = time.perf_counter(), self.clock()
            self.active.run(None, self.feed)
            passed = time.perf_counter() - start
            self.awake.append(min(1.0, (self.clock() - began) / passed) if passed > 0 else 1.0)

    def taken(self) -> Taken:
        """By the run in the middle."""
        events = json.loads(Path(self.active.end_profiling()).read_text())
        counts, seconds = _kernels(events, WARM + len(self.awake))
        main, into, back = (typical(some[WARM:], np.array(self.awake)) for some in seconds)
        return Taken(main, Moves(counts[1], into), Moves(counts[2], back))


def typical(seconds: Floats, awake: Floats) -> float:
    """The median of what runs took [runs] while they were awake, as a share of their time.

    Not the fastest ones: where a run was put to sleep outside its kernels, these look faster than they are.
    """
    return float(np.median(seconds * awake))


def _kernels(events: Sequence[Mapping[str, object]], runs: int) -> tuple[list[int], Floats]:
    """How many kernels there are, and seconds [3, runs] in them, from the events of a profile of so many runs.

    First all but those that bring data into a layout, then those, then those that bring it back.
    """
    found: tuple[dict[str, list[float]], ...] = ({}, {}, {})
    for event in events:
        name, arguments = str(event.get("name")), event.get("args")
        if event.get("cat") != "Node" or not name.endswith(KERNEL) or not isinstance(arguments, Mapping):
            continue
        kind = str(arguments.get("op_name"))
        mine = found[(INTO, BACK).index(kind) + 1 if kind in (INTO, BACK) else 0]
        mine.setdefault(name, []).append(float(str(event["dur"])) / 1e6)
    total = np.zeros((len(found), runs))
    for row, mine in zip(total, found, strict=True):
        for values in mine.values():
            row += np.reshape(values, (runs, -1)).sum(1) if not len(values) % runs else sum(values) / runs
    return [len(mine) for mine in found], total
