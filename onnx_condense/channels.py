"""Dependency groups: the channels that are produced together, what weights hold them, and why others must stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnx_condense.actions import Action, Contraction, Refused
from onnx_condense.facts import Facts
from onnx_condense.labels import UnionFind, atoms_of, signals_of
from onnx_condense.movers import Labels
from onnx_condense.quantized import Quantized
from onnx_condense.signals import Ints, Signal

Role = Literal["produced", "carried", "contracted"]


@dataclass(frozen=True, eq=False)
class Slot:
    """A weight at one input of one node, with the labels along its axes (rank of the weight).

    produced: its rows make the atoms. carried: it holds one parameter per atom. contracted: it reads the atoms.
    `axis` is the labelled axis of a produced or contracted slot. `padded`: zeros from beyond a border are read too.
    """

    node: int
    input: int
    role: Role
    labels: Labels
    axis: int = 0
    padded: bool = False


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
    """

    index: int
    units: Ints
    cells: tuple[Ints, ...]
    producers: tuple[int, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Trace:
    """Everything the later stages need to know of a graph.

    unit_of: atom -> unit id. labels: tensor name -> labels. actions: what each node does, by index.
    """

    facts: Facts
    groups: tuple[Group, ...]
    refusals: tuple[Refusal, ...]
    slots: tuple[Slot, ...]
    signals: tuple[Signal, ...]
    unit_of: Ints
    labels: Mapping[str, Labels]
    actions: Mapping[int, Action]

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
        """Parameters of a linear map's weight; of a refused operator's weights."""
        action, inputs = self.actions[node], self.facts.nodes[node].inputs
        if isinstance(action, Contraction):
            value = self.facts.value(inputs[action.weight])
            return 0 if value is None else value.size
        return self.facts.parameters(inputs) if isinstance(action, Refused) else 0

    def reached(self) -> float:
        """The share of the parameters of linear maps, refused ones too, that is sliced when groups shrink."""
        free = np.concatenate([g.units for g in self.groups]) if self.groups else np.zeros(0, dtype=np.int64)
        linear = [i for i, a in self.actions.items() if not (isinstance(a, Contraction) and a.lookup)]
        touched = set()
        for slot in self.slots:
            atoms = atoms_of(slot.labels.reshape(-1))
            if slot.role != "carried" and np.isin(self.unit_of[atoms[atoms >= 0]], free).any():
                touched.add(slot.node)
        total = sum(self.size(n) for n in linear)
        return sum(self.size(n) for n in linear if n in touched) / total if total else 0.0


def layer_name(node: gs.Node, index: int) -> str:
    """A name for a node that a user recognizes: its own, else its weight's, else operator and position."""
    weights = [t.name for t in node.inputs[1:] if isinstance(t, gs.Constant)]
    return node.name or (weights[0] if weights else f"{node.op}_{index}")


ONE_CHANNEL = "has one independent channel only"


def dependency_groups(
    producers: Sequence[tuple[int, Ints]],
    unit_of: Ints,
    pinned: Mapping[int, str],
    slots: Sequence[Slot],
    labels: Mapping[str, Labels],
    name: Mapping[int, str],
) -> tuple[list[Group], list[tuple[int, str]]]:
    """Joins producers that share free channels into groups.

    Args:
        producers: (node index, its atoms) in topological order.
        unit_of: atom -> unit.
        pinned: unit -> why it must stay.
        slots: every weight that holds labels.
        labels: tensor name -> labels.
        name: node index -> layer name.

    Returns:
        The groups with at least two free channels, and (node index, reason) for every other producer.
    """
    groups: list[Group] = []
    refused: list[tuple[int, str]] = []
    for members in _joined(producers, unit_of, pinned):
        units = np.unique(np.concatenate([unit_of[producers[n][1]] for n in members]))
        free = np.array([u for u in units.tolist() if u not in pinned], dtype=np.int64)
        nodes = tuple(producers[n][0] for n in members)
        if len(free) < 2:
            refused += [(n, pinned.get(int(units[0]), ONE_CHANNEL)) for n in nodes]
            continue
        groups.append(
            Group(len(groups), free, _cells(free, unit_of, slots, labels), nodes, tuple(name[n] for n in nodes))
        )
    return groups, refused


def _joined(producers: Sequence[tuple[int, Ints]], unit_of: Ints, pinned: Mapping[int, str]) -> list[list[int]]:
    """Positions of producers, by connected component over shared free units."""
    sets = UnionFind()
    sets.grow(len(producers))
    first: dict[int, int] = {}
    for number, (_, atoms) in enumerate(producers):
        for unit in np.unique(unit_of[atoms]).tolist():
            if unit not in pinned:
                sets.unite(np.array([first.setdefault(unit, number)]), np.array([number]))
    roots = sets.roots().tolist()
    order = sorted(range(len(producers)), key=lambda n: (roots[n], n))
    return [list(members) for _, members in groupby(order, key=lambda n: roots[n])]


def _cells(units: Ints, unit_of: Ints, slots: Sequence[Slot], labels: Mapping[str, Labels]) -> tuple[Ints, ...]:
    """Channels may merge when the same slots and tensors hold them, equally often, through the same signals."""
    signatures: list[list[object]] = [[] for _ in units]
    index = np.full(len(unit_of), -1, dtype=np.int64)
    index[units] = np.arange(len(units))
    rows = [(atoms_of(s.labels).reshape(-1), signals_of(s.labels).reshape(-1)) for s in slots]
    distinct = {atoms.tobytes(): atoms for atoms in (atoms_of(x).reshape(-1) for x in labels.values())}
    rows += [(atoms, np.zeros_like(atoms)) for atoms in distinct.values()]
    for number, (atoms, sources) in enumerate(rows):
        inside = np.where(atoms >= 0, index[unit_of[atoms]], -1)
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
