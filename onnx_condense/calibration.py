"""Consumers refitted on calibration inputs: one after the other, each on what the condensed layers before it give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_condense.actions import Elementwise, Normalization
from onnx_condense.chains import Chain, Cutter
from onnx_condense.channels import Trace
from onnx_condense.labels import atoms_of
from onnx_condense.observing import Probe
from onnx_condense.refitting import (
    CHUNK,
    EXACT,
    NOISE_ROWS,
    Measure,
    Rows,
    Site,
    apply_refit,
    lost,
    original_weight,
    sums_of,
)
from onnx_condense.rewrite import write
from onnx_condense.runtime import Array
from onnx_condense.shards import Calibration, Shard
from onnx_condense.signals import Bools, Floats, Ints
from onnx_condense.state import State
from onnx_condense.statistics import Sums, fit

ROWS = 2**16
"""Most rows that are summed per consumer; positions are drawn beyond it."""

FOLDS = 4
"""Parts of the calibration samples; each is held back once."""

FAINT = 1e-3
"""Channels that a normalization scales by less than this share of its largest are not corrected."""

Progress = Callable[[str], None]


def measured(trace: Trace, calibration: Calibration, seed: int) -> Measure:
    """What sums the original model's own tensors on calibration inputs."""

    def measure(sites: Sequence[Site]) -> list[Sums | None]:
        probe = Probe.of(trace.facts.model, [site.data for site in sites])
        total: list[Sums | None] = []
        for parts in calibration.each(_Reading(probe, tuple(sites), NOISE_ROWS / calibration.samples, seed)):
            pairs = zip(total or parts, parts, strict=True)
            total = [a and b and Sums.joined([a, b]) for a, b in pairs] if total else parts
        return total

    return measure


@dataclass(frozen=True, eq=False)
class _Reading:
    """Sums, over a shard, of what sites read in the original model: `each` rows per sample."""

    probe: Probe
    sites: tuple[Site, ...]
    each: float
    seed: int

    def __call__(self, shard: Shard) -> list[Sums | None]:
        feeds = shard.feeds()
        most = max(1, round(self.each * shard.kept / max(1, len(feeds))))
        return sums_of(self.probe(feeds), self.sites, most, [self.seed, shard.first])


