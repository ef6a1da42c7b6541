"""Latency races: interleaved rounds, ratios between models, intervals that hold on a noisy machine.

A *run* is one inference. In a *round* every model runs once, or several times in a row where a run is short, in
shuffled order. Rounds make up *blocks*: where loading is cheap every block starts with fresh sessions, because where a
session's threads and buffers landed may shift its latency for good. A block gives one ratio per model (the median over
its rounds), and blocks are what is resampled: neither noise in bursts nor one bad session pass for many observations.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnx_condense.arrays import Floats

MARGIN = 0.02
"""A ratio within 1 ± MARGIN is no difference."""

NARROW = 0.02
"""A race ends early when every interval is at most this wide, relative to its lower end."""

UNSTABLE = 0.1
"""An interval that is wider than this when time is up is no result."""

UNSTABLE_VERDICT = 0.5
"""The same for a ratio outside 1 ± MARGIN as a whole: which model is faster is known then, by how much is not."""

BLOCKS = 24
"""Blocks that the time limit is divided into."""

ENOUGH = 12
"""Blocks before a race may end early."""

FEWEST = 6
"""Blocks that are measured even beyond the time limit: the range of six covers their median with 97 %."""

BURST = 0.005
"""Seconds that a model runs in a row within a round, so that its caches are its own."""

LONGEST_BURST = 50

WARM_UP = 0.02
"""Seconds that a fresh session runs before anything counts."""

SETTLED = 2
"""Runs after which a session has laid out its memory."""

SLOW = 0.5
"""Seconds of a run that needs no second one to be warm."""

RESAMPLES = 1999
LEVEL = 0.95

Runner = Callable[[int], object]
"""Runs a session once; the argument numbers the round, so that all models get the same inputs in it."""

Told = Callable[[int, int], None]
"""Told which block begins, between measurements, and how many there will be at most."""

Verdict = Literal["faster", "slower", "no measurable difference"]


@dataclass(frozen=True)
class MedianInterval:
    """A median and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """Relative to the lower end."""
        return self.high / self.low - 1

    @property
    def verdict(self) -> Verdict:
        """Of a ratio of latencies: "faster" or "slower" only when the whole interval lies outside 1 ± MARGIN."""
        if self.high < 1 - MARGIN:
            return "faster"
        if self.low > 1 + MARGIN:
            return "slower"
        return "no measurable difference"

    @property
    def stable(self) -> bool:
        """Whether a ratio of latencies is a result."""
        decided = self.verdict != "no measurable difference"
        return self.width <= (UNSTABLE_VERDICT if decided else UNSTABLE)


@dataclass(frozen=True, eq=False)
class Race:
    """What was measured of m models in b blocks.

    seconds: per model, of every run that counted. medians: [m, b] seconds. ratios: [m, b] to the first model.
    """

    seconds: tuple[Floats, ...]
    medians: Floats
    ratios: Floats

    def latency(self, model: int) -> MedianInterval:
        """Seconds per run."""
        return interval(self.medians[model])

    def ratio(self, model: int) -> MedianInterval:
        """Latency divided by the first model's."""
        return interval(self.ratios[model])

    @property
    def widest(self) -> float:
        """The widest interval: of the ratios, or of the latency where there is one model."""
        if len(self.seconds) == 1:
            return self.latency(0).width
        return max(self.ratio(model).width for model in range(1, len(self.seconds)))


def interval(values: Floats) -> MedianInterval:
    """The median of [b] independent values with its percentile bootstrap interval (scipy.stats.bootstrap)."""
    from scipy.stats import bootstrap  # slow to import, and only measurements need it

    middle = float(np.median(values))
    if len(values) < 2:
        return MedianInterval(middle, 0.0 if middle else middle, math.inf)
    found = bootstrap(
        (values,), np.median, confidence_level=LEVEL, n_resamples=RESAMPLES, method="percentile", rng=0
    ).confidence_interval
    return MedianInterval(middle, float(found.low), float(found.high))


