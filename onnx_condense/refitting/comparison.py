"""What a consumer should make on calibration inputs, next to what it reads in the condensed model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_condense.arrays import Array, Bools, Floats, Ints
from onnx_condense.merging.twin import Twin
from onnx_condense.model.runtime import to_bytes
from onnx_condense.refitting.consumer import Consumer, TwinConsumer
from onnx_condense.refitting.moments import Sums
from onnx_condense.refitting.rows import CHUNK, Channels
from onnx_condense.refitting.samples import Shard
from onnx_condense.refitting.staged import MEMORY, Chain, Cutter, Segment, between
from onnx_condense.rewriting.writer import alive_weight, traced
from onnx_condense.tracing.trace import Trace

FOLDS = 4
"""Parts of the calibration samples; each is held back once."""

FAINT = 1e-3
"""Channels that a normalization scales by less than this share of its largest are not corrected."""


@dataclass(frozen=True, eq=False)
class Addend:
    """A tensor that a consumer's output is added to, with the channels of that output.

    scale: [outputs] from it to the output. alive: [outputs] which of them are still there.
    """

    channels: Channels
    scale: Floats
    alive: Bools

    def lost(self, before: Array, after: Array) -> Floats:
        """[samples, positions, outputs]: what it lost, as the consumer's output would have to make up for it."""
        whole, rest = self.channels.of(before), self.channels.of(after)
        scale = self.scale.astype(whole.dtype)
        if rest.shape == whole.shape:
            return (whole - rest) * scale
        result = np.zeros_like(whole)
        if rest.shape == (*whole.shape[:2], int(self.alive.sum())):
            result[..., self.alive] = whole[..., self.alive] - rest
        return result * scale


@dataclass(frozen=True, eq=False)
class View:
    """What there is to see of one feed. numbers: [samples] of the calibration. known: tensors of the condensed model.

    made: [samples, positions, outputs] of the original model. alive: [outputs] which of them are targets.
    """

    numbers: Ints
    known: Mapping[str, Array]
    made: Floats
    alive: Bools

    @property
    def count(self) -> int:
        """How many targets there are."""
        return self.made.shape[2] if self.alive.all() else int(self.alive.sum())

    def targets(self, *rows: Ints) -> Floats:
        """[..., alive outputs] those of some samples, or of some positions of samples."""
        found = self.made[rows]
        return found if self.alive.all() else found[..., self.alive]