def calibrate(state: State, calibration: Calibration, seed: int, progress: Progress) -> None:
    """Refits every consumer of a state that lost channels.

    Inputs come from the condensed prefix, targets from the original model: the whole kernel and bias, drawn toward
    what the state holds (the solution without data), as strongly as held-back samples ask for. Where the output is
    added to another tensor (a residual connection), what that tensor has lost is part of the target.
    """
    sites, facts = lost(state), state.trace.facts
    kept = (facts.shapes.keys() | facts.derived) - facts.static
    with Cutter(facts.model, kept) as original, Cutter(facts.model, kept) as condensed:
        for number, site in enumerate(sites, 1):
            stage = f"calibrate {number}/{len(sites)}: {site.layer}"
            progress(stage)
            job = _comparison(state, site, original, condensed, max(1, ROWS // calibration.samples), seed)
            parts = _sums(job, calibration, progress, stage)
            if parts is not None and all(np.isfinite(part.products).all() for part in parts):
                _refit(state, site, parts)


def _refit(state: State, site: Site, parts: Sequence[Sums]) -> None:
    """Gives a consumer the weights that held-back parts of the samples choose."""
    prior, constant = _prior(state, site)
    centred = site.outer is not None
    through = None
    if not site.direct:
        through = site.flat(original_weight(state, site)).astype(np.float64) * site.alpha
    found = fit(parts, prior, constant, centred, through, EXACT)
    if found.weight is not prior or found.constant is not constant:
        known = _bias(state, site) if site.direct else np.zeros(1)
        apply_refit(state, site, found.weight, found.constant - known if centred else None, "calibration")


def _bias(state: State, site: Site) -> Floats:
    """[produced] the bias of the original."""
    return State(state.trace).row_bias(site.slot.node)


def _prior(state: State, site: Site) -> tuple[Floats, Floats]:
    """The flat weight of the kept features and the constant per flat row that the state has now."""
    value = state.weight(site.slot.node, site.slot.input)
    kept = site.features(np.flatnonzero(state.reads(site.slot)))
    weight = site.flat(value).astype(np.float64)[:, kept] * site.alpha
    if site.direct:
        return weight, state.row_bias(site.slot.node)
    return weight, site.spread(np.asarray(state.shift.get(site.slot.node, np.zeros(0))), value)


def _comparison(state: State, site: Site, original: Cutter, condensed: Cutter, most: int, seed: int) -> _Comparison:
    """What is to be summed for a consumer, on chains that reach as far as it."""
    beside = _beside(state, site)
    target = site.output if site.direct else site.data
    others = [] if beside is None else [beside.name]
    before = original.reach(state.trace.facts.model, [target, *others])
    after = condensed.reach(write(state, {}).traced, [site.data, *others])
    return _Comparison(site, before, after, target, beside, most, seed)


def _sums(job: _Comparison, calibration: Calibration, progress: Progress, stage: str) -> list[Sums] | None:
    """Sums over each fold of the samples; None where the condensed model's positions are not the original's."""
    total: list[Sums] = []
    for number, parts in enumerate(calibration.each(job), 1):
        if parts is None:
            return None
        total = [Sums.joined(pair) for pair in zip(total, parts, strict=True)] if total and parts else total or parts
        if len(calibration.shards) > 1:
            progress(f"{stage}, shard {number}/{len(calibration.shards)}")
    return total


@dataclass(frozen=True, eq=False)
class _Beside:
    """A tensor that a consumer's output is added to. scale: [outputs] from it to the output. alive: [outputs] kept."""

    name: str
    scale: Floats
    alive: Bools

    def lost(self, site: Site, before: Array, after: Array) -> Floats:
        """[samples, positions, outputs]: what it lost, as the consumer's output would have to make up for it."""
        whole = site.targets(before).astype(np.float64)
        result = np.zeros_like(whole)
        rest = site.targets(after)
        if rest.shape == (*whole.shape[:2], int(self.alive.sum())):
            result[..., self.alive] = whole[..., self.alive] - rest
        return np.asarray(result * self.scale)


@dataclass(frozen=True, eq=False)
class _Comparison:
    """Sums, over a shard, of what a consumer reads in the condensed model and of its targets in the original one.

    before, after: the original and the condensed model, as far as needed. most: positions that are taken per sample.
    """

    site: Site
    before: Chain
    after: Chain
    target: str
    beside: _Beside | None
    most: int
    seed: int

    def __call__(self, shard: Shard) -> list[Sums] | None:
        """Sums per fold of the samples, none of no samples; None where positions do not fit."""
        site, feeds, parts = self.site, shard.feeds(), list[Sums]()
        first = shard.first
        for before, after in zip(self.before(shard.first, feeds), self.after(shard.first, feeds), strict=True):
            y = site.targets(before[self.target]) if site.direct else site.channels(before[self.target])
            if self.beside is not None:
                y = y + self.beside.lost(site, before[self.beside.name], after[self.beside.name])
            x = Rows(site, after[site.data])
            if (x.samples, x.positions) != y.shape[:2]:
                return None
            parts = parts or [Sums(x.features, y.shape[2]) for _ in range(FOLDS)]
            numbers = np.arange(first, first + x.samples)
            first += x.samples
            drawn = self._drawn(numbers, x.positions)
            step = max(1, CHUNK // x.features)
            for fold, part in enumerate(parts):
                mine = np.flatnonzero(numbers % FOLDS == fold)
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


def _beside(state: State, site: Site) -> _Beside | None:
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
    makers = [i for i, node in enumerate(facts.nodes) if any(t.name == other for t in node.outputs)]
    if len(names) != 2 or other in facts.static or not makers or makers[0] > site.slot.node:
        return None
    if facts.shapes.get(other) != facts.shapes.get(site.output):
        return None
    faint = np.abs(scale) <= FAINT * np.abs(scale).max(initial=0)
    return _Beside(other, np.where(faint, 0.0, 1 / np.where(faint, 1.0, scale)), _alive_rows(state, site))


def _alive_rows(state: State, site: Site) -> Bools:
    """[produced] which outputs of the consumer are still there."""
    row = next(s.labels.reshape(-1) for s in state.trace.slots if s.node == site.slot.node and s.role == "produced")
    return np.asarray(state.alive[state.trace.unit_of[atoms_of(row)]])
