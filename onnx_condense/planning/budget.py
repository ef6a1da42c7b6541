"""Budgets on a traced model: what each group's consumers lose as it narrows, what a channel costs, and the twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnx_condense.arrays import Bools, Floats, Ints
from onnx_condense.errors import VerificationError
from onnx_condense.merging.deciding import chosen
from onnx_condense.merging.paths import Path, by_channel, paths
from onnx_condense.merging.twin import Twin
from onnx_condense.merging.widths import widths_allowed
from onnx_condense.model.inputs import Feed
from onnx_condense.planning.allocation import Curve, Part, allocate, cost
from onnx_condense.planning.thresholds import STAYS, Builder
from onnx_condense.proving.compare import Results, compare, results
from onnx_condense.refitting.consumer import site_of
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.moments import eliminate
from onnx_condense.refitting.refit import STRENGTH, refit_by_moments
from onnx_condense.rewriting.checks import check_shapes, check_size
from onnx_condense.rewriting.kept import Disagreement
from onnx_condense.rewriting.writer import write
from onnx_condense.tracing.labels import atoms_of, occurrence
from onnx_condense.tracing.trace import Group

PROBES = (0.25, 0.5, 0.75, 1.0)
"""Shares of a group's channels whose removal shows how much the outputs mind what is lost."""

FELT = 1e-4
"""Relative error of the outputs that counts as felt: many networks hold channels that nobody needs."""

LEAST = 0.1
"""On inputs that are not real, losing all that a group's consumers read counts as at least this squared relative error:
they may leave a layer idle that real ones need."""

TINY = float(np.finfo(float).tiny)

CORRECTIONS = 8
"""Times that the limit is corrected by what the parts do not count: constants that no slot holds, biases that come."""

CLOSE = 0.01
"""How far below the target a result may stay, as a share of the original, where widths allow it."""


