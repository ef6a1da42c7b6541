"""Sums of what consumers read: of values at hand, or of the original model's own tensors on calibration inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Array, Floats
from onnx_condense.model.parts import Probe
from onnx_condense.refitting.moments import Sums
from onnx_condense.refitting.reading import Source
from onnx_condense.refitting.rows import CHUNK, FeatureRows
from onnx_condense.refitting.samples import Calibration, Shard
from onnx_condense.tracing.trace import Trace

ENOUGH = 2**14
"""About so many rows of each consumer are summed."""

Summing = Callable[[Sequence[Source]], Sequence[Sums | None]]
"""Sums of all features of consumers; None where they are not finite."""


def sums_of(
    values: Iterable[Mapping[str, Array]], consumers: Sequence[Source], most: int, seed: int | Sequence[int]
) -> list[Sums | None]:
    """Sums of what each consumer reads, at most about so many rows of each item; None where something is not finite.

    values: tensors [samples, ...] by name, item by item.
    """
    result: list[Sums | None] = [Sums(consumer.features, 0) for consumer in consumers]
    generator = np.random.default_rng(seed)
    for known in values:
        for number, (consumer, sums) in enumerate(zip(consumers, result, strict=True)):
            name = consumer.reads.tensor
            if name not in known or not np.isfinite(known[name]).all():
                result[number] = None
            elif sums is not None:
                for rows in _chunks(consumer.rows(known[name]), most, generator):
                    sums.add(rows, rows[:, :0])
    return result


def _chunks(rows: FeatureRows, most: int, generator: np.random.Generator) -> Iterator[Floats]:
    """[n, features] of rows, a few at a time; no more than `most` are drawn."""
    total = rows.samples * rows.positions
    drawn = np.arange(total) if total <= most else np.sort(generator.choice(total, most, replace=False))
    step = max(1, CHUNK // rows.features)
    for start in range(0, len(drawn), step):
        yield rows.at(*np.divmod(drawn[start : start + step], rows.positions))


def measured(trace: Trace, calibration: Calibration, seed: int) -> Summing:
    """What sums the original model's own tensors on calibration inputs."""

    def measure(consumers: Sequence[Source]) -> list[Sums | None]:
        probe = Probe.of(trace.facts.model, [consumer.reads.tensor for consumer in consumers])
        total: list[Sums | None] = []
        for parts in calibration.each(_Reading(probe, tuple(consumers), ENOUGH / calibration.samples, seed)):
            pairs = zip(total or parts, parts, strict=True)
            total = [a and b and Sums.joined([a, b]) for a, b in pairs] if total else parts
        return total

    return measure


@dataclass(frozen=True, eq=False)
class _Reading:
    """Sums, over a shard, of what consumers read in the original model: `each` rows per sample."""

    probe: Probe
    consumers: tuple[Source, ...]
    each: float
    seed: int

    def __call__(self, shard: Shard) -> list[Sums | None]:
        feeds = shard.feeds()
        most = max(1, round(self.each * shard.kept / max(1, len(feeds))))
        return sums_of(self.probe(feeds), self.consumers, most, [self.seed, shard.first])
