"""What each group's consumers lose as it narrows, and how much the outputs mind that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Bools, Floats, Ints
from onnx_condense.merging.widths import widths_allowed
from onnx_condense.planning.allocation import Curve
from onnx_condense.planning.planned import NOTHING, Aside
from onnx_condense.planning.readers import Orders
from onnx_condense.planning.stand import Stand
from onnx_condense.planning.thresholds import Planner, costing
from onnx_condense.progress import Step
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.rewriting.kept import Disagreement, Failed
from onnx_condense.tracing.labels import occurrence
from onnx_condense.tracing.trace import Group

PROBES = (0.25, 0.5, 0.75, 1.0)
"""Shares of a group's channels whose removal shows how much the outputs mind what is lost."""

FELT = 1e-4
"""Relative error of the outputs that counts as felt: many networks hold channels that nobody needs."""

TRUST = 0.5
"""Power to which sensitivities are taken where groups are weighed as narrowed together: they tell groups apart, but
were measured one at a time, and on inputs that are not real they exaggerate."""

LEAST = 0.1
"""On inputs that are not real, losing all that a group's consumers read counts as at least this squared relative error:
they may leave a layer idle that real ones need."""

LEAST_REAL = 0.01
"""The same on real inputs, where groups are weighed as narrowed together."""

TINY = float(np.finfo(float).tiny)


Curves = dict[int, Curve]
"""Group index -> what is lost as it narrows."""


def curves_of(
    planner: Planner, stand: Stand, estimate: Estimate, progress: Callable[[str], None]
) -> tuple[Curves, list[Curves], Aside]:
    """What the consumers of groups lose as they narrow; what the outputs lose, in two readings; and who cannot.

    Args:
        planner: makes the twins.
        stand: where it is tried how much the outputs mind.
        estimate: moments of what consumers read; not of the stand's inputs themselves, or what they lose would look
            less than it is.
        progress: called with the name of each stage.
    """
    sensitivity = _Sensitivity(stand, estimate.real is not None)
    groups = [g for g in planner.groups if g.index not in planner.quantized or len(planner.freely(g))]
    orders = Orders(planner, estimate)
    orders.prepare([group for group in groups if group.index not in planner.quantized])
    plain: Curves = {}
    found: list[Curves] = [{}, {}]
    aside = NOTHING
    for number, group in enumerate(groups, 1):
        progress(Step("plan", number, len(groups), group.layers[0]))
        before = stand.aside
        try:
            with costing(group):
                curve = _curve(planner, orders, group)
                readings = sensitivity.weighed(group, curve) if len(curve.steps) else []
        except Disagreement as problem:
            stand.aside = before
            curve = _free(planner, group)
            stands = not isinstance(problem, Failed) and _stands(planner, group, curve)
            readings = [curve] * len(found) if stands else []
            if not stands:
                aside = aside.with_groups([group.index], problem)
        for curves, reading in zip(found, readings, strict=False):
            curves[group.index] = reading
        if readings:
            plain[group.index] = curve
    return plain, found, aside


def _curve(planner: Planner, orders: Orders, group: Group) -> Curve:
    """What a group's consumers lose as it narrows."""
    if group.index in planner.quantized:
        return _free(planner, group)
    order, losses = orders.of(group)
    last = _last(group, order)
    order, losses = _evened(group, order[~last], losses[~last])
    return Curve(order, losses, widths_allowed(planner.trace, group, planner.align, len(order)))


def _free(planner: Planner, group: Group) -> Curve:
    """The curve of a group of which only goes what goes exactly: weights are stored as integers, or tied."""
    exact = planner.freely(group)
    order = np.concatenate([exact, np.setdiff1d(np.arange(len(group.units)), exact)])
    losses = np.repeat([0.0, np.inf], [len(exact), len(order) - len(exact)])
    last = _last(group, order)
    order, losses = _evened(group, order[~last], losses[~last])
    order = order[losses == 0]
    return Curve(order, np.zeros(len(order)), widths_allowed(planner.trace, group, planner.align, len(order)))


def _stands(planner: Planner, group: Group, curve: Curve) -> bool:
    """Whether a group can be narrowed as far as its curve says."""
    try:
        planner.without({group.index: curve.order})
    except Disagreement:
        return False
    return len(curve.steps) > 0


