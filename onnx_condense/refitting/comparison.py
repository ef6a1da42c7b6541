"""What a consumer should make on calibration inputs, next to what it reads in the condensed model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Array, Bools, Floats, Ints
from onnx_condense.merging.twin import Twin
from onnx_condense.refitting.consumer import CHUNK, Rows, Site, original_weight
from onnx_condense.refitting.moments import Sums
from onnx_condense.refitting.samples import Shard
from onnx_condense.refitting.staged import Chain, Part
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Trace

FOLDS = 4
"""Parts of the calibration samples; each is held back once."""

FAINT = 1e-3
"""Channels that a normalization scales by less than this share of its largest are not corrected."""


@dataclass(frozen=True, eq=False)
class Beside:
    """A tensor that a consumer's output is added to. scale: [outputs] from it to the output. alive: [outputs] kept."""

    name: str
    scale: Floats
    alive: Bools

    def lost(self, site: Site, before: Array, after: Array) -> Floats:
        """[samples, positions, outputs]: what it lost, as the consumer's output would have to make up for it."""
        whole, rest = site.targets(before), site.targets(after)
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

    targets: [samples, positions, outputs] of the original model.
    """

    numbers: Ints
    known: Mapping[str, Array]
    targets: Floats


@dataclass(frozen=True, eq=False)
class Comparison:
    """Sums, over a shard, of what a consumer reads in the condensed model and of its targets in the original one.

    before, after: the original and the condensed model, as far as needed. link: what is between `after` and the
    consumer, where that ends before. most: positions that are taken per sample.
    """

    site: Site
    before: Chain
    after: Chain
    link: Part | None
    target: str
    beside: Beside | None
    most: int
    seed: int

    def views(self, shard: Shard) -> Iterator[View]:
        """Feed by feed. Raises InputError."""
        site, feeds, first, active = self.site, shard.feeds(), shard.first, None
        for before, after in zip(self.before(shard.first, feeds), self.after(shard.first, feeds), strict=True):
            y = site.targets(before[self.target]) if site.direct else site.channels(before[self.target])
            if self.beside is not None:
                y = y + self.beside.lost(site, before[self.beside.name], after[self.beside.name])
            known = after
            if self.link is not None:
                active = active or self.link.open(after)
                known = {**after, **self.link.run(active, after)}
            yield View(np.arange(first, first + len(y)), known, y)
            first += len(y)

    def __call__(self, shard: Shard) -> list[Sums] | None:
        """Sums per fold of the samples, none of no samples; None where positions do not fit."""
        parts: list[Sums] = []
        for view in self.views(shard):
            x, y = Rows.of(self.site, view.known[self.site.data]), view.targets
            if (x.samples, x.positions) != y.shape[:2]:
                return None
            parts = parts or [Sums(x.features, y.shape[2]) for _ in range(FOLDS)]
            drawn = self._drawn(view.numbers, x.positions)
            step = max(1, CHUNK // x.features)
            for fold, part in enumerate(parts):
                mine = np.flatnonzero(view.numbers % FOLDS == fold)
                samples, positions = np.repeat(mine, drawn.shape[1]), drawn[mine].reshape(-1)
                for start in range(0, len(samples), step):
                    rows = samples[start : start + step], positions[start : start + step]
                    part.add(x.at(*rows), y[rows])
        return parts

    def _drawn(self, numbers: Ints, positions: int) -> Ints:
        """[samples, positions taken]: drawn for each sample by its number, whatever the shards are."""
        if positions <= self.most:
            return np.broadcast_to(np.arange(positions), (len(numbers), positions))
        draws = (np.random.default_rng([self.seed, n]).choice(positions, self.most, replace=False) for n in numbers)
        return np.sort(list(draws), axis=1)


def beside(twin: Twin, site: Site) -> Beside | None:
    """The tensor that the output is added to, through a normalization or directly."""
    trace, facts = twin.trace, twin.trace.facts
    if not site.direct:
        return None
    name = site.output
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
    if len(names) != 2 or other in facts.static or maker is None or maker > site.slot.node:
        return None
    if facts.shapes.get(other) != facts.shapes.get(site.output):
        return None
    faint = np.abs(scale) <= FAINT * np.abs(scale).max(initial=0)
    return Beside(other, np.where(faint, 0.0, 1 / np.where(faint, 1.0, scale)), alive_rows(twin, site))


def _gain(trace: Trace, node: int) -> Floats | None:
    """[channels] what a BatchNormalization multiplies each channel with; None of another node."""
    action = trace.actions[node].normalization if node in trace.actions else None
    if action is None or action.var is None:
        return None
    scale, var = (trace.facts.value(trace.facts.nodes[node].inputs[i]) for i in (action.scale, action.var))
    return action.gain(np.asarray(scale, dtype=np.float64), np.asarray(var, dtype=np.float64))


def _adds(trace: Trace, node: int) -> bool:
    return node in trace.actions and trace.actions[node].adds


def alive_rows(twin: Twin, site: Site) -> Bools:
    """[produced] which outputs of the consumer are still there."""
    atoms = made_by(twin, site)
    return np.asarray((atoms < 0) | twin.alive[twin.trace.unit_of[atoms]])


def made_by(twin: Twin, site: Site) -> Ints:
    """[produced] the atoms of the consumer's outputs, -1 of what is no channel."""
    slot = twin.trace.made.get((site.slot.node, site.slot.input))
    if slot is not None:
        return atoms_of(slot.labels.reshape(-1))
    assert site.outer is not None
    return np.full(original_weight(twin, site).shape[site.outer], -1)
