"""From producers, units and pins to dependency groups, and to the cells in which channels may merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from onnx_condense.arrays import Bools, Ints, Labels
from onnx_condense.operators.answers import Role
from onnx_condense.operators.reasons import Because, Reason
from onnx_condense.tracing.balance import Partition
from onnx_condense.tracing.labels import UnionFind, atoms_of, signals_of
from onnx_condense.tracing.trace import Group, Slot


@dataclass(frozen=True, eq=False)
class Holders:
    """What channels lie in: weights, the labels of tensors, and lines that must lose equally many channels."""

    slots: Sequence[Slot]
    tensors: Sequence[Labels]
    partitions: Sequence[Partition]

    def paired(self, unit_of: Ints) -> Ints:
        """[k] the units that products of data pair."""
        atoms = [atoms_of(slot.labels[slot.labels >= 0]) for slot in self.slots if slot.role is Role.PAIRED]
        return np.unique(unit_of[np.concatenate([np.zeros(0, dtype=np.int64), *atoms])])


def dependency_groups(
    producers: Sequence[tuple[int, Ints]],
    unit_of: Ints,
    pinned: Mapping[int, Because],
    holders: Holders,
    name: Mapping[int, str],
) -> tuple[list[Group], list[tuple[int, Because]]]:
    """Joins producers that share free channels into groups.

    Args:
        producers: (node index, [n] its atoms) in topological order.
        unit_of: [atoms] the unit of each.
        pinned: unit -> why it must stay.
        holders: every weight, tensor and partition that holds labels.
        name: node index -> layer name.

    Returns:
        The groups with at least two free channels, and (node index, reason) for every other producer.
    """
    groups: list[Group] = []
    refused: list[tuple[int, Because]] = []
    partitions, paired = holders.partitions, holders.paired(unit_of)
    pinned = _pinned_alike(pinned, partitions)
    is_free = np.ones(len(unit_of), dtype=bool)
    is_free[list(pinned)] = False
    held = _held_alike(unit_of, is_free, holders)
    lines_of: dict[int, list[int]] = {}
    for place, part in enumerate(partitions):
        for unit in np.unique(part.units).tolist():
            lines_of.setdefault(unit, []).append(place)
    for members in _joined(producers, unit_of, is_free, partitions):
        units = np.unique(np.concatenate([unit_of[producers[n][1]] for n in members]))
        free = units[is_free[units]]
        nodes = tuple(producers[n][0] for n in members)
        if len(free) < 2:
            refused += [(n, pinned.get(int(units[0]), Because(Reason.ONE_CHANNEL))) for n in nodes]
            continue
        near = sorted({place for unit in free.tolist() for place in lines_of.get(unit, ())})
        lines = tuple(_within(partitions[place], free) for place in near)
        cells = _cells(held[free])
        if max(map(len, cells)) < 2 and np.isin(free, paired).all():  # each stands for itself, as to rotations by data
            refused += [(n, Because(Reason.LONELY)) for n in nodes]
            continue
        groups.append(Group(len(groups), free, cells, nodes, tuple(name[n] for n in nodes), lines))
    return groups, refused


def _within(part: Partition, units: Ints) -> Partition:
    """The places of a partition where some units stand, which become indices into `units`."""
    inside = np.isin(part.units, units)
    return Partition(part.lines[inside], np.searchsorted(units, part.units[inside]))


def _pinned_alike(pinned: Mapping[int, Because], partitions: Sequence[Partition]) -> Mapping[int, Because]:
    """Where one line of a partition can lose nothing, no line can."""
    result = dict(pinned)
    size = -1
    while size != len(result):
        size = len(result)
        for part in partitions:
            free = np.array([unit >= 0 and unit not in result for unit in part.units.tolist()])
            stuck = np.flatnonzero(np.bincount(part.lines, free) < 2)
            if len(stuck):
                first = int(part.units[part.lines == stuck[0]][0])
                because = Because(Reason.ALIKE, why=result.get(first, Because(Reason.LONELY)))
                result.update((unit, because) for unit in part.units[free].tolist())
    return result


def _joined(
    producers: Sequence[tuple[int, Ints]], unit_of: Ints, is_free: Bools, partitions: Sequence[Partition]
) -> list[list[int]]:
    """Positions of producers, by connected component over shared free units and over partitions.

    is_free: [atoms] which units are not pinned.
    """
    sets = UnionFind()
    sets.grow(len(producers))
    made = [unit_of[atoms] for _, atoms in producers]
    units = np.concatenate([*made, np.zeros(0, dtype=np.int64)])
    numbers = np.repeat(np.arange(len(made)), [len(atoms) for atoms in made])[is_free[units]]
    units = units[is_free[units]]
    order = np.argsort(units, kind="stable")
    units, numbers = units[order], numbers[order]
    starts = np.r_[True, units[1:] != units[:-1]][: len(units)]
    first = np.full(len(unit_of), -1)
    first[units[starts]] = numbers[starts]
    pairs = np.unique(np.stack([first[units], numbers])[:, ~starts], axis=1)
    sets.unite(*pairs)
    for part in partitions:
        inside = np.unique(part.units[part.units >= 0])
        members = first[inside][first[inside] >= 0]
        sets.unite(members[:-1], members[1:])
    roots = sets.roots().tolist()
    ordered = sorted(range(len(producers)), key=lambda n: (roots[n], n))
    return [list(members) for _, members in groupby(ordered, key=lambda n: roots[n])]


def _held_alike(unit_of: Ints, is_free: Bools, holders: Holders) -> Ints:
    """[atoms] the same for free units that the same slots, tensors and lines hold, equally often, by the same signals.

    is_free: [atoms] which units are not pinned.
    """
    result, count = np.zeros(len(unit_of), dtype=np.int64), 1
    rows = [(atoms_of(s.labels).reshape(-1), signals_of(s.labels).reshape(-1)) for s in holders.slots]
    distinct = {atoms.tobytes(): atoms for atoms in (atoms_of(x).reshape(-1) for x in holders.tensors)}
    rows += [(atoms, np.zeros_like(atoms)) for atoms in distinct.values()]
    places = [(np.where(atoms >= 0, unit_of[atoms], -1), sources) for atoms, sources in rows]
    places += [(part.units, part.lines) for part in holders.partitions]
    for units, sources in places:
        inside = np.flatnonzero((units >= 0) & is_free[units])
        order = inside[np.argsort(units[inside], kind="stable")]
        if len(order):
            owners, through = units[order], sources[order]
            starts = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]]))
            known, ways = result[owners[starts]], _ways(through, starts)
            now = _numbered(known * (1 + ways.max()) + ways)
            result[owners[starts]] = count + now
            count += 1 + int(now.max())
    return result


def _ways(through: Ints, starts: Ints) -> Ints:
    """[units] the same number for the same signals [places] of a unit, whose places begin at [units] `starts`."""
    if len(starts) == len(through):
        return _numbered(through)
    numbers: dict[bytes, int] = {}
    parts = (part.tobytes() for part in np.split(through, starts[1:]))
    return np.array([numbers.setdefault(part, len(numbers)) for part in parts])


def _numbered(keys: Ints) -> Ints:
    """[n] -> [n]: the place of each key among the different ones, in order."""
    if (keys == keys[0]).all():
        return np.zeros(len(keys), dtype=np.int64)
    return np.asarray(np.unique(keys, return_inverse=True)[1])


def _cells(held: Ints) -> tuple[Ints, ...]:
    """Positions of channels that may merge, those held [channels] alike, in the order in which the first ones come."""
    _, first, which = np.unique(held, return_index=True, return_inverse=True)
    members = np.split(np.argsort(which, kind="stable"), np.cumsum(np.bincount(which))[:-1])
    return tuple(members[cell] for cell in np.argsort(first))
