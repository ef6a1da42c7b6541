"""Products of data: what must change for a channel to leave both factors.

A product adds up q_j · k_j over channels j. Where k_j = c · k_m, channel j can go once q_m becomes q_m + c · q_j: one
factor says what channels are of each other, the rows that make the other one take them up. So the *partners* of the
channels, the weights and shifts that make the other factor, are read like the columns of a consumer, through the
signals of the first. That needs a factor that is a linear function of its producer's rows, the same for all channels,
and that nothing else reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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

    def usable(self) -> Bools:
        """[2, units] for each side whether its rows may take up those of channels that go."""
        mixed = self.unit_of[self._side == BOTH]
        read = self._read_elsewhere()
        result = np.tile(self._paired, (2, 1))
        result[:, mixed] = False
        for row in self._rows():
            atoms, units = atoms_of(row), self.unit_of[atoms_of(row)]
            for side in (0, 1):
                mine = self._side[atoms] == side
                for key, where in _by_signal(row):
                    made = where & mine
                    if not made.any():
                        continue
                    leaves = self._leaves(self.walk.signals[key], units[made])
                    own = np.isin(leaves, atoms[made]) & ~read[leaves] & (self._side[leaves] == side)
                    if not _is_linear(self.walk, self.walk.signals[key]):
                        own[:] = False
                        result[side, units[made]] = False
                    result[side, self.unit_of[leaves[~own]]] = False
                    result[side, units[made & ~np.isin(atoms, leaves)]] = False
        for side in (0, 1):
            for slot, _, taken in self._held(side, result[side]):
                if taken is None:
                    result[side, self._units_of(slot, side)] = False
        return result

    def slots(self, side: int, usable: Bools) -> Iterator[Slot]:
        """Of a side, for the units [units] where that is usable."""
        signals = self._through(side, usable)
        for slot, labels, taken in self._held(side, usable):
            if not taken:
                continue
            atoms = atoms_of(labels)
            held = np.array([-1 if a < 0 else signals[a] for a in atoms.reshape(-1).tolist()], dtype=np.int64)
            marked = pack(np.where(held.reshape(atoms.shape) < 0, -1, atoms), held.reshape(atoms.shape))
            yield Slot(slot.node, slot.input, Role.PAIRED, marked, slot.axis, padded=True, side=side)

    def _through(self, side: int, usable: Bools) -> dict[int, int]:
        """Atom of a side -> the signal of all that it is multiplied with."""
        met: dict[int, dict[int, None]] = {}
        for pairing in self.walk.pairings:
            for mine, other in ((pairing.left, pairing.right), (pairing.right, pairing.left)):
                atoms = atoms_of(mine)
                chosen = (self._side[atoms] == side) & usable[self.unit_of[atoms]]
                for atom, signal in zip(atoms[chosen].tolist(), signals_of(other[chosen]).tolist(), strict=True):
                    met.setdefault(atom, {})[signal] = None
        joint: dict[tuple[int, ...], int] = {}
        for found in met.values():
            key = tuple(found)
            if key not in joint:
                signals = [self.walk.signals[number] for number in key]
                joint[key] = key[0] if len(key) == 1 else self.walk.signal(reduce(_same_of_both, signals))
        return {atom: joint[tuple(found)] for atom, found in met.items()}

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
        for row in self._rows():
            sides = self._side[atoms_of(row)]
            for key, where in _by_signal(row):
                for side in (0, 1):
                    made = where & (sides == side)
                    units = self.unit_of[atoms_of(row[made])]
                    beside[side, self._leaves(self.walk.signals[key], units)] = True
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


def _is_linear(walk: Walk, signal: Signal) -> bool:
    """Whether it is a linear function of its producer's rows and of shifts that slots hold, alike for all channels."""
    while not isinstance(signal, Rows):
        match signal:
            case Restricted(child) | Modulated(child) | Mapped(child, biased=False) | Pooled(child, linear=True):
                signal = child
            case Activated(child, action=action) if action.kind is Kind.LINEAR and not action.uniform_axes:
                signal = child
            case Affine(child) if _is_even(signal):
                signal = child
            case _:
                return False
    made = walk.actions[signal.node].linear_map
    if made is None or made.groups > 1:
        return False
    bias = None if made.bias is None else walk.facts.value(walk.facts.nodes[signal.node].inputs[made.bias])
    return bias is None or (bias.ndim > 0 and bias.shape[-1] == len(signal.atoms))


def _is_even(signal: Affine) -> bool:
    """Whether it multiplies all channels with the same, not with zero; what it adds differs, or is nothing."""
    even = np.ptp(signal.scale, axis=0).max(initial=0) == 0 and bool(signal.scale.any())
    added = not signal.shift.any() or np.ptp(signal.shift, axis=0).max(initial=0) > 0
    return even and added and signal.stated is None


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