class Pruner:
    """Narrows the groups of a builder to a share of the original's size.

    Args:
        estimate: moments of what consumers read; not of the feeds themselves, or what they lose would look less than
            it is.
        unit: "params" or "macs". measure: how many of them a twin has.
        feeds: inputs on which the sensitivity of the outputs is measured.
        progress: called with the name of each stage.
    """

    def __init__(
        self,
        builder: Builder,
        estimate: Estimate,
        unit: str,
        measure: Callable[[Twin], int],
        feeds: Sequence[Feed],
        progress: Callable[[str], None],
    ) -> None:
        self.builder = builder
        self.trace = builder.trace
        self.before = measure(builder.original)
        self._estimate, self._measure = estimate, measure
        self._feeds = feeds
        self._parts = self._priced(unit)
        self._curves = self._measured(results(write(builder.original, {}).model, feeds), progress)

    def fit(self, share: float, finish: Callable[[Twin], None]) -> Twin:
        """The twin that keeps at most this share after `finish`.

        Raises VerificationError where widths do not get that narrow, naming what can be reached.
        """
        target, spare = share * self.before, 0.0
        for _ in range(CORRECTIONS):
            twin, narrow = self.at((target - spare) / self.before)
            found = narrow
            if narrow > target:
                break
            finish(twin)
            found = self._measure(twin)
            if found <= target:
                return twin
            spare = max(found - narrow, spare + found - target)  # biases that `finish` gave to consumers without one
        raise VerificationError(
            f"--budget cannot be met: the smallest that can be reached is {found / self.before:.3f}; nothing is "
            "written; ask for more, or align less (--align 1)"
        )

    def loosened(self, reached: Twin) -> Twin:
        """A twin that was reached, each group as wide as the builder's multiple for it asks for by now."""
        gone: dict[int, Ints] = {}
        for group in self.builder.groups:
            multiple = self.builder.multiples[group.index]
            if group.index not in reached.plans or multiple == STAYS:
                continue
            steps = self._curves[group.index].steps
            count = len(group.units) - len(reached.plans[group.index].keep)
            if multiple != self.builder.align:
                count = int(np.intersect1d(steps, widths_allowed(self.trace, group, multiple, count)).max(initial=0))
            if count:
                gone[group.index] = self._curves[group.index].order[:count]
        return self.twin(gone)

    def at(self, share: float) -> tuple[Twin, int]:
        """The twin that keeps at most this share, or the narrowest that there is; and how large it is."""
        while True:
            free = {index: curve for index, curve in self._curves.items() if index not in self.builder.stay}
            try:
                return self._nearest(free, share * self.before)
            except Disagreement as problem:
                self.builder.set_aside(problem)

    def _nearest(self, curves: dict[int, Curve], target: float) -> tuple[Twin, int]:
        best: tuple[Twin, int] | None = None
        unpriced = self.before - cost(self._parts, {})
        for _ in range(CORRECTIONS):
            limit = target - unpriced
            removed = allocate(curves, self._parts, limit, CLOSE * self.before)
            twin, found = self._sized(curves, removed)
            priced = cost(self._parts, removed)
            if found <= target and (best is None or found > best[1]):
                best = twin, found
            if priced > limit:  # no group can give more
                return best or (twin, found)
            if target - CLOSE * self.before <= found <= target or found - priced == unpriced:
                break
            unpriced = found - priced
        return best or self._sized(curves, allocate(curves, self._parts, 0.0))

    def _sized(self, curves: dict[int, Curve], removed: dict[int, int]) -> tuple[Twin, int]:
        twin = self.twin({g: curves[g].order[:count] for g, count in removed.items() if count})
        return twin, self._measure(twin)

    def twin(self, gone: dict[int, Ints]) -> Twin:
        """The twin without these channels, consumers refitted. Raises Disagreement where shapes do not work out."""
        twin = self._narrowed(gone)
        if self.builder.refine is not None:
            self.builder.refine(twin)
        return twin

    def _narrowed(self, gone: dict[int, Ints]) -> Twin:
        twin = Twin(self.trace)
        for group in self.builder.groups:
            if group.index in gone:
                keep = np.setdiff1d(np.arange(len(group.units)), gone[group.index])
                twin.apply(group, chosen(self.builder.judged(group), self.trace, keep, self.builder.options.depthwise))
        check_shapes(twin)
        check_size(twin)
        return twin

    # ---- curves

    def _measured(self, expected: Results, progress: Callable[[str], None]) -> dict[int, Curve]:
        """What the groups lose as they narrow; without those whose channels cannot be removed unevenly."""
        groups = [group for group in self.builder.groups if group.index not in self.builder.quantized]
        sites = [s for g in groups for p in paths(self.trace, g) if (s := site_of(self.trace, p.slot)) is not None]
        self._estimate.moments(list({s.slot.node: s for s in sites}.values()))
        curves = {}
        for number, group in enumerate(groups, 1):
            progress(f"plan {number}/{len(groups)}: {group.layers[0]}")
            readers = self._readers(group)
            order, losses = eliminate(readers, STRENGTH)
            last = self._last(group, order)
            order, losses = _evened(group, order[~last], losses[~last])
            steps = widths_allowed(self.trace, group, self.builder.align, len(order))
            if not len(steps):
                continue
            try:
                errors = self._weighed(group, Curve(order, losses, steps), expected)
            except Disagreement as problem:
                self.builder.stay.add(group.index)
                self.builder.uneven.append(problem.name)
                continue
            curves[group.index] = Curve(order, errors, steps)
        return curves

    def _weighed(self, group: Group, curve: Curve, expected: Results) -> Floats:
        """[m] the squared relative error of the outputs after each channel, from what its consumers lose.

        On real inputs through every probe; on others in proportion to the first probe that is felt.
        """
        real = self._estimate.real is not None
        each = curve.losses / max(float(curve.losses[-1]), TINY)
        counts, errors = [0], [0.0]
        for probe in PROBES:
            at = int(np.searchsorted(curve.steps, probe * len(group.units)))
            count = int(curve.steps[min(len(curve.steps) - 1, at)])
            error = self._error(group, curve.order[:count], expected)
            if not real and error > FELT and each[count - 1] > 0:
                return np.asarray(each * max(error**2 / each[count - 1], LEAST))
            if count > counts[-1]:
                counts.append(count)
                errors.append(max(error**2, errors[-1]))
        return each * FELT**2 + _through(curve.losses, counts, errors) if real else each * LEAST

    def _error(self, group: Group, gone: Ints, expected: Results) -> float:
        """The relative error of the outputs without these channels."""
        twin = self._narrowed({group.index: gone})
        if self.builder.options.refits:
            refit_by_moments(twin, self._estimate)
        return compare(expected, results(write(twin, {}).model, self._feeds)).error

    def _last(self, group: Group, order: Ints) -> Bools:
        """Which places of the order hold the last channel of a cell, which stays."""
        where = np.argsort(order)
        last = np.zeros(len(order), dtype=bool)
        for cell in group.cells:
            last[where[cell].max()] = True
        return last

    def _readers(self, group: Group) -> list[tuple[Floats, Floats]]:
        """Per consumer path: the covariance of the channels, and the Gram matrix of its weight."""
        mine = list(paths(self.trace, group))
        nobody = np.eye(len(group.units)), np.zeros((len(group.units), len(group.units)))
        return [(self._covariance(group, path), self._gram(group, path)) for path in mine] or [nobody]

    def _covariance(self, group: Group, path: Path) -> Floats:
        n = len(group.units)
        site = site_of(self.trace, path.slot)
        if site is None:
            return np.eye(n)
        (moments,) = self._estimate.moments([site])
        if moments is None:
            return np.eye(n)
        result = np.zeros((n, n))
        for rank in np.unique(path.rank).tolist():
            here = path.rank == rank
            places, units = path.places[here], path.units[here]
            for tap in range(site.taps):
                features = places * site.taps + tap
                result[np.ix_(units, units)] += moments.xx[np.ix_(features, features)] / site.taps
        return result

    def _gram(self, group: Group, path: Path) -> Floats:
        slot = path.slot
        slices = by_channel(self.builder.original.weight(slot.node, slot.input), slot.axes, slot.groups)
        rows = slices.reshape(len(slices), -1).T.astype(np.float64)
        result = np.zeros((len(group.units), len(group.units)))
        for rank in np.unique(path.rank).tolist():
            here = path.rank == rank
            columns = rows[:, path.places[here]]
            result[np.ix_(path.units[here], path.units[here])] += columns.T @ columns
        return result

    # ---- costs

    def _priced(self, unit: str) -> list[Part]:
        """Every weight that holds channels: its price per element, and which group slices which of its axes."""
        index = np.full(len(self.trace.unit_of), -1, dtype=np.int64)
        for group in self.builder.groups:
            index[group.units] = group.index
        parts: dict[tuple[int, int] | str, Part] = {}
        for slot in self.trace.slots:
            node = self.trace.facts.nodes[slot.node]
            name = node.inputs[slot.input].name
            value = self.trace.facts.value_by_name(name)
            price = self._price(slot.node, slot.input, unit)
            if value is None or not price:
                continue
            key: tuple[int, int] | str = name if unit == "params" else (slot.node, slot.input)
            part = parts.get(key, Part(price, value.shape, ()))
            atoms = atoms_of(slot.labels.reshape(-1))
            owners = np.where(atoms >= 0, index[self.trace.unit_of[atoms]], -1)
            for owner in np.unique(owners[owners >= 0]).tolist():
                units = next(len(g.units) for g in self.builder.groups if g.index == owner)
                axis = self.trace.balance.cut(slot.labels)[1]
                lines = slot.groups if slot.axes == (1,) else slot.labels.size // slot.labels.shape[axis]
                piece = axis - slot.labels.ndim, owner, int((owners == owner).sum()) / units / lines
                if piece not in part.slices:
                    part = Part(price, part.sizes, (*part.slices, piece))
            parts[key] = part
        return list(parts.values())

    def _price(self, index: int, position: int, unit: str) -> float:
        """What an element of a weight costs: 1 (running statistics: 0), or how often it is multiplied."""
        action = self.trace.actions[index]
        if unit == "params":
            return 0.0 if position in action.statistics else 1.0
        inputs, output = self.trace.shapes_at(index)
        return float(action.multiplications(position, inputs, output))


