"""The weights of the expanded twin: original shapes, with every merge so far folded into the consumers.

Everything later is a view of this twin: similarity in the paper's order judges it, the twin is written from it, and
the small model is its slice. Removed columns are zero in it, removed rows stay (nobody reads them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from onnx_condense.arrays import Array, Bools, Floats, Ints
from onnx_condense.merging.factors import Factor
from onnx_condense.merging.mixing import Blend, Mix, Mixed, lines_of, mixed
from onnx_condense.merging.paths import Path, by_channel, from_channels, paths, paths_at
from onnx_condense.merging.plan import GroupPlan, Read, Refit
from onnx_condense.model.storage import Narrowed, Quantized
from onnx_condense.operators.actions import Contraction
from onnx_condense.operators.answers import Role
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Group, Slot, Trace

Key = TypeVar("Key")
T = TypeVar("T")

Folds = tuple[
    dict[tuple[int, int], Array],
    dict[int, Floats],
    dict[tuple[int, int], Refit],
    dict[int, Mixed],
    dict[tuple[int, int], Factor],
]


@dataclass(frozen=True, eq=False)
class Turn:
    """Rows of a weight, or shifts, that are added to others, and gone then (see `_moved`). group: its index."""

    group: int
    slot: Slot
    places: Ints
    targets: Ints
    sources: Ints
    ratio: Floats

    def of(self, value: Array) -> Array:
        """The weight, or the shifts of a producer's rows, [rows]."""
        axes = self.slot.axes if value.ndim > 1 else (0,)
        turned = _moved(by_channel(value, axes), self.places, self.targets, self.sources, self.ratio)
        return from_channels(turned, axes, value.shape)


FOLDED_AT_ONCE = 256
"""Rows of a consumer that are folded at once."""