def race(
    loaders: Sequence[Callable[[], Runner]],
    limit: float,
    *,
    narrow: float = NARROW,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    told: Told | None = None,
) -> Race:
    """Measures models against each other.

    Args:
        loaders: one per model; each call makes a fresh session.
        limit: seconds after the first loading; `FEWEST` rounds are measured in any case.
        narrow: the race ends before the limit when every interval is at most this wide.
        seed: of the order within rounds.
        clock: seconds.
        told: is told how far it is.
    """
    track = _Track(loaders, seed, clock)
    loading = track.load()
    end = clock() + limit
    reload = loading <= limit / 16  # eight blocks fit even if half of the time goes into loading
    length = max(limit / BLOCKS, loading if reload else 0.0)
    while True:
        if told is not None:
            told(len(track.blocks) + 1, _at_most(len(track.blocks), (end - clock()) / length))
        track.block(min(clock() + length, end))
        count = len(track.blocks)
        if count >= FEWEST and clock() >= end:
            return track.result()
        if count >= ENOUGH and track.result().widest <= narrow:
            return track.result()
        if reload:
            track.load()


def _at_most(done: int, left: float) -> int:
    """Blocks that a race has in the end, of so many that are done and so many that the time left is enough for."""
    return max(FEWEST, done + max(1, math.ceil(left - 0.01)))


class _Track:
    """The sessions that run, and what was measured so far."""

    def __init__(self, loaders: Sequence[Callable[[], Runner]], seed: int, clock: Callable[[], float]) -> None:
        self.loaders = loaders
        self.random = random.Random(seed)
        self.clock = clock
        self.runners: list[Runner | None] = []
        self.fastest = [math.inf] * len(loaders)
        self.rounds = 0
        self.seconds: list[list[float]] = [[] for _ in loaders]
        self.blocks: list[Floats] = []

    def load(self) -> float:
        """Fresh sessions, warmed up; returns the seconds that it took."""
        start = self.clock()
        self.runners = [None] * len(self.loaders)  # the old ones make room first
        for model in self._shuffled():
            self.runners[model] = self.loaders[model]()
            self._warm_up(model)
        return self.clock() - start

    def _warm_up(self, model: int) -> None:
        start = self.clock()
        for count in range(1, 10 * LONGEST_BURST):
            seconds = self._run(model)
            if self.clock() - start >= WARM_UP and (count >= SETTLED or seconds >= SLOW):
                break

    def _run(self, model: int) -> float:
        """Seconds of one run."""
        runner = self.runners[model]
        assert runner is not None
        start = self.clock()
        runner(self.rounds)
        seconds = self.clock() - start
        self.fastest[model] = min(self.fastest[model], seconds)
        return seconds

    def block(self, end: float) -> None:
        """Rounds until the clock reads `end`; one at least."""
        rows: list[list[float]] = []
        collecting = gc.isenabled()
        gc.disable()
        try:
            while not rows or self.clock() < end:
                rows.append(self._round())
        finally:
            if collecting:
                gc.enable()
        self.blocks.append(np.array(rows).T)

    def _round(self) -> list[float]:
        """The median latency of every model in one round."""
        medians = [0.0] * len(self.loaders)
        for model in self._shuffled():
            repeats = min(LONGEST_BURST, math.ceil(BURST / max(self.fastest[model], 1e-9)))
            if repeats > 1:  # the first of several runs finds the caches full of another model
                self._run(model)
            found = [self._run(model) for _ in range(repeats)]
            self.seconds[model] += found
            medians[model] = float(np.median(found))
        self.rounds += 1
        return medians

    def _shuffled(self) -> list[int]:
        return self.random.sample(range(len(self.loaders)), len(self.loaders))

    def result(self) -> Race:
        medians = np.array([np.median(rounds, axis=1) for rounds in self.blocks]).T
        ratios = np.array([np.median(rounds / rounds[:1], axis=1) for rounds in self.blocks]).T
        return Race(tuple(np.array(s) for s in self.seconds), medians, ratios)
