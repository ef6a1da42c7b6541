"""What other processes do to the cores while something is measured."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil

SPARE = 0.1
"""The share of the cores that others may keep busy."""

Reading = tuple[float, float, float]
"""(clock, busy seconds of all cores, own seconds on any core)."""


def now() -> Reading:
    """What the clocks say."""
    times = psutil.cpu_times()._asdict()
    idle = ("idle", "iowait", "guest", "guest_nice")  # user and nice include the time of guests
    busy = sum(value for name, value in times.items() if name not in idle)
    return time.perf_counter(), busy, time.process_time()


class Load:
    """What other processes do, from the moment that it is made."""

    def __init__(self, read: Callable[[], Reading] = now) -> None:
        self._read = read
        self._start = read()

    def others(self) -> float:
        """Cores that other processes kept busy since the start."""
        passed, busy, own = (after - before for after, before in zip(self._read(), self._start, strict=True))
        return float(max(0.0, (busy - own) / passed)) if passed > 0 else 0.0


def allowed(cores: int, threads: int) -> float:
    """How many cores others may use before a measurement with so many threads suffers."""
    free = cores - (threads or cores)
    return min(max(0, free) + SPARE * cores, cores / 2)
