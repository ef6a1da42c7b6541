"""Consumers refitted on calibration inputs: one after the other, each on what the condensed layers before it give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnx_condense.errors import left_alone
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.twin import Twin
from onnx_condense.progress import Step
from onnx_condense.refitting.changed import Changed
from onnx_condense.refitting.comparison import Comparison, SideBySide, importance
from onnx_condense.refitting.consumer import TwinConsumer, others, reading_fewer
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.filters import TwinFilter, filters, refit_filter
from onnx_condense.refitting.moments import Care, Solution, Sums, least_squares
from onnx_condense.refitting.pairs import refit_pairs
from onnx_condense.refitting.producers import Descent, Slope, Summed, producer_of, refine
from onnx_condense.refitting.ranked import Pair
from onnx_condense.refitting.recurrent import TwinCell, narrowed, refit_states
from onnx_condense.refitting.refit import EXACT
from onnx_condense.refitting.rows import rows_for
from onnx_condense.refitting.samples import Calibration
from onnx_condense.refitting.staged import MEMORY
from onnx_condense.refitting.summing import measured

ROWS = 2**16
"""Most rows that are summed per consumer, of however many features; positions are drawn beyond it."""

WORK = 3 * 2**31
"""Most multiplications for the sums by which a producer's step is judged; positions are drawn beyond it."""

EARLY = 2 / 3
"""Share of the readers, the first ones, that keep refits by moments of the same inputs: outputs lose no more."""

LATE = 16
"""But at least so many, the last ones, are refitted in turn: they make up for most of what all before them lost."""

CLOSELY = Care(EXACT)
"""How a consumer's least squares is looked at where nothing else is said."""

Reader = TwinConsumer | TwinCell | TwinFilter
"""What is refitted."""


@dataclass(frozen=True)
class Effort:
    """What a calibration may take.

    descent: of producers. memory: bytes of tensors that a process keeps meanwhile. care: of least squares.
    fitted: a twin that kept the same, refitted by moments of these inputs: what the first readers keep.
    """

    descent: Descent = field(default_factory=Descent)
    memory: int = MEMORY
    care: Care = CLOSELY
    fitted: Twin | None = None


def calibrate(
    twin: Twin, calibration: Calibration, seed: int, progress: Callable[[str], None], effort: Effort | None = None
) -> None:
    """Refits every consumer of a twin that lost channels, and the producer that it alone reads; and recurrent nodes.

    Behind them, linear maps that lost nothing themselves, pairs of factors, and numbers that channels have alone.

    Inputs come from the condensed prefix, targets from the original model: the whole kernel and bias, drawn toward
    what the twin holds (the solution without data), as strongly as held-back samples ask for. Where the output is
    added to another tensor (a residual connection), what that tensor has lost is part of the target. Of a deep network
    the first readers keep what another twin found for them, where the effort names one.
    """
    effort = effort or Effort()
    readers: list[Reader] = [*reading_fewer(twin), *others(twin), *narrowed(twin), *filters(twin)]
    readers.sort(key=lambda reader: reader.node)
    early = 0 if effort.fitted is None else _early(readers)
    if effort.fitted is not None and early:
        twin.fold_as(effort.fitted, readers[early].node)
    changed = Changed(twin)
    with SideBySide(twin, seed, effort.memory) as sides:
        for number, reader in enumerate(readers[early:], early + 1):
            stage = Step("calibrate", number, len(readers), reader.fixed.layer)
            progress(stage)
            with left_alone(reader.fixed.layer):
                if isinstance(reader, TwinCell):
                    refit_states(reader, sides, calibration, seed)
                elif not ((isinstance(reader, TwinConsumer) and reader.is_own) or changed.reads(reader.node)):
                    continue
                elif isinstance(reader, TwinFilter):
                    changed.found(reader.node, refit_filter(reader, sides, calibration, seed, EXACT))
                else:
                    totals = Totals(calibration, progress, stage)
                    changed.found(reader.node, _calibrate_one(reader, sides, totals, effort))
    if any(group.index in twin.plans and twin.trace.pairs_of(group) for group in twin.trace.groups):
        progress(Step("calibrate", len(readers), len(readers), "products of data"))
        real = measured(twin.trace, calibration, seed)
        refit_pairs(twin, Estimate(twin.trace, twin.trace.facts.feed, seed, real))


def _early(readers: Sequence[Reader]) -> int:
    """How many of the readers keep what they have: those of one node together; none behind a recurrent one."""
    cell = next((number for number, one in enumerate(readers) if isinstance(one, TwinCell)), len(readers))
    early = max(0, min(int(EARLY * len(readers)), len(readers) - LATE, cell))
    while early and readers[early - 1].node == readers[early].node:
        early -= 1
    return early


def _calibrate_one(consumer: TwinConsumer, sides: SideBySide, totals: Totals, effort: Effort) -> bool:
    """Sums, least squares, better rows for its producer, and least squares again, on more positions if there are.

    Whether it loses nothing as it is.
    """
    calibration, producer = totals.calibration, producer_of(consumer) if consumer.is_own else None
    most = few = max(1, rows_for(len(consumer.kept), ROWS) // calibration.samples)
    if producer is not None:
        few = max(1, WORK // len(consumer.kept) ** 2 // calibration.samples)
    first = totals.of(sides.comparison(consumer, producer, min(few, most)))
    if first is None:
        return False
    found = _solved(consumer, first.parts, effort.care)
    refined = first
    if producer is not None and np.isfinite(found.strength):
        refined = refine(Slope(consumer, producer, calibration), first, found.strength, totals, effort.descent)
    last: Summed | None = refined
    if few < most and sum(part.count for part in first.parts) >= few * calibration.samples:
        last = totals.of(replace(refined.job, most=most))  # there are more positions
    if last is None:
        return False
    found = found if last is first else _solved(consumer, last.parts, effort.care)
    if not found.prior:
        _give(consumer, found)
    return found.exact


def _give(consumer: TwinConsumer, found: Solution) -> None:
    """Gives a consumer the weights that were found for its alive rows, and a pair of factors its basis."""
    matrix, constant = consumer.matrix(), consumer.constants()
    if consumer.fixed.makes is None:
        matrix, constant = found.weight, found.constant
    else:
        matrix[consumer.alive], constant[consumer.alive] = found.weight, found.constant
    if consumer.factor is not None:
        matrix[~consumer.alive] = 0
        consumer.turn(matrix, Evidence.CALIBRATION)
    centred = consumer.fixed.layout.produced is not None
    added = constant - consumer.original_constants() if centred else None
    consumer.refit(matrix, added, Evidence.CALIBRATION)


def _solved(consumer: TwinConsumer, parts: Sequence[Sums], care: Care) -> Solution:
    """The weights that held-back parts of the samples choose for a consumer."""
    centred = consumer.fixed.layout.produced is not None
    if consumer.fixed.makes is None:
        current, constant, original = consumer.matrix(), consumer.constants(), consumer.original()
        return least_squares(parts, current, constant, centred, original, care)
    alive, factor = consumer.alive, consumer.factor
    current, constant = consumer.matrix()[alive], consumer.constants()[alive]
    if factor is None:
        return least_squares(parts, current, constant, centred, care=care)
    pair = Pair(current, consumer.unfactored()[alive], factor.rank, importance(consumer)[alive])
    return pair.solved(parts, constant, centred, care)


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
        return total if total and all(part.is_finite for part in total) else None

    def of(self, job: Comparison) -> Summed | None:
        """The job with its sums."""
        parts = self(job)
        return None if parts is None else Summed(job, parts)
