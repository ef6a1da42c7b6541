"""Channels of products of data: what their sums lose without some of them, and what the others can take up.

A product adds up Σ q_j k_j over the channels of a line. Without the channels R, k_R ≈ B k_K leaves q_R · (k_R - B k_K)
missing, whose square, for sides that vary apart, is tr(E[q_R q_Rᵀ] E[r rᵀ]). The rows that make q take up the rest:
q_K + Bᵀ q_R. Either side may be the one that is followed; channels of other lines say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Floats, Ints
from onnx_condense.errors import left_alone
from onnx_condense.merging.deciding import CANDIDATE
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.mixing import Mix, lines_of
from onnx_condense.merging.paths import paths
from onnx_condense.merging.twin import Twin
from onnx_condense.operators.queries import mixed_axes
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.moments import Moments
from onnx_condense.refitting.reading import Side, both_sides
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Group, Trace

STRENGTH = 1e-4
"""Ridge strength, as a share of the mean variance: a line has few channels, and many rows tell of them."""

EXACT = 1e-9
"""A product that loses at most this share of what it adds up is left alone."""


@dataclass(frozen=True, eq=False)
class Bilinear:
    """What a group's channels are in products of data, if the rows of one side take up what goes.

    side: that one. covariance: [n, n] of the channels on the other side. gram: [n, n] E[u uᵀ] of this side, by which
    what is missing counts.
    """

    side: int
    covariance: Floats
    gram: Floats


def sides(trace: Trace, group: Group) -> list[Side]:
    """Both sides of every product that adds up channels of a group."""
    mine = (p for p in trace.pairings if (trace.group_of[trace.unit_of[atoms_of(p.left)]] == group.index).any())
    return [one for pairing in mine for one in both_sides(trace, pairing)]


def bilinears(trace: Trace, group: Group, estimate: Estimate) -> list[Bilinear]:
    """One for each side that may take up any channel of a group; none where nothing is known of them."""
    found, both = [], sides(trace, group)
    moments = estimate.moments(both)
    if not all(slot.even for slot in trace.pairs_of(group)):
        return _apart(trace, group, both, moments)
    for side in sorted({slot.side for slot in trace.pairs_of(group)}):
        held = [trace.units_in(slot.labels) for slot in trace.pairs_of(group) if slot.side == side]
        every = [trace.units_in(slot.labels) for slot in trace.pairs_of(group)]
        if np.isin(np.concatenate(every), np.concatenate(held)).all():
            found.append(_bilinear(trace, group, both, moments, side))
    return [one for one in found if one is not None]


def _apart(trace: Trace, group: Group, both: Sequence[Side], moments: Sequence[Moments | None]) -> list[Bilinear]:
    """Of channels that cannot take up others, what goes with each of them; side -1."""
    weights = np.zeros(len(group.units))
    for one, left, right in zip(both[::2], moments[::2], moments[1::2], strict=True):
        if left is None or right is None:
            return []
        units = trace.unit_of[atoms_of(one.slot.labels)]
        mine = trace.group_of[units] == group.index
        keys = units * (1 + int(one.pairing.lines.max())) + one.pairing.lines
        seconds = [known.xx + np.outer(known.x, known.x) for known in (left, right)]
        for key in np.unique(keys[mine]).tolist():
            here = np.flatnonzero(keys == key)
            lost = np.einsum("ij,ij->", *(second[np.ix_(here, here)] for second in seconds))
            weights[trace.place_of[units[here[0]]]] += float(lost)
    return [Bilinear(-1, np.eye(len(weights)), np.diag(weights))]


def _bilinear(
    trace: Trace, group: Group, both: Sequence[Side], moments: Sequence[Moments | None], side: int
) -> Bilinear | None:
    n = len(group.units)
    covariance, gram, times = np.zeros((n, n)), np.zeros((n, n)), np.zeros(n)
    made = np.unique(np.concatenate([atoms_of(s.labels.reshape(-1)) for s in trace.pairs_of(group) if s.side == side]))
    for one, known in zip(both, moments, strict=True):
        if known is None:
            return None
        atoms = atoms_of(one.slot.labels)
        takes, lines = np.isin(atoms, made), one.pairing.lines
        places = trace.place_of[trace.unit_of[atoms]]
        mine = trace.group_of[trace.unit_of[atoms]] == group.index
        second = known.xx if _is_shifted_freely(trace, one) else known.xx + np.outer(known.x, known.x)
        for line in np.unique(lines[mine]).tolist():
            here = np.flatnonzero(mine & (lines == line))
            total = gram if takes[here].all() else covariance
            np.add.at(total, np.ix_(places[here], places[here]), second[np.ix_(here, here)])
            if total is gram:
                times[places[here]] += 1
    return Bilinear(side, covariance, gram / np.maximum(1, times)[:, None])


def _is_shifted_freely(trace: Trace, one: Side) -> bool:
    """Whether a constant in a channel does not count: a function behind takes off what all places have in common."""
    pairing, facts = one.pairing, trace.facts
    if trace.actions[pairing.node].unmoved == one.slot.input:
        return True
    shape = facts.shapes[one.reads.tensor]
    places = [axis for axis in range(1, len(shape)) if axis not in pairing.axes[one.slot.input]]
    name = facts.nodes[pairing.node].outputs[0].name
    last = len(facts.shapes[name]) - 1
    if one.slot.input != 1 or len(places) != 1:
        return False
    while len(uses := facts.consumers(name)) == 1 and uses[0][0] in trace.actions:
        action = trace.actions[uses[0][0]]
        if mixed := mixed_axes(action):
            return mixed == (last,)
        if not action.pointwise:
            return False
        name = facts.nodes[uses[0][0]].outputs[0].name
    return False


def refit_pairs(twin: Twin, estimate: Estimate, chosen: Callable[[Evidence], bool] = lambda _: True) -> int:
    """Lets products of data that lost channels take up what loses least, and says how many. `chosen`: by evidence."""
    groups = [g for g in twin.trace.groups if g.index in twin.plans and twin.trace.pairs_of(g)]
    groups = [g for g in groups if not any((s.node, s.input) in twin.factors for s in twin.trace.pairs_of(g))]
    groups = [g for g in groups if chosen(estimate.evidence(sides(twin.trace, g)[0]))]
    estimate.moments([one for group in groups for one in sides(twin.trace, group)])
    refitted = 0
    for group in groups:
        with left_alone(group.layers[0]):
            refitted += _refit(twin, group, estimate)
    return refitted


def _refit(twin: Twin, group: Group, estimate: Estimate) -> bool:
    """Whether a group lost something in its products, and what takes it up is another."""
    keep = np.array(twin.plans[group.index].keep)
    gone = np.setdiff1d(np.arange(len(group.units)), keep)
    lines = lines_of(twin.trace, group)
    evidence = estimate.evidence(sides(twin.trace, group)[0])
    best: tuple[float, Mix] | None = None
    for one in (one for one in bilinears(twin.trace, group, estimate) if one.side >= 0):
        whole = float(np.einsum("ij,ji->", one.covariance, one.gram))
        if _loss(one, _merged(twin, group, one.side), keep, gone) <= EXACT * whole:
            return False
        weights = _solved(one, keep, gone, lines)
        lost = _loss(one, weights, keep, gone)
        if not np.isfinite(weights).all() or not _keeps_exact(twin, group, one, weights):
            continue
        if best is None or lost < best[0]:
            best = lost, Mix(group.index, one.side, evidence, _by_line(weights, keep, gone, lines))
    if best is None:
        return False
    twin.mix(best[1])
    return True


def _keeps_exact(twin: Twin, group: Group, one: Bilinear, weights: Floats) -> bool:
    """Whether weights [gone, keep] lose nothing of channels that the plan merges exactly, by whichever side."""
    plan = twin.plans[group.index]
    keep, main = np.array(plan.keep), np.array(plan.main)
    gone = np.setdiff1d(np.arange(len(main)), keep)
    exact = (main[gone] >= 0) & (np.array(plan.cosine)[gone] > CANDIDATE)
    c, known = one.covariance, weights[exact]
    missing = c[np.ix_(gone, gone)].diagonal()[exact] - 2 * np.einsum("ij,ij->i", known, c[np.ix_(gone[exact], keep)])
    missing = missing + np.einsum("ij,jk,ik->i", known, c[np.ix_(keep, keep)], known)
    return bool((missing <= 100 * STRENGTH * c.diagonal()[gone[exact]]).all())


def _merged(twin: Twin, group: Group, side: int) -> Floats:
    """[gone, keep] what each channel that goes is of those that stay, by the merges of the plan."""
    plan = twin.plans[group.index]
    keep, main = np.array(plan.keep), np.array(plan.main)
    gone = np.setdiff1d(np.arange(len(main)), keep)
    result = np.zeros((len(gone), len(keep)))
    places = {(p.slot.node, p.slot.input, p.number) for p in paths(twin.trace, group) if p.side == side}
    ratio = next(np.array(read.ratio) for read in plan.reads if (read.node, read.input, read.path) in places)
    merged = np.flatnonzero(main[gone] >= 0)
    result[merged, np.searchsorted(keep, main[gone[merged]])] = ratio[gone[merged]]
    return result


def _loss(one: Bilinear, weights: Floats, keep: Ints, gone: Ints) -> float:
    """tr(E[u uᵀ] E[r rᵀ]), r = x_gone - weights · x_keep, for weights [gone, keep]."""
    c = one.covariance
    crossed = weights @ c[np.ix_(keep, gone)]
    missing = c[np.ix_(gone, gone)] - crossed - crossed.T + weights @ c[np.ix_(keep, keep)] @ weights.T
    return float(np.einsum("ij,ji->", one.gram[np.ix_(gone, gone)], missing))


def _solved(one: Bilinear, keep: Ints, gone: Ints, lines: Ints) -> Floats:
    """[gone, keep] the least squares of what goes from what stays of its line."""
    result = np.zeros((len(gone), len(keep)))
    for line in np.unique(lines).tolist():
        mine, left = np.flatnonzero(lines[gone] == line), np.flatnonzero(lines[keep] == line)
        if not len(mine) or not len(left):
            continue
        inner = one.covariance[np.ix_(keep[left], keep[left])]
        scale = float(np.trace(inner)) / len(left)
        system = inner + (STRENGTH * scale or 1.0) * np.eye(len(left))
        result[np.ix_(mine, left)] = np.linalg.solve(system, one.covariance[np.ix_(keep[left], gone[mine])]).T
    return result


def _by_line(weights: Floats, keep: Ints, gone: Ints, lines: Ints) -> Floats:
    """[gone, stays of a line] of weights [gone, keep], which are zero beyond each channel's line."""
    stays = max(int((lines[keep] == line).sum()) for line in np.unique(lines[gone]).tolist())
    result = np.zeros((len(gone), stays))
    for number, line in enumerate(lines[gone].tolist()):
        mine = lines[keep] == line
        result[number, : int(mine.sum())] = weights[number, mine]
    return result
