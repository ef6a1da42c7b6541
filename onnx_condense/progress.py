"""Names of stages, for whoever shows how far a run is."""

from __future__ import annotations

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
