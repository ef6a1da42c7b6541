"""The formulas of the paper's automatic reduction (Chen & Xu, Entropy 26(7):567, 2024, section 3.2.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cosine:
    """A value that falls from `start` (t = 0) to `end` (t = period and after) along half a cosine wave."""

    start: float
    end: float
    period: int

    def at(self, completed: int) -> float:
        """The value once `completed` layer reductions are made: t = completed - 1, clamped to [0, period]."""
        t = min(max(completed - 1, 0), self.period)
        return self.end + (self.start - self.end) / 2 * (1 + math.cos(math.pi * t / self.period))


def sigmoid(x: float) -> float:
    """The logistic function, without overflow; its value at 2, 0.88080, is the paper's first threshold."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def logit(y: float) -> float:
    """The inverse of `sigmoid`, for 0 < y < 1."""
    return math.log(y / (1 - y))
