"""The weights of the expanded twin: original shapes, with every merge so far folded into the consumers.

Everything later is a view of this twin: similarity in the paper's order judges it, the twin is written from it, and
the small model is its slice. Removed columns are zero in it, removed rows stay (nobody reads them).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_condense.algebra.numbers import Weights
from onnx_condense.arrays import Array, Bools, Floats, Ints
from onnx_condense.merging.paths import Path, by_channel, from_channels, paths
from onnx_condense.merging.plan import GroupPlan, Refit
from onnx_condense.model.storage import Narrowed, Quantized
from onnx_condense.operators.actions import Contraction, Role
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Group, Slot, Trace

Folds = tuple[dict[tuple[int, int], Array], dict[int, Floats], dict[tuple[int, int], Refit]]


class Twin(Weights):
    """What the twin's weights are, given the merges applied so far."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.alive = np.ones(len(trace.unit_of), dtype=bool)
        self.folded: dict[tuple[int, int], Array] = {}
        self.shift: dict[int, Floats] = {}
        self.plans: dict[int, GroupPlan] = {}
        self.refits: dict[tuple[int, int], Refit] = {}

    def weight(self, node: int, position: int) -> Array:
        """The value of a weight input, merges folded in."""
        key = node, position
        if key in self.folded:
            return self.folded[key]
        value = self.trace.facts.value(self.trace.facts.nodes[node].inputs[position])
        assert value is not None
        return value

    def stored(self, node: int, position: int) -> Quantized | Narrowed | None:
        """How a weight input is stored, None where it is stored as it is used."""
        return self.trace.facts.stored(self.trace.facts.nodes[node].inputs[position].name)

    def wide(self, node: int, position: int) -> Floats:
        """The value of a weight input in float64; a quantized one free of rounding."""
        stored, value = self.stored(node, position), self.weight(node, position)
        return value.astype(np.float64) if stored is None else stored.wide(value)

    # ---- numbers for signals (see signals.Weights)

    def rows(self, node: int) -> Floats:
        action = self._contraction(node)
        weight = self.weight(node, action.weight)
        rows = by_channel(weight, (action.axis(Role.PRODUCED),), action.groups)
        rows = rows.reshape(len(rows), -1)
        wide: Floats = rows.astype(np.float32) if rows.dtype.itemsize < 4 else rows.view()
        return wide if action.alpha == 1 else wide * action.alpha

    def row_bias(self, node: int) -> Floats:
        action = self._contraction(node)
        bias = np.zeros(len(self.rows(node)))
        if action.bias is not None:
            bias = bias + action.beta * self.weight(node, action.bias).astype(np.float64).reshape(-1)
        return bias + self.shift.get(node, 0.0)

    def taps(self, node: int) -> Floats:
        weight = self.weight(node, 1)
        return weight.reshape(len(weight), -1).astype(np.float64)

    def tap_bias(self, node: int) -> Floats:
        inputs = self.trace.facts.nodes[node].inputs
        if len(inputs) > 2 and inputs[2].name:
            return self.weight(node, 2).astype(np.float64)
        return np.zeros(len(self.weight(node, 1)))

    def recurrence(self, node: int) -> tuple[Floats, Floats]:
        action = self.trace.actions[node].recurrent
        assert action is not None
        directions, _, units = self.weight(node, 2).shape
        blocks = [self._units(node, i, (directions, action.gates, units, -1)) for i in action.weights]
        if action.bias is not None:
            bias = self._units(node, action.bias, (directions, 2, action.gates, units))
            blocks.append(bias.sum(1)[..., None])
        gates = np.concatenate(blocks, -1)
        others = np.moveaxis(np.delete(gates, action.candidate, 1), 1, 2)
        candidate = [gates[:, action.candidate]]
        if action.bias is not None and action.apart:
            candidate.append(bias[:, 0, action.candidate, :, None])
        if action.peepholes is not None:
            peepholes = self._units(node, action.peepholes, (directions, 3, units))
            candidate.append(peepholes.swapaxes(1, 2))
        for position in action.states:
            candidate.append(self.weight(node, position).astype(np.float64).swapaxes(1, 2))
        count = directions * units
        return others.reshape(count, -1), np.concatenate(candidate, -1).reshape(count, -1)

    def _units(self, node: int, position: int, shape: tuple[int, ...]) -> Floats:
        return self.weight(node, position).astype(np.float64).reshape(shape)

    def _contraction(self, node: int) -> Contraction:
        action = self.trace.linear_map(node)
        assert action is not None
        return action

    # ---- merging

    def kept(self, group: Group) -> Ints:
        """Indices of the group's channels that are still there."""
        return np.flatnonzero(self.alive[group.units])

    def unread(self, group: Group, mine: list[Path]) -> Bools:
        """[n] where every consumer's columns of the channel are zero, but for rows of channels that are unread too."""
        result = np.ones(len(group.units), dtype=bool)
        while True:
            alive = self.alive.copy()
            alive[group.units[result]] = False
            found = np.ones_like(result)
            for path in mine:
                np.logical_and.at(found, path.units, ~self._columns(path, alive).any(axis=1))
            if np.array_equal(found, result) or not found.any():
                return found
            result = found

    def _columns(self, path: Path, alive: Bools) -> Floats:
        """[places, p]: what the consumer's alive rows multiply each place with; taps are rows of their own."""
        slot = path.slot
        weight = self.weight(slot.node, slot.input)
        own = self.trace.made.get((slot.node, slot.input))
        if own is not None:
            rows = by_channel(weight, own.axes, own.groups)
            stays = alive[self.trace.unit_of[atoms_of(own.labels.reshape(-1))]]
            rows = np.where(stays.reshape(-1, *[1] * (rows.ndim - 1)), rows, 0)
            weight = from_channels(rows, own.axes, weight.shape, own.groups)
        columns = by_channel(weight, slot.axes, slot.groups)[path.places]
        return columns.reshape(len(columns), -1)

    def apply(self, group: Group, plan: GroupPlan) -> None:
        """Folds a group's merges into its consumers."""
        main = np.array(plan.main)
        gone = (main != np.arange(len(main))) & self.alive[group.units]
        reads = {(r.node, r.input, r.path): r for r in plan.reads}
        for path in paths(self.trace, group):
            read = reads.get((path.slot.node, path.slot.input, path.number))
            leaving = np.flatnonzero(gone[path.units])
            if read is None or not len(leaving):
                continue
            self._fold(path, leaving, main, np.array(read.ratio), np.array(read.constant))
        self.alive[group.units[gone]] = False
        earlier = self.plans.get(group.index)
        self.plans[group.index] = plan if earlier is None else compose(earlier, plan)

    def folds(self) -> Folds:
        """What has been folded into consumers so far."""
        return dict(self.folded), dict(self.shift), dict(self.refits)

    def refold(self, folds: Folds) -> None:
        """Goes back to what `folds` gave."""
        self.folded, self.shift, self.refits = folds

    @property
    def widths(self) -> tuple[tuple[int, int], ...]:
        """(group, channels that stay) of every group that lost channels."""
        return tuple((index, len(plan.keep)) for index, plan in sorted(self.plans.items()))

    def reads(self, slot: Slot) -> Bools:
        """[places]: which places of a contracted axis hold a channel that is still there."""
        atoms = atoms_of(slot.labels.reshape(-1))
        return np.asarray((atoms < 0) | self.alive[self.trace.unit_of[atoms]])

    def refit(self, refit: Refit) -> None:
        """Gives a consumer explicit weights. Raises ValueError where they do not fit it."""
        slot = self.trace.reading(refit.node, refit.input)
        if slot is None:
            raise ValueError(f"{refit.layer} reads no channels")
        weight, kept = self.weight(slot.node, slot.input), self.reads(slot)
        columns = np.moveaxis(np.zeros_like(weight), slot.axis, 0)
        given = np.moveaxis(refit.weight, slot.axis, 0) if refit.weight.ndim == weight.ndim else refit.weight
        if given.shape != (int(kept.sum()), *columns.shape[1:]):
            raise ValueError(f"the weights of {refit.layer} have another shape")
        columns[kept] = given.astype(weight.dtype)
        self.folded[slot.node, slot.input] = np.moveaxis(columns, 0, slot.axis)
        if refit.shift.size:
            action = self._contraction(slot.node)
            if refit.shift.shape != (weight.shape[action.axis(Role.PRODUCED)],):
                raise ValueError(f"the bias of {refit.layer} has another length")
            self.shift[slot.node] = refit.shift.astype(np.float64)
        self.refits[slot.node, slot.input] = refit

    def _fold(self, path: Path, leaving: Ints, main: Ints, ratio: Floats, constant: Floats) -> None:
        slot = path.slot
        weight = self.weight(slot.node, slot.input)
        columns = by_channel(self.wide(slot.node, slot.input), slot.axes, slot.groups)
        place_of = {
            (u, r): p for u, r, p in zip(path.units.tolist(), path.rank.tolist(), path.places.tolist(), strict=True)
        }
        units, places = path.units[leaving], path.places[leaving]
        merged = main[units] >= 0
        targets = [
            place_of[m, r]
            for m, r in zip(main[units[merged]].tolist(), path.rank[leaving][merged].tolist(), strict=True)
        ]
        spread = (1,) * (columns.ndim - 1)
        np.add.at(columns, targets, ratio[units[merged]].reshape(-1, *spread) * columns[places[merged]])
        self._add_constant(slot, columns[places], places, constant[units])
        columns[places] = 0
        folded = from_channels(columns, slot.axes, weight.shape, slot.groups)
        stored = self.stored(slot.node, slot.input)
        if stored is not None:
            folded = stored.rounded(folded)
        self.folded[slot.node, slot.input] = folded.astype(weight.dtype)

    def _add_constant(self, slot: Slot, columns: Floats, places: Ints, constant: Floats) -> None:
        """b + W · c: what constant parts of removed channels add to the consumer's bias."""
        if not constant.any():
            return
        action = self.trace.linear_map(slot.node)
        if action is None:
            return
        shift = self.shift_of(slot, action, columns, places, constant)
        self.shift[slot.node] = self.shift.get(slot.node, 0.0) + shift

    def shift_of(self, slot: Slot, action: Contraction, columns: Floats, places: Ints, constant: Floats) -> Floats:
        """[outputs]: what constants [k] of channels with these columns [k, ...] at places [k] add to the outputs."""
        produced = action.axis(Role.PRODUCED)
        behind = produced + 1 if produced < slot.axis else produced
        totals = np.moveaxis(columns, behind, 1).reshape(len(places), columns.shape[behind], -1).sum(-1)
        totals = action.alpha / max(1, action.scattered) * constant[:, None] * totals
        shift = np.zeros((action.groups, totals.shape[1]))
        np.add.at(shift, places * action.groups // slot.labels.size, totals)
        return shift.reshape(-1)


def compose(first: GroupPlan, second: GroupPlan) -> GroupPlan:
    """Two plans for one group in a row as one: j -> m by the first, m -> k by the second."""
    one, two = np.array(first.main), np.array(second.main)
    step = np.where(one >= 0, two[one], -1)
    moved = (one >= 0) & (two[one] != one)
    cosine = np.where(moved, np.minimum(first.cosine, np.array(second.cosine)[one]), first.cosine)
    reads = []
    later = {(r.node, r.input, r.path): r for r in second.reads}
    for read in first.reads:
        then = later[read.node, read.input, read.path]
        ratio, constant = np.array(read.ratio), np.array(read.constant)
        outer, inner = np.array(then.ratio)[one], np.array(then.constant)[one]
        ratio, constant = np.where(moved, ratio * outer, ratio), np.where(moved, ratio * inner + constant, constant)
        reads.append(replace(read, ratio=tuple(ratio.tolist()), constant=tuple(constant.tolist())))
    return replace(second, main=tuple(step.tolist()), cosine=tuple(cosine.tolist()), reads=tuple(reads))
