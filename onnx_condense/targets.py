"""What a consumer should make on calibration inputs, next to what it reads in the condensed model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from onnx_condense.actions import Elementwise, Normalization
from onnx_condense.chains import Chain, Part
from onnx_condense.labels import atoms_of
from onnx_condense.runtime import Array
from onnx_condense.shards import Shard
from onnx_condense.signals import Bools, Floats, Ints
from onnx_condense.sites import CHUNK, Rows, Site, original_weight
from onnx_condense.state import State
from onnx_condense.statistics import Sums

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


def beside(state: State, site: Site) -> Beside | None:
    """The tensor that the output is added to, through a normalization or directly."""
    trace, facts = state.trace, state.trace.facts
    if not site.direct:
        return None
    name, scale = site.output, np.ones(1)
    uses = facts.consumers(name)
    if len(uses) == 1 and isinstance(action := trace.actions.get(uses[0][0]), Normalization) and action.var is not None:
        node = facts.nodes[uses[0][0]]
        gain, var = (np.asarray(facts.value(node.inputs[i]), dtype=np.float64) for i in (action.scale, action.var))
        name, scale = node.outputs[0].name, gain / np.sqrt(var + action.epsilon)
        uses = facts.consumers(name)
    if len(uses) != 1 or trace.actions.get(uses[0][0]) != Elementwise("add"):
        return None
    names = [t.name for t in facts.nodes[uses[0][0]].inputs]
    other = next((n for n in names if n != name), "")
    maker = facts.maker(other)
    if len(names) != 2 or other in facts.static or maker is None or maker > site.slot.node:
        return None
    if facts.shapes.get(other) != facts.shapes.get(site.output):
        return None
    faint = np.abs(scale) <= FAINT * np.abs(scale).max(initial=0)
    return Beside(other, np.where(faint, 0.0, 1 / np.where(faint, 1.0, scale)), alive_rows(state, site))


def alive_rows(state: State, site: Site) -> Bools:
    """[produced] which outputs of the consumer are still there."""
    atoms = made_by(state, site)
    return np.asarray((atoms < 0) | state.alive[state.trace.unit_of[atoms]])


def made_by(state: State, site: Site) -> Ints:
    """[produced] the atoms of the consumer's outputs, -1 of what is no channel."""
    slot = state.trace.made.get((site.slot.node, site.slot.input))
    if slot is not None:
        return atoms_of(slot.labels.reshape(-1))
    assert site.outer is not None
    return np.full(original_weight(state, site).shape[site.outer], -1)