class Twin:
    """What the twin's weights are, given the merges applied so far.

    Attributes:
        alive: [units] which channels are still there.
        folded: (node, input) -> the weight with merges of what it reads folded in, where there are any.
        shift: node -> [produced] what those add to the bias.
        turns: (node, input) -> what becomes of its rows beyond that, because of merges in products of data.
        plans: group index -> what happened to the group.
        refits: (node, input) -> the explicit weights given.
        factors: (node, input) -> the basis in which what the weight makes is rebuilt.
        mixes: group index -> what products of data take up of its channels, in the place of `turns`.
        exact: merges among those applied that lose nothing.
    """

    def __init__(self, trace: Trace) -> None:
        """The weights as they are in the model."""
        self.trace = trace
        self.alive = np.ones(len(trace.unit_of), dtype=bool)
        self.folded: dict[tuple[int, int], Array] = {}
        self.shift: dict[int, Floats] = {}
        self.turns: dict[tuple[int, int], list[Turn]] = {}
        self.plans: dict[int, GroupPlan] = {}
        self.refits: dict[tuple[int, int], Refit] = {}
        self.factors: dict[tuple[int, int], Factor] = {}
        self.mixes: dict[int, Mixed] = {}
        self.exact: list[tuple[Group, GroupPlan]] = []
        self._exact_at: dict[tuple[int, int], list[tuple[Group, GroupPlan]]] = {}

    # ---- what there is

    def weight(self, node: int, position: int) -> Array:
        """The value of a weight input in its original shape, merges folded in."""
        return self._turned((node, position), self.unturned(node, position))

    def _turned(self, place: tuple[int, int], value: Array) -> Array:
        """A weight, or the shifts of its rows, as products of data have changed it."""
        for change in self.turning(place):
            value = change.of(value)
        return value

    def turning(self, place: tuple[int, int]) -> list[Turn | Blend]:
        """What products of data do to the rows of a weight at (node, input), and to what is added to what it makes."""
        turns = [turn for turn in self.turns.get(place, ()) if turn.group not in self.mixes]
        return [*turns, *(blend for mix in self.mixes.values() for blend in mix.blends.get(place, ()))]

    def is_turned(self, place: tuple[int, int]) -> bool:
        """Whether products of data have changed the rows of a weight at (node, input)."""
        return place in self.turns or any(place in mix.blends for mix in self.mixes.values())

    def unturned(self, node: int, position: int) -> Array:
        """As `weight`, of the same shape, as if products of data had lost nothing."""
        key = node, position
        if key in self.folded:
            return self.folded[key]
        value = self.trace.facts.value(self.trace.facts.nodes[node].inputs[position])
        assert value is not None
        return value

    def added(self, node: int) -> Floats | None:
        """[produced] what is added to the bias of a linear map, None for nothing."""
        shift, action = self.shift.get(node), self.trace.linear_map(node)
        return shift if shift is None or action is None else self._turned((node, action.weight), shift)

    @property
    def rewritten(self) -> dict[tuple[int, int], Array]:
        """(node, input) -> the weights in their original shapes that are others than the model's."""
        return {place: self.weight(*place) for place in self.changed_places}

    @property
    def changed_places(self) -> tuple[tuple[int, int], ...]:
        """(node, input) of those."""
        blended = (place for mix in self.mixes.values() for place in mix.blends)
        return tuple(dict.fromkeys((*self.folded, *self.turns, *blended)))

    def stored(self, node: int, position: int) -> Quantized | Narrowed | None:
        """How a weight input is stored, None where it is stored as it is used."""
        return self.trace.facts.stored(self.trace.facts.nodes[node].inputs[position].name)

    def wide(self, node: int, position: int) -> Floats:
        """As `weight`, of the same shape, in float64; a quantized one free of rounding."""
        stored, value = self.stored(node, position), self.weight(node, position)
        return value.astype(np.float64) if stored is None else stored.wide(value)

    def kept(self, group: Group) -> Ints:
        """[k] indices of the group's channels that are still there."""
        return np.flatnonzero(self.alive[group.units])

    def reads(self, slot: Slot) -> Bools:
        """[places]: which places of a contracted axis hold a channel that is still there."""
        atoms = atoms_of(slot.labels.reshape(-1))
        return np.asarray((atoms < 0) | self.alive[self.trace.unit_of[atoms]])

    def alive_at(self, node: int, position: int) -> Bools:
        """[n] which channels are still there of an input that holds numbers of each alone."""
        for slot in self.trace.slots_at(node):
            if (slot.input, slot.role) == (position, Role.CARRIED):
                return self.reads(slot)
        value = self.trace.facts.value(self.trace.facts.nodes[node].inputs[position])
        assert value is not None
        return np.ones(len(value), dtype=bool)

    @property
    def widths(self) -> tuple[tuple[int, int], ...]:
        """(group, channels that stay) of every group that lost channels."""
        return tuple((index, len(plan.keep)) for index, plan in sorted(self.plans.items()))

    @property
    def ranks(self) -> tuple[tuple[int, ...], ...]:
        """(node, input, ranks) of every weight that became a pair of factors."""
        return tuple((*place, *factor.ranks) for place, factor in sorted(self.factors.items()))

    @property
    def changed(self) -> bool:
        """Whether it is another than the original."""
        return bool(self.plans or self.factors)

    def kept_as(self, other: Twin) -> bool:
        """Whether the same channels stay in both, and as many directions of pairs of factors."""
        return bool((self.alive == other.alive).all()) and self.ranks == other.ranks

    def exactly(self, node: int, position: int) -> Twin:
        """The twin of the exact merges alone, as far as one weight reads their channels."""
        twin = Twin(self.trace)
        for group, plan in self._exact_at.get((node, position), ()):
            twin.apply(group, plan)
        return twin

    def folds(self) -> Folds:
        """What has been folded into consumers so far."""
        return dict(self.folded), dict(self.shift), dict(self.refits), dict(self.mixes), dict(self.factors)

    # ---- what is done to it

    def refold(self, folds: Folds) -> None:
        """Goes back to what `folds` gave."""
        self.folded, self.shift, self.refits, self.mixes, self.factors = folds

    def fold_as(self, other: Twin, until: int) -> None:
        """Nodes before one get what another twin, which kept the same, has folded into them; so do products of data."""

        def early(place: tuple[int, int]) -> bool:
            return place[0] < until

        folded = _joined(other.folded, self.folded, early)
        shift = _joined(other.shift, self.shift, lambda node: node < until)
        refits, factors = _joined(other.refits, self.refits, early), _joined(other.factors, self.factors, early)
        self.refold((folded, shift, refits, dict(other.mixes), factors))

    def apply(self, group: Group, plan: GroupPlan) -> None:
        """Folds a group's merges into its consumers."""
        main = np.array(plan.main)
        gone = (main != np.arange(len(main))) & self.alive[group.units]
        reads = {(r.node, r.input, r.path): r for r in plan.reads}
        for path in paths_at(self.trace, group, (place[:2] for place in reads)):
            read = reads.get((path.slot.node, path.slot.input, path.number))
            leaving = np.flatnonzero(gone[path.units])
            if read is None or not len(leaving):
                continue
            self._fold(group, path, leaving, main, np.array(read.ratio), np.array(read.constant))
        self.alive[group.units[gone]] = False
        earlier = self.plans.get(group.index)
        self.plans[group.index] = plan if earlier is None else earlier.then(plan)

    def apply_exactly(self, group: Group, plan: GroupPlan) -> None:
        """As `apply`, of merges that lose nothing: refits make up for others."""
        self.apply(group, plan)
        self.exact.append((group, plan))
        reads: dict[tuple[int, int], list[Read]] = {}
        for read in plan.reads:
            reads.setdefault((read.node, read.input), []).append(read)
        for place, mine in reads.items():
            self._exact_at.setdefault(place, []).append((group, replace(plan, reads=tuple(mine))))

    def refit(self, refit: Refit) -> None:
        """Gives a consumer explicit weights. Raises ValueError where they do not fit it."""
        action = self.trace.actions.get(refit.node)
        if action is None or refit.input >= len(self.trace.facts.nodes[refit.node].inputs):
            raise ValueError(f"{refit.layer} has no such weight")
        if refit.input in action.of_channels:
            self._restate(refit)
            return
        slot = self.trace.reading(refit.node, refit.input)
        if slot is None:
            raise ValueError(f"{refit.layer} reads no channels")
        weight, kept = self.unturned(slot.node, slot.input), self.reads(slot)
        columns = np.moveaxis(np.zeros_like(weight), slot.axis, 0)
        given = np.moveaxis(refit.weight, slot.axis, 0) if refit.weight.ndim == weight.ndim else refit.weight
        apart = kept.size != len(columns)
        if given.shape != (len(columns) if apart else int(kept.sum()), *columns.shape[1:]):
            raise ValueError(f"the weights of {refit.layer} have another shape")
        if apart:
            lines = np.moveaxis(kept.reshape(slot.labels.shape), slot.axis, 0)
            columns = np.where(lines, given, 0).astype(weight.dtype)
        else:
            columns[kept] = given.astype(weight.dtype)
        if refit.shift.size:
            action = self.trace.linear_map(slot.node)
            assert action is not None
            if refit.shift.shape != (weight.shape[action.axis(Role.PRODUCED)],):
                raise ValueError(f"the bias of {refit.layer} has another length")
            self.shift[slot.node] = refit.shift.astype(np.float64)
        place = slot.node, slot.input
        whole, factor = np.moveaxis(columns, 0, slot.axis), self.factors.get(place)
        self.folded[place] = whole if factor is None else factor.product(whole, self.produced_axis(slot.node))
        self.refits[place] = refit

    def _restate(self, refit: Refit) -> None:
        """Gives channels that are still there numbers of their own."""
        inputs = self.trace.facts.nodes[refit.node].inputs
        if self.trace.facts.value(inputs[refit.input]) is None or refit.shift.size:
            raise ValueError(f"{refit.layer} has no such numbers")
        value, alive = self.unturned(refit.node, refit.input).copy(), self.alive_at(refit.node, refit.input)
        if refit.weight.shape != (int(alive.sum()), *value.shape[1:]):
            raise ValueError(f"the numbers of {refit.layer} have another shape")
        value[alive] = refit.weight
        self.folded[refit.node, refit.input] = value
        self.refits[refit.node, refit.input] = refit

    def factor(self, factor: Factor, counted: bool = False) -> None:
        """Makes a weight a pair of factors. Raises ValueError where they do not fit it.

        Merges of what it reads and refits come before or after, as a basis of what it makes does not mind. counted:
        nothing but sizes is asked of this twin.
        """
        action = self.trace.linear_map(factor.node)
        if action is None or action.weight != factor.input or action.groups > 1:
            raise ValueError(f"{factor.layer} is no linear map of one weight")
        weight, axis = self.weight(factor.node, factor.input), self.produced_axis(factor.node)
        if len(factor.basis) != weight.shape[axis]:
            raise ValueError(f"the basis of {factor.layer} has another length")
        if factor.bands is not None and not (action.lookup and factor.bands.fit(factor.rank, len(weight))):
            raise ValueError(f"the frequent rows of {factor.layer} are none of a table")
        if not counted:
            self.folded[factor.node, factor.input] = factor.product(weight, axis)
        self.factors[factor.node, factor.input] = factor

    def produced_axis(self, node: int) -> int:
        """The axis of a linear map's weight along which its outputs lie."""
        action = self.trace.linear_map(node)
        assert action is not None
        return action.axis(Role.PRODUCED)

    def mix(self, mix: Mix) -> None:
        """Lets products of data take up channels of a group that go otherwise. Raises ValueError if it does not fit."""
        group = next((g for g in self.trace.groups if g.index == mix.group), None)
        plan = self.plans.get(mix.group)
        if group is None or plan is None or mix.matrix.shape[0] != plan.width - len(plan.keep):
            raise ValueError("what products of data take up has other channels")
        mine = [path for path in paths(self.trace, group) if path.side >= 0]
        self.mixes[mix.group] = mixed(mine, mix, lines_of(self.trace, group), np.array(plan.keep))

    def _fold(self, group: Group, path: Path, leaving: Ints, main: Ints, ratio: Floats, constant: Floats) -> None:
        """Adds the columns at the places `leaving` [k] of a path to those of their main channels.

        `main`, `ratio` and `constant`: [n], of every channel of the group.
        """
        slot = path.slot
        place_of = {
            (u, r): p for u, r, p in zip(path.units.tolist(), path.rank.tolist(), path.places.tolist(), strict=True)
        }
        units, places = path.units[leaving], path.places[leaving]
        merged = main[units] >= 0
        targets = [
            place_of[m, r]
            for m, r in zip(main[units[merged]].tolist(), path.rank[leaving][merged].tolist(), strict=True)
        ]
        turn = Turn(group.index, slot, places, np.array(targets, dtype=np.int64), places[merged], ratio[units[merged]])
        if slot.role is Role.PAIRED:
            self.turns.setdefault((slot.node, slot.input), []).append(turn)
        else:
            self._fold_columns(turn, constant[units])

    def _fold_columns(self, turn: Turn, constant: Floats) -> None:
        """Moves columns; `constant` [k]: the constant parts of the channels that they belong to."""
        slot = turn.slot
        weight, stored = self.unturned(slot.node, slot.input), self.stored(slot.node, slot.input)
        wide = weight if stored is None else stored.wide(weight)
        columns = by_channel(wide, slot.axes, slot.groups)
        if constant.any():
            self._add_constant(slot, columns[turn.places].astype(np.float64), turn.places, constant)
        columns = _moved(columns, turn.places, turn.targets, turn.sources, turn.ratio)
        folded = from_channels(columns, slot.axes, weight.shape, slot.groups)
        if stored is not None:
            folded = stored.rounded(folded)
        self.folded[slot.node, slot.input] = folded.astype(weight.dtype, copy=False)

    def _add_constant(self, slot: Slot, columns: Floats, places: Ints, constant: Floats) -> None:
        """Adds W · c, of constant parts c [k] of removed channels, to the consumer's bias."""
        action = self.trace.linear_map(slot.node)
        if action is not None:
            shift = shift_of(slot, action, columns, places, constant)
            self.shift[slot.node] = self.shift.get(slot.node, 0.0) + shift