Wanted = Callable[[Ints, Mapping[str, Array]], Ints]
"""Which samples [k] of a feed are looked at, by their numbers [samples] and what is known of the condensed model."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Sums, over a shard, of what a consumer reads in the condensed model and of its targets in the original one.

    Attributes:
        before, after: the original and the condensed model, as far as needed.
        link: what is between `after` and the consumer, where that ends before.
        target: what of the original is to be made.
        alive: [outputs] which of the targets count.
        most: positions that are taken per sample.
    """

    consumer: Consumer
    before: Chain
    after: Chain
    link: Segment | None
    target: Channels
    beside: Addend | None
    alive: Bools
    most: int
    seed: int

    def views(self, shard: Shard, wanted: Wanted | None = None) -> Iterator[View]:
        """Feed by feed. Raises InputError."""
        feeds, first, active = shard.feeds(), shard.first, None
        beside = [] if self.beside is None else [self.beside.channels.tensor]
        read = [self.consumer.reads.tensor] if self.link is None else self.link.reads
        for before, after in zip(self.before(shard.first, feeds), self.after(shard.first, feeds), strict=True):
            made = {name: before[name] for name in (self.target.tensor, *beside)}
            known = {name: after[name] for name in (*read, *beside)}
            count = len(self.target.of(made[self.target.tensor]))
            numbers = np.arange(first, first + count)
            first += count
            if wanted is not None and all(v.ndim and len(v) == count for v in (*made.values(), *known.values())):
                few = wanted(numbers, known)
                if not len(few):
                    continue
                numbers = numbers[few]
                made, known = ({name: value[few] for name, value in some.items()} for some in (made, known))
            y = self.target.of(made[self.target.tensor])
            for name in beside:
                assert self.beside is not None
                y = y + self.beside.lost(made[name], known[name])
            if self.link is not None:
                active = active or self.link.open(known)
                known = {**known, **self.link.run(active, known)}
            yield View(numbers, known, y, self.alive)

    def __call__(self, shard: Shard) -> list[Sums] | None:
        """Sums per fold of the samples, none of no samples; None where positions do not fit."""
        parts: list[Sums] = []
        for view in self.views(shard):
            x = self.consumer.rows(view.known[self.consumer.reads.tensor])
            if (x.samples, x.positions) != view.made.shape[:2]:
                return None
            crossed = self.consumer.makes is None
            parts = parts or [Sums(x.features, view.count, crossed) for _ in range(FOLDS)]
            drawn = self._drawn(view.numbers, x.positions)
            step = max(1, CHUNK // x.features)
            for fold, part in enumerate(parts):
                mine = np.flatnonzero(view.numbers % FOLDS == fold)
                samples, positions = np.repeat(mine, drawn.shape[1]), drawn[mine].reshape(-1)
                for start in range(0, len(samples), step):
                    rows = samples[start : start + step], positions[start : start + step]
                    part.add(x.at(*rows), view.targets(*rows))
        return parts

    def _drawn(self, numbers: Ints, positions: int) -> Ints:
        """[samples, positions taken]: drawn for each sample by its number, whatever the shards are."""
        if positions <= self.most:
            return np.broadcast_to(np.arange(positions), (len(numbers), positions))
        return _drawn(self.seed, tuple(numbers.tolist()), positions, self.most)


@lru_cache(maxsize=64)
def _drawn(seed: int, numbers: tuple[int, ...], positions: int, most: int) -> Ints:
    """[samples, most] of so many positions, drawn for each sample by its number; a consumer asks several times."""
    draws = (np.random.default_rng([seed, n]).choice(positions, most, replace=False) for n in numbers)
    return np.sort(list(draws), axis=1)


class SideBySide:
    """The original model and a twin, run as far as one consumer after the other; a context, which keeps tensors."""

    def __init__(self, twin: Twin, seed: int, memory: int = MEMORY) -> None:
        """`seed`: of the positions that are drawn. `memory`: see `Chain`."""
        facts = twin.trace.facts
        kept = (facts.shapes.keys() | facts.derived) - facts.static
        self._twin, self._seed = twin, seed
        self._original, self._condensed = (Cutter(facts.model, kept, memory) for _ in range(2))

    def comparison(self, consumer: TwinConsumer, producer: TwinConsumer | None, most: int) -> Comparison:
        """What is to be summed for a consumer; the condensed model reaches as far as it, or as its producer.

        `most`: positions that are taken per sample.
        """
        fixed, other = consumer.fixed, beside(consumer)
        target = fixed.makes or fixed.reads
        others = [] if other is None else [other.channels.tensor]
        before = self._original.reach(self._twin.trace.facts.model, [target.tensor, *others])
        ends = [(producer or consumer).fixed.reads.tensor, *others]
        parts = [self._condensed.part(ends)]
        if producer is not None:
            parts.append(((fixed.reads.tensor,), {producer.fixed.reads.tensor}))
        model = traced(self._twin, *parts)
        after = self._condensed.reach(model, ends)
        between_them = None if producer is None else link(model, producer.fixed, fixed)
        return Comparison(fixed, before, after, between_them, target, other, consumer.targets, most, self._seed)

    def reach(self, before: Sequence[str], after: Sequence[str]) -> tuple[Chain, Chain]:
        """The original model as far as some tensors, and the condensed one as far as others."""
        original = self._original.reach(self._twin.trace.facts.model, before)
        return original, self._condensed.reach(traced(self._twin, self._condensed.part(after)), after)

    def __enter__(self) -> SideBySide:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Gives back what was kept in the memory of this process."""
        for cutter in (self._original, self._condensed):
            cutter.close()


def link(model: onnx.ModelProto, producer: Consumer, consumer: Consumer) -> Segment:
    """What is in a condensed model between what a producer reads, what it makes and what the consumer reads."""
    assert producer.makes is not None
    return between(model, producer.reads.tensor, (producer.makes.tensor, consumer.reads.tensor))


def relinked(known: Segment, producer: TwinConsumer, consumer: Consumer) -> Segment:
    """The link where nothing but the rows of the producer is another than in one that is known."""
    twin, place, made = producer.twin, (producer.node, producer.fixed.slot.input), producer.fixed.makes
    assert made is not None
    model = onnx.ModelProto.FromString(known.model)
    maker = next(node for node in model.graph.node if made.tensor in node.output)
    own, weight = maker.op_type == twin.trace.facts.nodes[place[0]].op, maker.input[place[1]]
    held = next((tensor for tensor in model.graph.initializer if own and tensor.name == weight), None)
    if held is None or place in twin.factors:  # a bias that came is added behind, by another node
        return link(traced(twin), producer.fixed, consumer)
    rows = numpy_helper.from_array(alive_weight(twin, *place), weight)
    rows.doc_string = held.doc_string
    held.CopyFrom(rows)
    return replace(known, model=to_bytes(model))


def beside(consumer: TwinConsumer) -> Addend | None:
    """The tensor that a consumer's output is added to, through a normalization or directly."""
    trace, facts, makes = consumer.twin.trace, consumer.twin.trace.facts, consumer.fixed.makes
    if makes is None:
        return None
    name = makes.tensor
    scale: Floats = np.ones(1)
    uses = facts.consumers(name)
    if len(uses) == 1 and (found := _gain(trace, uses[0][0])) is not None:
        name, scale = facts.nodes[uses[0][0]].outputs[0].name, found
        uses = facts.consumers(name)
    if len(uses) != 1 or not _adds(trace, uses[0][0]):
        return None
    names = [t.name for t in facts.nodes[uses[0][0]].inputs]
    other = next((n for n in names if n != name), "")
    maker = facts.maker(other)
    if len(names) != 2 or other in facts.static or maker is None or maker > consumer.fixed.slot.node:
        return None
    if facts.shapes.get(other) != facts.shapes.get(makes.tensor):
        return None
    faint = np.abs(scale) <= FAINT * np.abs(scale).max(initial=0)
    scale = np.where(faint, 0.0, 1 / np.where(faint, 1.0, scale))
    return Addend(Channels(other, makes.axis), scale, consumer.alive)


def importance(consumer: TwinConsumer) -> Floats:
    """[outputs] how much each output counts: what a normalization that alone reads it multiplies it with."""
    trace, makes = consumer.twin.trace, consumer.fixed.makes
    uses = [] if makes is None else trace.facts.consumers(makes.tensor)
    gain = _gain(trace, uses[0][0]) if len(uses) == 1 else None
    if gain is None or not np.abs(gain).max(initial=0) > 0:
        return np.ones(len(consumer.alive))
    return np.asarray(np.maximum(np.abs(gain), FAINT * np.abs(gain).max()))


def _gain(trace: Trace, node: int) -> Floats | None:
    """[channels] what a BatchNormalization multiplies each channel with; None of another node."""
    action = trace.actions[node].normalization if node in trace.actions else None
    if action is None or action.var is None:
        return None
    scale, var = (trace.facts.value(trace.facts.nodes[node].inputs[i]) for i in (action.scale, action.var))
    return action.gain(np.asarray(scale, dtype=np.float64), np.asarray(var, dtype=np.float64))


def _adds(trace: Trace, node: int) -> bool:
    return node in trace.actions and trace.actions[node].adds
