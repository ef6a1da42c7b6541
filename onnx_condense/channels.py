"""Dependency groups: the channels that are produced together, what weights hold them, and why others must stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnx_condense.actions import Action, Contraction, Reader, Recurrent, Refused
from onnx_condense.balance import Balance, Partition
from onnx_condense.facts import Facts
from onnx_condense.labels import UnionFind, atoms_of, signals_of, varying
from onnx_condense.movers import Labels
from onnx_condense.operators import is_recurrent
from onnx_condense.quantized import Quantized
from onnx_condense.signals import Ints, Signal

Role = Literal["produced", "carried", "contracted"]


@dataclass(frozen=True, eq=False)
class Slot:
    """A weight at one input of one node, with the labels along its axes.

    They have the rank of the weight; where that is broadcast along axes on which channels lie, they have those as well.

    produced: its rows make the atoms. carried: it holds one parameter per atom. contracted: it reads the atoms.
    `axis` is the labelled axis of a produced or contracted slot; a recurrent weight's directions are labelled as well.
    `padded`: zeros from beyond a border are read too. `groups`: of a convolution (see `state.by_channel`).
    """

    node: int
    input: int
    role: Role
    labels: Labels
    axis: int = 0
    padded: bool = False
    groups: int = 1

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the weight that labels lie on."""
        return varying(self.labels)


@dataclass(frozen=True)
class Refusal:
    """Why a producer's channels all stay: the layer, the reason, and its weight's size in parameters."""

    layer: str
    reason: str
    parameters: int


@dataclass(frozen=True, eq=False)
class Group:
    """A dependency group: channels that are produced together.

    units: [n] unit ids in channel order. cells: index arrays into units; channels merge within a cell only.
    producers: node indices in topological order. layers: their names.
    partitions: lines that must lose equally many channels, their units as indices into units.
    """

    index: int
    units: Ints
    cells: tuple[Ints, ...]
    producers: tuple[int, ...]
    layers: tuple[str, ...]
    partitions: tuple[Partition, ...] = ()


@dataclass(frozen=True, eq=False)
class Trace:
    """Everything the later stages need to know of a graph.

    unit_of: atom -> unit id. labels: tensor name -> labels. actions: what each node does, by index.
    untraced: parameters of linear maps in bodies that are no part of it.
    """

    facts: Facts
    groups: tuple[Group, ...]
    refusals: tuple[Refusal, ...]
    slots: tuple[Slot, ...]
    signals: tuple[Signal, ...]
    unit_of: Ints
    labels: Mapping[str, Labels]
    actions: Mapping[int, Action]
    balance: Balance
    untraced: int = 0

    @cached_property
    def _quantized(self) -> Ints:
        """The units that a weight makes, carries or reads that is stored as integers."""
        names = ((s, self.facts.nodes[s.node].inputs[s.input].name) for s in self.slots)
        labels = [s.labels[s.labels >= 0] for s, name in names if isinstance(self.facts.stored(name), Quantized)]
        return np.unique(self.unit_of[atoms_of(np.concatenate([np.zeros(0, dtype=np.int64), *labels]))])

    def is_quantized(self, group: Group) -> bool:
        """Whether a weight that makes, carries or reads the group's channels is stored as integers."""
        return bool(np.isin(group.units, self._quantized).any())

    def size(self, node: int) -> int:
        """Parameters of a linear map's weights; of a refused operator's."""
        return sum(self._sizes(node).values())

    def _sizes(self, node: int) -> dict[tuple[int, int], int]:
        """Parameters by (node, input)."""
        action, inputs = self.actions[node], self.facts.nodes[node].inputs
        if isinstance(action, Refused):
            return {(node, i): self.facts.parameters([tensor]) for i, tensor in enumerate(inputs)}
        if not isinstance(action, Contraction | Reader | Recurrent):
            return {}
        values = {(node, i): self.facts.value(inputs[i]) for i in action.weights}
        return {place: value.size for place, value in values.items() if value is not None}

    def reached(self) -> float:
        """The share of the parameters of linear maps, refused ones too, that is sliced when groups shrink.

        Recurrent nodes are left out, and so are tables of embeddings. Not a number where nothing is left.
        """
        free = np.concatenate([g.units for g in self.groups]) if self.groups else np.zeros(0, dtype=np.int64)
        sizes: dict[tuple[int, int], int] = {}
        for node, action in self.actions.items():
            if not is_recurrent(self.facts.nodes[node]) and not (isinstance(action, Contraction) and action.lookup):
                sizes |= self._sizes(node)
        touched = set()
        for slot in self.slots:
            atoms = atoms_of(slot.labels.reshape(-1))
            if slot.role != "carried" and np.isin(self.unit_of[atoms[atoms >= 0]], free).any():
                touched.add((slot.node, slot.input))
        total = sum(sizes.values()) + self.untraced
        return sum(size for place, size in sizes.items() if place in touched) / total if total else np.nan


