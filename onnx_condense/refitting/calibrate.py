"""Consumers refitted on calibration inputs: one after the other, each on what the condensed layers before it give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnx_condense.errors import unforeseen
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.twin import Twin
from onnx_condense.progress import Step
from onnx_condense.refitting.comparison import Comparison, SideBySide
from onnx_condense.refitting.consumer import TwinConsumer, lost
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.moments import Solution, Sums, least_squares
from onnx_condense.refitting.pairs import refit_pairs
from onnx_condense.refitting.producers import Descent, Slope, Summed, producer_of, refine
from onnx_condense.refitting.recurrent import TwinCell, narrowed, refit_states
from onnx_condense.refitting.refit import EXACT
from onnx_condense.refitting.samples import Calibration
from onnx_condense.refitting.staged import MEMORY
from onnx_condense.refitting.summing import measured

ROWS = 2**16
"""Most rows that are summed per consumer; positions are drawn beyond it."""

WORK = 3 * 2**31
"""Most multiplications for the sums by which a producer's step is judged; positions are drawn beyond it."""


@dataclass(frozen=True)
class Effort:
    """What a calibration may take. descent: of producers. memory: bytes of tensors that a process keeps meanwhile."""

    descent: Descent = field(default_factory=Descent)
    memory: int = MEMORY


def calibrate(
    twin: Twin, calibration: Calibration, seed: int, progress: Callable[[str], None], effort: Effort | None = None
) -> None:
    """Refits every consumer of a twin that lost channels, and the producer that it alone reads; and recurrent nodes.

    Inputs come from the condensed prefix, targets from the original model: the whole kernel and bias, drawn toward
    what the twin holds (the solution without data), as strongly as held-back samples ask for. Where the output is
    added to another tensor (a residual connection), what that tensor has lost is part of the target.
    """
    effort = effort or Effort()
    readers: list[TwinConsumer | TwinCell] = [*lost(twin), *narrowed(twin)]
    readers.sort(key=lambda reader: reader.node)
    with SideBySide(twin, seed, effort.memory) as sides:
        for number, reader in enumerate(readers, 1):
            stage = Step("calibrate", number, len(readers), reader.fixed.layer)
            progress(stage)
            try:
                if isinstance(reader, TwinCell):
                    refit_states(reader, sides, calibration, seed)
                else:
                    _calibrate_one(reader, sides, Totals(calibration, progress, stage), effort.descent)
            except Exception as error:  # it keeps the solution without data
                unforeseen(error, reader.fixed.layer)
    if any(group.index in twin.plans and twin.trace.pairs_of(group) for group in twin.trace.groups):
        progress(Step("calibrate", len(readers), len(readers), "products of data"))
        real = measured(twin.trace, calibration, seed)
        refit_pairs(twin, Estimate(twin.trace, twin.trace.facts.feed, seed, real))


def _calibrate_one(consumer: TwinConsumer, sides: SideBySide, totals: Totals, descent: Descent) -> None:
    """Sums, least squares, better rows for its producer, and least squares again, on more positions if there are."""
    calibration, producer = totals.calibration, producer_of(consumer)
    most = few = max(1, ROWS // calibration.samples)
    if producer is not None:
        few = max(1, WORK // len(consumer.kept) ** 2 // calibration.samples)
    first = totals.of(sides.comparison(consumer, producer, min(few, most)))
    if first is None:
        return
    found = _solved(consumer, first.parts)
    refined = first
    if producer is not None and np.isfinite(found.strength):
        refined = refine(Slope(consumer, producer, calibration), first, found.strength, totals, descent)
    last: Summed | None = refined
    if few < most and sum(part.count for part in first.parts) >= few * calibration.samples:
        last = totals.of(replace(refined.job, most=most))  # there are more positions
    if last is None:
        return
    found = found if last is first else _solved(consumer, last.parts)
    if not found.prior:
        centred = consumer.fixed.layout.produced is not None
        added = found.constant - consumer.original_constants() if centred else None
        consumer.refit(found.weight, added, Evidence.CALIBRATION)


def _solved(consumer: TwinConsumer, parts: Sequence[Sums]) -> Solution:
    """The weights that held-back parts of the samples choose for a consumer."""
    centred = consumer.fixed.layout.produced is not None
    through = consumer.original() if consumer.fixed.makes is None else None
    return least_squares(parts, consumer.matrix(), consumer.constants(), centred, through, EXACT)


@dataclass(frozen=True, eq=False)
class Totals:
    """Sums over all shards, with a note after each of several. stage: what the notes begin with."""

    calibration: Calibration
    progress: Callable[[str], None]
    stage: Step

    def __call__(self, job: Comparison) -> list[Sums] | None:
        """Sums over each fold of the samples; None where there are none, or none that are finite."""
        total: list[Sums] = []
        for number, parts in enumerate(self.calibration.each(job), 1):
            if parts is None:
                return None
            pairs = zip(total, parts, strict=True) if total and parts else ()
            total = [Sums.joined(pair) for pair in pairs] or total or parts
            if len(self.calibration.shards) > 1:
                self.progress(self.stage.followed(f", shard {number}/{len(self.calibration.shards)}"))
        return total if total and all(np.isfinite(part.products).all() for part in total) else None

    def of(self, job: Comparison) -> Summed | None:
        """The job with its sums."""
        parts = self(job)
        return None if parts is None else Summed(job, parts)