def _evened(group: Group, order: Ints, losses: Floats) -> tuple[Ints, Floats]:
    """The order with channels of all lines in turn, and what has been lost after each, never falling."""
    losses = np.maximum.accumulate(losses)
    if not group.partitions:
        return order, losses
    line_of = np.zeros(len(group.units), dtype=np.int64)
    for part in group.partitions:
        line_of[part.units] = line_of[part.units] * len(part.units) + part.lines
    turn = occurrence(line_of[order])
    _, counts = np.unique(line_of[order], return_counts=True)
    whole = turn < counts.min(initial=len(order))
    chosen_order = np.flatnonzero(whole)[np.argsort(turn[whole], kind="stable")]
    return order[chosen_order], np.maximum.accumulate(losses[chosen_order])


def _through(losses: Floats, counts: Sequence[int], errors: Sequence[float]) -> Floats:
    """Losses that never fall, brought to these errors after so many channels; in proportion between them."""
    result = np.full(len(losses), errors[-1])
    before = np.concatenate([[0.0], losses])
    for start, end, low, high in zip(counts, counts[1:], errors, errors[1:], strict=False):
        part = before[start : end + 1] - before[start]
        share = part / part[-1] if part[-1] > 0 else np.linspace(0, 1, len(part))
        result[start:end] = (low + (high - low) * share)[1:]
    return result
