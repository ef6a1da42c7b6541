"""What races of the original with candidates said."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_condense.timing.race import MedianInterval


@dataclass(frozen=True)
class SetupLatency:
    """The result's latency divided by the original's, with its 95 % interval; threads 0: all cores."""

    threads: int
    batch: int
    ratio: float
    low: float
    high: float

    @property
    def stable(self) -> bool:
        """Whether the interval is narrow enough to be a result."""
        return MedianInterval(self.ratio, self.low, self.high).stable


@dataclass(frozen=True)
class LatencyReport:
    """What --ensure-faster found.

    Attributes:
        setups: ratios of the result; empty where the original is returned.
        widened: first layers of the groups that keep more channels than planned.
        rolled_back: first layers of the groups that stay as they were.
        candidates: how many were measured.
    """

    setups: tuple[SetupLatency, ...]
    widened: tuple[str, ...]
    rolled_back: tuple[str, ...]
    candidates: int

    @property
    def stable(self) -> bool:
        """Whether every ratio is a result."""
        return all(setup.stable for setup in self.setups)