def layer_name(node: gs.Node, index: int) -> str:
    """A name for a node that a user recognizes: its own, else its weight's, else operator and position."""
    weights = [t.name for t in node.inputs[1:] if isinstance(t, gs.Constant)]
    return node.name or (weights[0] if weights else f"{node.op}_{index}")


ONE_CHANNEL = "has one independent channel only"
LONELY = "stands alone, or beside what has no channels, in a group or head"
ALIKE = "must keep as many channels as others, of which this is true"


def dependency_groups(
    producers: Sequence[tuple[int, Ints]],
    unit_of: Ints,
    pinned: Mapping[int, str],
    slots: Sequence[Slot],
    labels: Mapping[str, Labels],
    name: Mapping[int, str],
    partitions: Sequence[Partition],
) -> tuple[list[Group], list[tuple[int, str]]]:
    """Joins producers that share free channels into groups.

    Args:
        producers: (node index, its atoms) in topological order.
        unit_of: atom -> unit.
        pinned: unit -> why it must stay.
        slots: every weight that holds labels.
        labels: tensor name -> labels.
        name: node index -> layer name.
        partitions: lines that must lose equally many channels.

    Returns:
        The groups with at least two free channels, and (node index, reason) for every other producer.
    """
    groups: list[Group] = []
    refused: list[tuple[int, str]] = []
    pinned = _pinned_alike(pinned, partitions)
    for members in _joined(producers, unit_of, pinned, partitions):
        units = np.unique(np.concatenate([unit_of[producers[n][1]] for n in members]))
        free = np.array([u for u in units.tolist() if u not in pinned], dtype=np.int64)
        nodes = tuple(producers[n][0] for n in members)
        if len(free) < 2:
            refused += [(n, pinned.get(int(units[0]), ONE_CHANNEL)) for n in nodes]
            continue
        lines = tuple(inside for inside in (_within(part, free) for part in partitions) if len(inside.units))
        cells = _cells(free, unit_of, slots, labels, lines)
        groups.append(Group(len(groups), free, cells, nodes, tuple(name[n] for n in nodes), lines))
    return groups, refused


def _within(part: Partition, units: Ints) -> Partition:
    """The places of a partition where some units stand, which become indices into `units`."""
    inside = np.isin(part.units, units)
    return Partition(part.lines[inside], np.searchsorted(units, part.units[inside]))


def _pinned_alike(pinned: Mapping[int, str], partitions: Sequence[Partition]) -> Mapping[int, str]:
    """Where one line of a partition can lose nothing, no line can."""
    result = dict(pinned)
    size = -1
    while size != len(result):
        size = len(result)
        for part in partitions:
            free = np.array([unit >= 0 and unit not in result for unit in part.units.tolist()])
            stuck = np.flatnonzero(np.bincount(part.lines, free) < 2)
            if len(stuck):
                found = [result.get(unit, LONELY) for unit in part.units[part.lines == stuck[0]].tolist()]
                result.update((unit, f"{ALIKE}: it {found[0]}") for unit in part.units[free].tolist())
    return result


def _joined(
    producers: Sequence[tuple[int, Ints]], unit_of: Ints, pinned: Mapping[int, str], partitions: Sequence[Partition]
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


def _cells(
    units: Ints, unit_of: Ints, slots: Sequence[Slot], labels: Mapping[str, Labels], partitions: Sequence[Partition]
) -> tuple[Ints, ...]:
    """Channels may merge when the same slots, tensors and lines hold them, equally often, through the same signals."""
    signatures: list[list[object]] = [[] for _ in units]
    index = np.full(len(unit_of), -1, dtype=np.int64)
    index[units] = np.arange(len(units))
    rows = [(atoms_of(s.labels).reshape(-1), signals_of(s.labels).reshape(-1)) for s in slots]
    distinct = {atoms.tobytes(): atoms for atoms in (atoms_of(x).reshape(-1) for x in labels.values())}
    rows += [(atoms, np.zeros_like(atoms)) for atoms in distinct.values()]
    places = [(np.where(atoms >= 0, index[unit_of[atoms]], -1), sources) for atoms, sources in rows]
    places += [(part.units, part.lines) for part in partitions]
    for number, (inside, sources) in enumerate(places):
        order = np.argsort(inside, kind="stable")[np.count_nonzero(inside < 0) :]
        if not len(order):
            continue
        owners, through = inside[order], sources[order]
        starts = np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])
        for start, stop in zip(starts, np.r_[starts[1:], len(owners)], strict=True):
            signatures[owners[start]].append((number, through[start:stop].tobytes()))
    cells: dict[tuple[object, ...], list[int]] = {}
    for position, signature in enumerate(signatures):
        cells.setdefault(tuple(signature), []).append(position)
    return tuple(np.array(members, dtype=np.int64) for members in cells.values())
