"""Names of stages, for whoever shows how far a run is."""

from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str], None]
"""Called with the name of each stage as it begins; a `Step` says how far that is, too."""


class Step(str):
    """The name of a stage, with how many of its parts are done, of how many at most.

    kind: what it is called without its numbers, the same for all parts.
    """

    kind: str
    done: int
    total: int

    def __new__(cls, kind: str, number: int, total: int, what: str) -> Step:
        """The number-th part begins, of so many. what: is done in it."""
        made = super().__new__(cls, f"{kind} {number}/{total}: {what}")
        made.kind, made.done, made.total = kind, number - 1, total
        return made

    def followed(self, more: str) -> Step:
        """The same part, with more words."""
        made = str.__new__(Step, f"{self}{more}")
        made.kind, made.done, made.total = self.kind, self.done, self.total
        return made


class Watch:
    """The stage that a run is at, the time since its start, and about what is left of the stage.

    done, total: parts of the stage, None where it has none.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = self._begun = clock()
        self._kind = ""
        self.done: int = 0
        self.total: int | None = None

    def begin(self, stage: str) -> bool:
        """A stage or a part of one begins; whether it is another stage."""
        kind = stage.kind if isinstance(stage, Step) else stage
        fresh = kind != self._kind
        if fresh:
            self._kind, self._begun = kind, self._clock()
        self.done, self.total = (stage.done, stage.total) if isinstance(stage, Step) else (0, None)
        return fresh

    @property
    def times(self) -> str:
        """As in "0:12, about 0:34 left"."""
        now = self._clock()
        text = _minutes(now - self._start)
        if self.total and self.done:
            text += f", about {_minutes((now - self._begun) / self.done * (self.total - self.done))} left"
        return text


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
