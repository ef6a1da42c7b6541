"""What races of the original with candidates said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx_condense.timing.fusions import Fusion
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
        fusions: operators of onnxruntime's optimized graphs, where some fusions were lost.
    """

    setups: tuple[SetupLatency, ...]
    widened: tuple[str, ...]
    rolled_back: tuple[str, ...]
    candidates: int
    fusions: tuple[Fusion, ...] = ()

    @property
    def stable(self) -> bool:
        """Whether every ratio is a result."""
        return all(setup.stable for setup in self.setups)


NEAR = 0.1
"""How far from the target a result may be, as a share of it."""


@dataclass(frozen=True)
class TargetReport:
    """What --budget latency aimed at, and reached.

    Attributes:
        share: of the original's latency that was asked for.
        predicted: what the cost table says of the result.
        measured: what a race says; None where the table was given, or nothing was narrowed.
        races: how many there were; the table is corrected by each.
        short: whether a correction asked for more than can be reached.
        fixed: share of the original's time in what no width changes.
        threads, batch, table, machine: how, of which model and where the table was measured.
        gain: what is saved for each second that the table says.
        fusions: operators of onnxruntime's optimized graphs, where some fusions were lost.
    """

    share: float
    predicted: float
    measured: SetupLatency | None
    races: int
    short: bool
    fixed: float
    threads: int
    batch: int
    table: str
    machine: Mapping[str, str]
    gain: float
    fusions: tuple[Fusion, ...] = ()

    @property
    def missed(self) -> bool:
        """Whether what was measured is far from the target."""
        return self.measured is not None and abs(self.measured.ratio / self.share - 1) > NEAR

    @property
    def why(self) -> str:
        """Why it is."""
        assert self.measured is not None
        if not self.measured.stable:
            return "the measurement is too unstable to correct the cost table by: quiet the machine and run it again"
        if self.short:
            return f"no widths are fast enough ({self.fixed:.0%} of the time depends on none): ask for more"
        if self.measured.ratio < self.share:
            return "the widths that pay lie far apart, the next wider ones are slower: ask for less, or raise the share"
        return f"layers cost other than one by one, and {self.races - 1} corrections of the table did not come closer"
