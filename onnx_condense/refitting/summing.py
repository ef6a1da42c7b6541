"""Sums of what consumers read: of values at hand, or of the original model's own tensors on calibration inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.random import Generator

from onnx_condense.arrays import Array, Floats
from onnx_condense.model.outputs import batch_in
from onnx_condense.model.parts import Probe, needed
from onnx_condense.model.protos import read_by
from onnx_condense.operators.answers import Role
from onnx_condense.refitting.consumer import Consumer, Key, consumer_of
from onnx_condense.refitting.moments import Sums
from onnx_condense.refitting.reading import Source
from onnx_condense.refitting.rows import CHUNK, FeatureRows
from onnx_condense.refitting.samples import Calibration, Shard, divisible, pieces
from onnx_condense.tracing.trace import Trace

ENOUGH = 2**14
"""About so many rows of each consumer are summed."""

READ = 2**25
"""Numbers that all consumers read of the samples of one run at most."""

Summing = Callable[[Sequence[Source]], Sequence[Sums | None]]
"""Sums of all features of consumers; None where they are not finite."""


def sums_of(
    values: Iterable[Mapping[str, Array]], consumers: Sequence[Source], most: int, generators: Sequence[Generator]
) -> list[Sums | None]:
    """Sums of what each consumer reads, at most about so many rows of each item; None where something is not finite.

    values: tensors [samples, ...] by name, item by item. generators: by which rows of each consumer are drawn.
    """
    result: list[Sums | None] = [Sums(consumer.features, 0) for consumer in consumers]
    for known in values:
        for number, (consumer, sums) in enumerate(zip(consumers, result, strict=True)):
            name = consumer.reads.tensor
            if name not in known or not np.isfinite(known[name]).all():
                result[number] = None
            elif sums is not None:
                found = consumer.rows(known[name])
                sums.samples += found.samples if _of_images(consumer, known[name]) else 0
                for rows in _chunks(found, most, generators[number]):
                    sums.add(rows, rows[:, :0])
    return result


def _of_images(consumer: Source, data: Array) -> bool:
    """Whether rows are places of images, which look alike in each."""
    return data.ndim > 3 and consumer.reads.axis == 1


def _chunks(rows: FeatureRows, most: int, generator: Generator) -> Iterator[Floats]:
    """[n, features] of rows, a few at a time; no more than `most` are drawn."""
    total = rows.samples * rows.positions
    drawn = np.arange(total) if total <= most else np.sort(generator.choice(total, most, replace=False))
    step = max(1, CHUNK // rows.features)
    for start in range(0, len(drawn), step):
        yield rows.at(*np.divmod(drawn[start : start + step], rows.positions))


def measured(
    trace: Trace,
    calibration: Calibration,
    seed: int,
    ahead: Sequence[Source] = (),
    share: float = 1.0,
    remembers: bool = True,
) -> Summing:
    """What sums the original model's own tensors on calibration inputs.

    ahead: what is summed the first time that it is asked, besides: all inputs are run each time. share: of `ENOUGH`
    rows of each consumer that are summed. remembers: whether what was summed is kept, in case it is asked again.
    """
    known: dict[Key, Sums | None] = {}

    def measure(consumers: Sequence[Source]) -> list[Sums | None]:
        wanted = {one.key: one for one in (*consumers, *(() if known else ahead)) if one.key not in known}
        if wanted and not remembers:
            summed = _summed(trace, calibration, wanted, seed, share)
            return [summed[consumer.key] for consumer in consumers]
        if wanted:
            known.update(_summed(trace, calibration, wanted, seed, share))
        return [known[consumer.key] for consumer in consumers]

    return measure


def both(some: Summing, others: Summing) -> Summing:
    """What sums what two of them sum."""

    def measure(consumers: Sequence[Source]) -> list[Sums | None]:
        pairs = zip(some(consumers), others(consumers), strict=True)
        return [a and b and Sums.joined([a, b]) for a, b in pairs]

    return measure


def readers_of(trace: Trace, places: Iterable[tuple[int, int]]) -> list[Source]:
    """The consumers whose weights contract channels of groups, and those of weights elsewhere (node, input)."""
    slots = [slot for slot in trace.slots if slot.role is Role.CONTRACTED and not trace.actions[slot.node].recurrent]
    others = (trace.reading(*place) for place in places)
    found = (consumer_of(trace, slot) for slot in (*slots, *others) if slot is not None)
    return [consumer for consumer in found if consumer is not None]


def _summed(
    trace: Trace, calibration: Calibration, wanted: Mapping[Key, Source], seed: int, share: float
) -> dict[Key, Sums | None]:
    """Sums over all calibration inputs, once for all that read the same tensor in the same way."""
    first: dict[object, Source] = {}
    one_of = {key: first.setdefault(_what(one), one).key for key, one in wanted.items()}
    consumers = _fed(trace, calibration, first.values())
    if not consumers:
        return dict.fromkeys(wanted)
    probe = Probe.of(trace.facts.model, [consumer.reads.tensor for consumer in consumers])
    total: list[Sums | None] = []
    each, largest = share * ENOUGH / calibration.samples, max(1, READ // _per_sample(trace, probe))
    reading = _Reading(probe, consumers, each, seed, largest)
    for parts in calibration.each(reading):
        pairs = zip(total or parts, parts, strict=True)
        total = [a and b and Sums.joined([a, b]) for a, b in pairs] if total else parts
    found = dict(zip([consumer.key for consumer in consumers], total, strict=True))
    return {key: found.get(one) for key, one in one_of.items()}


def _fed(trace: Trace, calibration: Calibration, consumers: Iterable[Source]) -> tuple[Source, ...]:
    """The consumers whose data follow from the model's own inputs; copies of bodies have inputs that nobody gives."""
    model = trace.facts.model
    given = {spec.name for shard in calibration.shards for spec in shard.specs} | trace.facts.initializers.keys()
    missing = {value.name for value in model.graph.input} - given
    found = tuple(consumers)
    if not missing:
        return found
    reads = {name: {name} | read_by(needed(model, [name])) for name in {one.reads.tensor for one in found}}
    return tuple(one for one in found if not reads[one.reads.tensor] & missing)


def _what(source: Source) -> object:
    """What is read, where another consumer may read the same; else the consumer."""
    plain = isinstance(source, Consumer) and source.windows is None
    return (source.reads, source.features) if plain else source.key


def _per_sample(trace: Trace, probe: Probe) -> int:
    """How many numbers of all that is read belong to a sample."""
    shapes, batch = trace.facts.shapes, batch_in(trace.facts.feed)
    return max(1, sum(prod(shapes[name]) for name in probe.names if name in shapes) // batch)


@dataclass(frozen=True, eq=False)
class _Reading:
    """Sums, over a shard, of what consumers read in the original model: `each` rows per sample.

    largest: samples that are run at a time at most.
    """

    probe: Probe
    consumers: tuple[Source, ...]
    each: float
    seed: int
    largest: int

    def __call__(self, shard: Shard) -> list[Sums | None]:
        feeds = pieces(shard.feeds(), divisible(shard.specs), self.largest)
        most = max(1, round(self.each * shard.kept / max(1, len(feeds))))
        generators = [np.random.default_rng([self.seed, shard.first]) for _ in self.consumers]
        return sums_of(self.probe(feeds), self.consumers, most, generators)
