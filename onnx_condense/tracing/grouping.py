"""From producers, units and pins to dependency groups, and to the cells in which channels may merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from onnx_condense.arrays import Ints, Labels
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
    partitions = holders.partitions
    pinned = _pinned_alike(pinned, partitions)
    signatures = _signatures(unit_of, pinned, holders)
    lines_of: dict[int, list[int]] = {}
    for place, part in enumerate(partitions):
        for unit in np.unique(part.units).tolist():
            lines_of.setdefault(unit, []).append(place)
    for members in _joined(producers, unit_of, pinned, partitions):
        units = np.unique(np.concatenate([unit_of[producers[n][1]] for n in members]))
        free = np.array([u for u in units.tolist() if u not in pinned], dtype=np.int64)
        nodes = tuple(producers[n][0] for n in members)
        if len(free) < 2:
            refused += [(n, pinned.get(int(units[0]), Because(Reason.ONE_CHANNEL))) for n in nodes]
            continue
        near = sorted({place for unit in free.tolist() for place in lines_of.get(unit, ())})
        lines = tuple(_within(partitions[place], free) for place in near)
        cells = _cells([signatures[unit] for unit in free.tolist()])
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
    producers: Sequence[tuple[int, Ints]], unit_of: Ints, pinned: Mapping[int, Because], partitions: Sequence[Partition]
) -> list[list[int]]:
    """Positions of producers, by connected component over shared free units and over partitions."""
    sets = UnionFind()
    sets.grow(len(producers))
    first: dict[int, int] = {}
    for number, (_, atoms) in enumerate(producers):
        for unit in np.unique(unit_of[atoms]).tolist():
            if unit not in pinned:
                sets.unite(np.array([first.setdefault(unit, number)]), np.array([number]))
    for part in partitions:
        members = np.array([first[unit] for unit in np.unique(part.units).tolist() if unit in first])
        sets.unite(members[:-1], members[1:])
    roots = sets.roots().tolist()
    order = sorted(range(len(producers)), key=lambda n: (roots[n], n))
    return [list(members) for _, members in groupby(order, key=lambda n: roots[n])]


def _signatures(unit_of: Ints, pinned: Mapping[int, Because], holders: Holders) -> Mapping[int, list[object]]:
    """Free unit -> which slots, tensors and lines hold it, how often and through which signals."""
    signatures: dict[int, list[object]] = {}
    free = np.ones(len(unit_of), dtype=bool)
    free[list(pinned)] = False
    rows = [(atoms_of(s.labels).reshape(-1), signals_of(s.labels).reshape(-1)) for s in holders.slots]
    distinct = {atoms.tobytes(): atoms for atoms in (atoms_of(x).reshape(-1) for x in holders.tensors)}
    rows += [(atoms, np.zeros_like(atoms)) for atoms in distinct.values()]
    places = [(np.where(atoms >= 0, unit_of[atoms], -1), sources) for atoms, sources in rows]
    places += [(part.units, part.lines) for part in holders.partitions]
    for number, (units, sources) in enumerate(places):
        inside = np.flatnonzero((units >= 0) & free[units])
        order = inside[np.argsort(units[inside], kind="stable")]
        if not len(order):
            continue
        owners, through = units[order], sources[order]
        starts = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
        for start, stop in zip(starts, np.r_[starts[1:], len(owners)], strict=True):
            signatures.setdefault(int(owners[start]), []).append((number, through[start:stop].tobytes()))
    return signatures


def _cells(signatures: Sequence[list[object]]) -> tuple[Ints, ...]:
    """Channels may merge when the same slots, tensors and lines hold them, equally often, through the same signals."""
    cells: dict[tuple[object, ...], list[int]] = {}
    for position, signature in enumerate(signatures):
        cells.setdefault(tuple(signature), []).append(position)
    return tuple(np.array(members, dtype=np.int64) for members in cells.values())