@dataclass(frozen=True, eq=False)
class _Sensitivity:
    """How much the outputs mind that channels go. real: whether on real inputs."""

    stand: Stand
    real: bool

    def weighed(self, group: Group, curve: Curve) -> list[Curve]:
        """With what the outputs lose after each channel, from what its consumers lose: in two readings.

        The first takes groups as independent: the squared relative error of the outputs, on real inputs through every
        probe, on others in proportion to the first probe that is felt. The second takes them as narrowed together: in
        proportion to the first probe that is felt, tempered, and to the width that was there over what is left; alone
        a group may lose nearly everything unfelt, with others it may not.
        """
        each, width, real = _shares(curve), len(group.units), self.real
        probes: Iterable[tuple[int, float]] = self._probes(group, curve)
        probes = list(probes) if real else probes
        felt = (error / each[count - 1] for count, error in probes if error > FELT**2 and each[count - 1] > 0)
        slope = max(next(felt, 0.0), LEAST_REAL if real else LEAST)
        together = each * slope**TRUST * width / (width - np.arange(len(each)))
        readings = [_alone(curve, list(probes)) if real else each * slope, together]
        free = curve.losses <= 0  # what goes exactly costs nothing
        return [Curve(curve.order, np.where(free, 0.0, losses), curve.steps) for losses in readings]

    def _probes(self, group: Group, curve: Curve) -> Iterator[tuple[int, float]]:
        """(channels gone, squared relative error of the outputs) of every probe; none where all goes exactly."""
        if not curve.losses[-1]:
            return
        for probe in PROBES:
            at = int(np.searchsorted(curve.steps, probe * len(group.units)))
            count = int(curve.steps[min(len(curve.steps) - 1, at)])
            if not self.real and curve.losses[count - 1] == 0:  # what goes exactly so far says nothing
                continue
            yield count, self.stand.error({group.index: curve.order[:count]}) ** 2


def _shares(curve: Curve) -> Floats:
    """[m] which share of all that a group's consumers may lose is lost after each channel."""
    return np.asarray(curve.losses / max(float(curve.losses[-1]), TINY))


def _alone(curve: Curve, probes: Sequence[tuple[int, float]]) -> Floats:
    """[m] the errors of the probes, in proportion between them."""
    counts, errors = [0], [0.0]
    for count, error in probes:
        if count > counts[-1]:
            counts.append(count)
            errors.append(max(error, errors[-1]))
    return _shares(curve) * FELT**2 + _through(curve.losses, counts, errors)


# ---------------------------------------------------------------------------------------------------- orders


def removable(group: Group) -> Ints:
    """[m] channels that can go, the last ones first, those of all lines in turn."""
    order = np.arange(len(group.units))[::-1]
    order = order[~_last(group, order)]
    return _evened(group, order, np.zeros(len(order)))[0]


def _last(group: Group, order: Ints) -> Bools:
    """[n] which places of the order [n] hold the last channel of a cell, which stays."""
    where = np.argsort(order)
    last = np.zeros(len(order), dtype=bool)
    for cell in group.cells:
        last[where[cell].max()] = True
    return last


def _evened(group: Group, order: Ints, losses: Floats) -> tuple[Ints, Floats]:
    """The order [m] with channels of all lines in turn, and what has been lost after each [m], never falling."""
    losses = np.maximum.accumulate(losses)
    if not group.partitions:
        return order, losses
    line_of = np.zeros(len(group.units), dtype=np.int64)
    for part in group.partitions:
        line_of[part.units] = line_of[part.units] * len(part.units) + part.lines
    turn = occurrence(line_of[order])
    _, counts = np.unique(line_of[order], return_counts=True)
    whole = turn < counts.min(initial=len(order))
    chosen = np.flatnonzero(whole)[np.argsort(turn[whole], kind="stable")]
    return order[chosen], np.maximum.accumulate(losses[chosen])


def _through(losses: Floats, counts: Sequence[int], errors: Sequence[float]) -> Floats:
    """Losses [m] that never fall, brought to these errors after so many channels; in proportion between them."""
    result = np.full(len(losses), errors[-1])
    before = np.concatenate([[0.0], losses])
    for start, end, low, high in zip(counts, counts[1:], errors, errors[1:], strict=False):
        part = before[start : end + 1] - before[start]
        share = part / part[-1] if part[-1] > 0 else np.linspace(0, 1, len(part))
        result[start:end] = (low + (high - low) * share)[1:]
    return result
