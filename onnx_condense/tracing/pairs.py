"""Products of data: what must change for a channel to leave both factors.

A product adds up q_j · k_j over channels j. Where k_j = c · k_m, channel j can go once q_m becomes q_m + c · q_j: one
factor says what channels are of each other, the rows that make the other one take them up. So the *partners* of the
channels, the weights and shifts that make the other factor, are read like the columns of a consumer, through the
signals of the first. That needs a factor that is a linear function of its producer's rows, and that nothing else reads;
where that function differs by channel (positions rotate pairs), it must be the same for channels that merge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from onnx_condense.algebra.signals import (
    Activated,
    Affine,
    Combined,
    Mapped,
    Modulated,
    Pooled,
    Recurrence,
    Restricted,
    Rows,
    Shared,
    Signal,
)
from onnx_condense.arrays import Bools, Ints, Labels
from onnx_condense.model.storage import Quantized
from onnx_condense.operators.answers import Kind, Role
from onnx_condense.operators.between import Operation
from onnx_condense.tracing.labels import UnionFind, atoms_of, pack, signals_of
from onnx_condense.tracing.trace import Slot
from onnx_condense.tracing.walk import Walk

Leaves = tuple[Ints, Ints]
"""[n] atoms that a signal follows from as far as nothing restricts them, and [m] those under a restriction."""


def partners(walk: Walk) -> tuple[Slot, ...]:
    """The slots of partners, by the side that they make. Channels that have none stay."""
    if not walk.pairings:
        return ()
    sides = _Sides(walk)
    usable = sides.usable()
    for pairing in walk.pairings:
        stuck = ~usable[:, sides.unit_of[atoms_of(pairing.left)]].any(axis=0)
        walk.pin(pairing.left[stuck], pairing.because)
    return tuple(slot for side in (0, 1) for slot in sides.slots(side, usable[side]))


@dataclass(eq=False)
class _Sides:
    """The channels that products pair, each on one of two sides."""

    walk: Walk

    def __post_init__(self) -> None:
        self.unit_of = self.walk.sets.roots()
        self._side = _side_of(self.walk, len(self.unit_of))
        self._paired = np.zeros(len(self.unit_of), dtype=bool)
        self._paired[self.unit_of[self._side != NONE]] = True
        self._known: dict[Signal, Leaves] = {}
        self._carriers: dict[int, Signal | None] = {}
        for row in self._rows():  # of what is united on the way, one atom stands at its places
            for side, key, made in self._by_side(row):
                leaves = self._leaves(self.walk.signals[key], self.unit_of[atoms_of(made)])
                self._side[leaves[self._side[leaves] == NONE]] = side

    def _by_side(self, row: Labels) -> Iterator[tuple[int, int, Labels]]:
        """(side, signal, the labels of both) of [n] labels."""
        sides = self._side[atoms_of(row)]
        for key, where in _by_signal(row):
            for side in (0, 1):
                if (made := row[where & (sides == side)]).size:
                    yield side, key, made

    def _carried(self, signal: int) -> Signal | None:
        if signal not in self._carriers:
            self._carriers[signal] = _carried(self.walk, self.walk.signals[signal])
        return self._carriers[signal]

    def usable(self) -> Bools:
        """[2, units] for each side whether its rows may take up those of channels that go."""
        mixed = self.unit_of[self._side == BOTH]
        read = self._read_elsewhere()
        result = np.tile(self._paired, (2, 1))
        result[:, mixed] = False
        for side, key, made in (part for row in self._rows() for part in self._by_side(row)):
            units = self.unit_of[atoms_of(made)]
            leaves = self._leaves(self.walk.signals[key], units)
            fit = ~read[leaves] & (self._side[leaves] == side)
            if self._carried(key) is None:
                result[side, units] = False
            result[side, self.unit_of[leaves[~fit]]] = False
            result[side, units[~np.isin(atoms_of(made), leaves)]] = False
        for side in (0, 1):
            for slot, _, taken in self._held(side, result[side]):
                if taken is None:
                    result[side, self._units_of(slot, side)] = False
        return result

    def slots(self, side: int, usable: Bools) -> Iterator[Slot]:
        """Of a side, for the units [units] where that is usable."""
        signals, uneven = self._through(side, usable)
        for slot, labels, taken in self._held(side, usable):
            if not taken:
                continue
            atoms = atoms_of(labels)
            held = np.array([signals.get(atom, -1) for atom in atoms.reshape(-1).tolist()]).reshape(atoms.shape)
            marked = pack(np.where(held < 0, -1, atoms), held)
            even = not np.isin(held, uneven).any()
            yield Slot(slot.node, slot.input, Role.PAIRED, marked, slot.axis, padded=True, side=side, even=even)

    def _through(self, side: int, usable: Bools) -> tuple[dict[int, int], list[int]]:
        """Atom of a side -> the signal of all that it is multiplied with, and which of those are uneven."""
        met: dict[int, dict[tuple[int, int], None]] = {}
        for pairing in self.walk.pairings:
            for mine, other in ((pairing.left, pairing.right), (pairing.right, pairing.left)):
                chosen = (self._side[atoms_of(mine)] == side) & usable[self.unit_of[atoms_of(mine)]]
                for key, where in _by_signal(mine):
                    made = mine[where & chosen]
                    units = self.unit_of[atoms_of(made)]
                    leaves = self._leaves(self.walk.signals[key], units)
                    below: dict[int, list[int]] = {}
                    for leaf, unit in zip(leaves.tolist(), self.unit_of[leaves].tolist(), strict=True):
                        below.setdefault(unit, []).append(leaf)
                    for unit, signal in zip(units.tolist(), signals_of(other[where & chosen]).tolist(), strict=True):
                        for leaf in below[unit]:
                            met.setdefault(leaf, {})[signal, key] = None
        joint: dict[tuple[tuple[int, int], ...], int] = {}
        uneven = []
        for found in map(tuple, met.values()):
            if found not in joint:
                parts = [self._multiplied(*pair) for pair in found]
                alone = len(parts) == 1 and parts[0] is self.walk.signals[found[0][0]]
                joint[found] = found[0][0] if alone else self.walk.signal(reduce(_same_of_both, parts))
                if any(part is not self.walk.signals[other] for part, (other, _) in zip(parts, found, strict=True)):
                    uneven.append(joint[found])
        return {atom: joint[tuple(found)] for atom, found in met.items()}, uneven

    def _multiplied(self, other: int, own: int) -> Signal:
        """What a side is multiplied with, times what that multiplies its rows with where it differs by channel."""
        carried = self._carried(own)
        assert carried is not None
        signal = self.walk.signals[other]
        return signal if isinstance(carried, Shared) else Combined(Operation.MUL, signal, carried)

    def _held(self, side: int, usable: Bools) -> Iterator[tuple[Slot, Labels, bool | None]]:
        """(slot, its labels of usable units of a side, whether it takes up channels; None where it cannot)."""
        for slot in self.walk.slots:
            if slot.role is Role.CONTRACTED:
                continue
            atoms = atoms_of(slot.labels)
            mine = (atoms >= 0) & (self._side[atoms] == side) & usable[self.unit_of[atoms]]
            if mine.any():
                yield slot, np.where(mine, slot.labels, -1), _takes_up(self.walk, slot)

    def _units_of(self, slot: Slot, side: int) -> Ints:
        atoms = atoms_of(slot.labels[slot.labels >= 0])
        return np.unique(self.unit_of[atoms[self._side[atoms] == side]])

    def _rows(self) -> Iterator[Labels]:
        return (row for pairing in self.walk.pairings for row in (pairing.left, pairing.right))

    def _read_elsewhere(self) -> Bools:
        """[atoms] which are read by weights, too, or follow both factors of one product."""
        read = np.zeros(len(self.unit_of), dtype=bool)
        for slot in self.walk.slots:
            if slot.role is Role.CONTRACTED:
                row = slot.labels[slot.labels >= 0]
                row = row[self._paired[self.unit_of[atoms_of(row)]]]
                for key, where in _by_signal(row):
                    read[self._leaves(self.walk.signals[key], self.unit_of[atoms_of(row[where])])] = True
                read[atoms_of(row)] = True
        beside = np.zeros((2, len(self.unit_of)), dtype=bool)
        for side, key, made in (part for row in self._rows() for part in self._by_side(row)):
            beside[side, self._leaves(self.walk.signals[key], self.unit_of[atoms_of(made)])] = True
        return read | beside.all(axis=0)

    def _leaves(self, signal: Signal, units: Ints) -> Ints:
        """[k] the atoms of some units that a signal follows from."""
        waiting = [signal]
        while waiting:
            missing = [child for child in waiting[-1].below if child not in self._known]
            waiting += missing
            if not missing:
                made = waiting.pop()
                self._known[made] = self._leaves_of(made)
        leaves = np.concatenate(self._known[signal])
        return np.unique(leaves[np.isin(self.unit_of[leaves], units)])

    def _leaves_of(self, signal: Signal) -> Leaves:
        below = [self._known[child] for child in signal.below]
        free, bound = (np.unique(np.concatenate([_NO_ATOMS, *(part[i] for part in below)])) for i in (0, 1))
        match signal:
            case Rows(atoms=atoms) | Recurrence(atoms=atoms):
                return atoms[self._paired[self.unit_of[atoms]]], _NO_ATOMS
            case Restricted(atoms=atoms):
                return _NO_ATOMS, np.union1d(bound, free[np.isin(free, atoms)])
        return free, bound


NONE, BOTH = -1, 2
"""In the place of a side: no product pairs the atom, or it would be on both."""

DEEPEST = 64
"""Steps from a producer to a product, at most: what lies deeper is no longer looked at."""

_NO_ATOMS = np.zeros(0, dtype=np.int64)


def _side_of(walk: Walk, count: int) -> Ints:
    """[atoms] 0 or 1 so that a product pairs no two atoms of one side; NONE, BOTH."""
    sets = UnionFind()
    sets.grow(2 * count)
    result = np.full(count, NONE)
    for pairing in walk.pairings:
        left, right = atoms_of(pairing.left), atoms_of(pairing.right)
        sets.unite(2 * left, 2 * right + 1)
        sets.unite(2 * left + 1, 2 * right)
        result[left], result[right] = 0, 0
    roots = sets.roots()
    even, odd = roots[::2], roots[1::2]
    return np.where(result == NONE, NONE, np.where(even == odd, BOTH, (even > odd).astype(np.int64)))


def _by_signal(row: Labels) -> Iterator[tuple[int, Bools]]:
    """(signal, [n] where it stands) of [n] labels."""
    sources = signals_of(row)
    return ((key, sources == key) for key in np.unique(sources).tolist())


def _same_of_both(left: Signal, right: Signal) -> Signal:
    """A signal whose channels are related as those of both are."""
    return Combined(Operation.CHOOSE, left, right)


def _carried(walk: Walk, signal: Signal, deepest: int = DEEPEST) -> Signal | None:
    """What a signal multiplies its producers' rows with, as a signal of channels that all hold one; None if not linear.

    `Shared` alone where it is the same for all channels.
    """
    if not deepest:
        return None
    match signal:
        case Rows():
            return Shared() if _has_own_bias(walk, signal) else None
        case Restricted(child):
            inner = _carried(walk, child, deepest - 1)
            return inner if inner is None or isinstance(inner, Shared) else Restricted(inner, signal.atoms)
        case Modulated(child) | Mapped(child, biased=False) | Pooled(child, linear=True):
            return _carried(walk, child, deepest - 1)
        case Activated(child, action=action) if action.kind is Kind.LINEAR and not action.uniform_axes:
            return _carried(walk, child, deepest - 1)
        case Affine(child) if signal.stated is None and signal.scale.any():
            return _scaled(signal, _carried(walk, child, deepest - 1))
        case Combined(operation, one, other) if operation in (Operation.ADD, Operation.SUB):
            left, right = _carried(walk, one, deepest - 1), _carried(walk, other, deepest - 1)
            return None if left is None or right is None else Combined(operation, left, right)
    return None


def _scaled(signal: Affine, inner: Signal | None) -> Signal | None:
    """An affine of what is linear: what it adds differs by channel, or is nothing, and is scaled by nothing before."""
    even = isinstance(inner, Shared) and np.ptp(signal.scale, axis=0).max(initial=0) == 0
    if inner is None or (signal.shift.any() and not (even and np.ptp(signal.shift, axis=0).max(initial=0) > 0)):
        return None
    return inner if even else replace(signal, child=inner)


def _has_own_bias(walk: Walk, signal: Rows) -> bool:
    """Whether each row of a linear map without groups has a number of its bias, if that has one."""
    made = walk.actions[signal.node].linear_map
    if made is None or made.groups > 1:
        return False
    bias = None if made.bias is None else walk.facts.value(walk.facts.nodes[signal.node].inputs[made.bias])
    return bias is None or (bias.ndim > 0 and bias.shape[-1] == len(signal.atoms))


def _takes_up(walk: Walk, slot: Slot) -> bool | None:
    """Whether rows or shifts of channels that go can be added to others of a slot; None where they would have to be."""
    facts, tensor = walk.facts, walk.facts.nodes[slot.node].inputs[slot.input]
    action = walk.actions[slot.node]
    linear = action.linear_map
    if slot.role is Role.CARRIED and not (action.shifts or (linear is not None and linear.bias == slot.input)):
        return False
    value = facts.value(tensor)
    if value is None or value.ndim != slot.labels.ndim or isinstance(facts.stored(tensor.name), Quantized):
        return None
    return True if all(value.shape[axis] == slot.labels.shape[axis] for axis in slot.axes) else None
