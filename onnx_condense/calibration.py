"""Consumers refitted on calibration inputs: one after the other, each on what the condensed layers before it give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from onnx_condense.actions import Elementwise, Normalization
from onnx_condense.inputs import Feed
from onnx_condense.labels import atoms_of
from onnx_condense.observing import observe
from onnx_condense.refitting import EXACT, Site, apply_refit, lost, original_weight
from onnx_condense.rewrite import write
from onnx_condense.runtime import Array
from onnx_condense.signals import Bools, Floats
from onnx_condense.state import State
from onnx_condense.statistics import Sums, fit

ROWS = 2**16
"""Most rows that are summed per consumer; positions are drawn beyond it."""

FOLDS = 4
"""Parts of the calibration samples; each is held back once."""

HELD_BACK = 5
"""One in so many calibration samples verifies, where there are no inputs for that."""

CHUNK = 2**24
"""Numbers of one consumer's features that are held at a time."""

FAINT = 1e-3
"""Channels that a normalization scales by less than this share of its largest are not corrected."""


def held_back(feeds: Sequence[Feed], divisible: bool) -> tuple[list[Feed], list[Feed]]:
    """(feeds to estimate from, feeds to verify on): every fifth sample is held back, where there are five.

    `divisible`: whether a feed may be cut along the first axis; whole feeds are held back where it may not.
    """
    if not divisible:
        kept = [feed for number, feed in enumerate(feeds) if number % HELD_BACK != HELD_BACK - 1]
        return kept, list(feeds[HELD_BACK - 1 :: HELD_BACK]) or list(feeds)
    rest, held = [], []
    for feed in feeds:
        out = np.arange(len(next(iter(feed.values())))) % HELD_BACK == HELD_BACK - 1
        rest.append({name: value[~out] for name, value in feed.items()})
        if out.any():
            held.append({name: value[out] for name, value in feed.items()})
    return rest, held or list(feeds)


def calibrate(state: State, feeds: Sequence[Feed], seed: int, progress: Callable[[str], None]) -> None:
    """Refits every consumer of a state that lost channels.

    Inputs come from the condensed prefix, targets from the original model: the whole kernel and bias, drawn toward
    what the state holds (the solution without data), as strongly as held-back samples ask for. Where the output is
    added to another tensor (a residual connection), what that tensor has lost is part of the target.
    """
    sites = lost(state)
    for number, site in enumerate(sites, 1):
        progress(f"calibrate {number}/{len(sites)}: {site.layer}")
        parts = _sums(state, site, feeds, seed)
        prior, constant = _prior(state, site)
        centred = site.outer is not None
        through = None
        if not site.direct:
            through = site.flat(original_weight(state, site)).astype(np.float64) * site.alpha
        if parts is None or all(np.isfinite(part.products).all() for part in parts) is False:
            continue
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


def _sums(state: State, site: Site, feeds: Sequence[Feed], seed: int) -> list[Sums] | None:
    """Sums over each fold of the samples; None where the condensed model's positions are not the original's."""
    model, small = state.trace.facts.model, write(state, {}).traced
    other = _beside(state, site)
    target = site.output if site.direct else site.data
    beside = [] if other is None else [other[0]]
    total = sum(len(next(iter(feed.values()))) for feed in feeds)
    generator = np.random.default_rng(seed)
    parts: list[Sums] = []
    seen = 0
    wanted = observe(model, [target, *beside], feeds), observe(small, [site.data, *beside], feeds)
    for before, after in zip(*wanted, strict=True):
        y = site.targets(before[target]) if site.direct else site.channels(before[target])
        if other is not None:
            y = y + other[1](before[other[0]], after[other[0]])
        for start, x in _windows(site, after[site.data]):
            goal = y[start : start + len(x)]
            if x.shape[:2] != goal.shape[:2]:
                return None
            parts = parts or [Sums(x.shape[2], goal.shape[2]) for _ in range(FOLDS)]
            most = max(1, ROWS // max(1, total))
            if x.shape[1] > most:
                drawn = np.sort(generator.choice(x.shape[1], most, replace=False))
                x, goal = x[:, drawn], goal[:, drawn]
            for sample, (left, right) in enumerate(zip(x, goal, strict=True), seen):
                parts[sample % FOLDS].add(left, right)
            seen += len(x)
    return parts


def _windows(site: Site, data: Array) -> Iterator[tuple[int, Floats]]:
    """(first sample, [samples, positions, features]), a few samples at a time."""
    if site.windows is None:
        yield 0, site.rows(data)
        return
    step = max(1, CHUNK // max(1, data[:1].size * site.taps))
    for start in range(0, len(data), step):
        yield start, site.rows(data[start : start + step])


def _beside(state: State, site: Site) -> tuple[str, Callable[[Array, Array], Floats]] | None:
    """The tensor that the output is added to, and how what it lost [samples, positions, outputs] follows from it."""
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
    inverse = np.where(faint, 0.0, 1 / np.where(faint, 1.0, scale))
    alive = _alive_rows(state, site)

    def loss(before: Array, after: Array) -> Floats:
        whole = site.targets(before).astype(np.float64)
        result = np.zeros_like(whole)
        rest = site.targets(after)
        if rest.shape == (*whole.shape[:2], int(alive.sum())):
            result[..., alive] = whole[..., alive] - rest
        return np.asarray(result * inverse)

    return other, loss


def _alive_rows(state: State, site: Site) -> Bools:
    """[produced] which outputs of the consumer are still there."""
    row = next(s.labels.reshape(-1) for s in state.trace.slots if s.node == site.slot.node and s.role == "produced")
    return np.asarray(state.alive[state.trace.unit_of[atoms_of(row)]])