def _joined(some: Mapping[Key, T], rest: Mapping[Key, T], taken: Callable[[Key], bool]) -> dict[Key, T]:
    """What is taken of some, beside what is not of the rest."""
    return {key: one for key, one in some.items() if taken(key)} | {k: one for k, one in rest.items() if not taken(k)}


def _moved(columns: Array, places: Ints, targets: Ints, sources: Ints, ratio: Floats) -> Array:
    """[n, ...]: columns of a type, of which those at `places` [k] are zero now, in a new array.

    Those at `sources` [m] were added before to those at `targets` [m], times `ratio` [m], in float64.
    """
    found = columns.copy(order="K")
    whole = found if found.ndim > 1 else found[:, None]
    touched, into = np.unique(targets, return_inverse=True)
    for start in range(0, whole.shape[1], FOLDED_AT_ONCE):
        part = whole[:, start : start + FOLDED_AT_ONCE]
        wide = part[touched].astype(np.float64)
        spread = (1,) * (wide.ndim - 1)
        np.add.at(wide, into, ratio.reshape(-1, *spread) * part[sources].astype(np.float64))
        part[touched] = wide.astype(found.dtype)
        part[places] = 0
    return found


def shift_of(slot: Slot, action: Contraction, columns: Floats, places: Ints, constant: Floats) -> Floats:
    """[outputs]: what constants [k] of channels with these columns [k, ...] at places [k] add to the outputs."""
    produced = action.axis(Role.PRODUCED)
    behind = produced + 1 if produced < slot.axis else produced
    totals = np.moveaxis(columns, behind, 1).reshape(len(places), columns.shape[behind], -1).sum(-1)
    totals = action.alpha / max(1, action.scattered) * constant[:, None] * totals
    shift = np.zeros((action.groups, totals.shape[1]))
    np.add.at(shift, places * action.groups // slot.labels.size, totals)
    return shift.reshape(-1)
