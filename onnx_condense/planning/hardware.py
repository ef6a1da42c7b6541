"""The machine that a run asks: how wide its convolutions are blocked, and which of two models it runs faster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from onnx_condense.model.inputs import Feed
from onnx_condense.planning.alignment import block_width
from onnx_condense.progress import Progress, Step
from onnx_condense.timing.race import MedianInterval, Told

if TYPE_CHECKING:
    from onnx_condense.timing.kernels import Small, Taken

SECONDS = 5.0
"""Time limit of one measurement: one setup, one candidate."""


class Hardware(Protocol):
    """A machine."""

    @property
    def cores(self) -> int:
        """How many processor cores it has."""

    def block_width(self) -> int:
        """The multiple of channels that convolutions are computed in."""

    def ratio(
        self, pair: Sequence[Path], feeds: Sequence[Feed], threads: int, told: Told | None = None
    ) -> MedianInterval:
        """The latency of the second model over that of the first. Raises InputError where one does not run."""

    def kernel_seconds(self, models: Sequence[Small], threads: int) -> list[Taken]:
        """Seconds per run in the kernels of each model; nothing of one that does not run by itself."""

    def run_seconds(self, models: Sequence[Small], threads: int) -> list[float]:
        """Seconds per run of each model. Raises InputError where one does not run."""


@dataclass
class Noted:
    """A machine whose races are announced. races: how many there were."""

    machine: Hardware
    note: Progress
    races: int = 0

    @property
    def cores(self) -> int:
        """How many processor cores it has."""
        return self.machine.cores

    def block_width(self) -> int:
        """The multiple of channels that convolutions are computed in."""
        return self.machine.block_width()

    def ratio(
        self, pair: Sequence[Path], feeds: Sequence[Feed], threads: int, told: Told | None = None
    ) -> MedianInterval:
        """The latency of the second model over that of the first. Raises InputError where one does not run."""
        self.races += 1
        kind, at_most = f"measure, race {self.races}, block", f"at most {SECONDS:g} s"

        def tell(block: int, blocks: int) -> None:
            self.note(Step(kind, block, blocks, at_most))

        return self.machine.ratio(pair, feeds, threads, told or tell)

    def kernel_seconds(self, models: Sequence[Small], threads: int) -> list[Taken]:
        """Seconds per run in the kernels of each model; nothing of one that does not run by itself."""
        return self.machine.kernel_seconds(models, threads)

    def run_seconds(self, models: Sequence[Small], threads: int) -> list[float]:
        """Seconds per run of each model. Raises InputError where one does not run."""
        return self.machine.run_seconds(models, threads)


@dataclass(frozen=True)
class ThisMachine:
    """The machine that the program runs on, with onnxruntime; seconds: the limit of one measurement."""

    seconds: float = SECONDS

    @property
    def cores(self) -> int:
        """How many processor cores it has."""
        return os.cpu_count() or 1

    def block_width(self) -> int:
        """What onnxruntime says."""
        return block_width()

    def ratio(
        self, pair: Sequence[Path], feeds: Sequence[Feed], threads: int, told: Told | None = None
    ) -> MedianInterval:
        """What a race of both says."""
        from onnx_condense.timing.benchmark import Pace, clock_of, compare_latency  # few runs measure

        pace = Pace(self.seconds, clock=clock_of(threads), told=told)
        return compare_latency(pair, feeds, threads, pace).ratio(1)

    def kernel_seconds(self, models: Sequence[Small], threads: int) -> list[Taken]:
        """What profiles say."""
        from onnx_condense.timing import kernels  # the same

        return kernels.kernel_seconds(models, threads)

    def run_seconds(self, models: Sequence[Small], threads: int) -> list[float]:
        """What a race says."""
        from onnx_condense.timing import kernels  # the same

        return kernels.run_seconds(models, threads, self.seconds)


THIS_MACHINE = ThisMachine()
