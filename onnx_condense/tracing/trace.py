"""Dependency groups: the channels that are produced together, what weights hold them, and why others must stay."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_graphsurgeon as gs

from onnx_condense.algebra.signals import Signal
from onnx_condense.arrays import Ints, Labels, Shape
from onnx_condense.forms.stack import Leave
from onnx_condense.model.storage import Quantized
from onnx_condense.operators.actions import Contraction
from onnx_condense.operators.answers import Action, Role
from onnx_condense.operators.facts import Facts
from onnx_condense.operators.reasons import Because
from onnx_condense.tracing.balance import Balance, Partition
from onnx_condense.tracing.labels import atoms_of, varying
from onnx_condense.tracing.unit_index import UnitIndex


@dataclass(frozen=True, eq=False)
class Slot:
    """A weight at one input of one node, with the labels along its axes.

    They have the rank of the weight; where that is broadcast along axes on which channels lie, they have those as well.

    produced: its rows make the atoms. carried: it holds one parameter per atom. contracted: it reads the atoms.
    `axis` is the labelled axis of a produced or contracted slot; a recurrent weight's directions are labelled as well.
    paired: it makes or shifts the partners of the atoms in a product of data, whose side (0 or 1) that is; labels hold
    the atoms there with the signals of the other side (see tracing/pairs.py). even: all channels alike; else what one
    could take up of others is its own function of places (rotated pairs).
    `padded`: zeros from beyond a border are read too. `groups`: of a convolution (see merging/paths.py).
    """

    node: int
    input: int
    role: Role
    labels: Labels
    axis: int = 0
    padded: bool = False
    groups: int = 1
    side: int = -1
    even: bool = True

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of the weight that labels lie on."""
        return varying(self.labels)


@dataclass(frozen=True, eq=False)
class Pairing:
    """Channels of two tensors that a product multiplies with each other and adds up.

    left, right: [n] labels of either side, place by place. because: what the product is to channels that must stay.
    axes: of either tensor, those that places are numbered along, -1 where it does not vary; sizes: how many lie there.
    places: [n] of either, those that hold its channels. lines: [n] which of them are added up together.
    """

    node: int
    left: Labels
    right: Labels
    because: Because
    axes: tuple[tuple[int, ...], tuple[int, ...]]
    sizes: tuple[Shape, Shape]
    places: tuple[Ints, Ints]
    lines: Ints


@dataclass(frozen=True)
class Refusal:
    """Why a producer's channels all stay: the layer, the reason, and its weight's size in parameters."""

    layer: str
    reason: Because
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
    pairs: slots of partners in products of data, which lie in `slots` too, as what they are there. pairings: those.
    heads: [k] atoms of whole heads, where these are channels (see tracing/heads.py); None where they are not.
    has_heads: whether there are channels along a batch axis of products of data.
    followed: names of tensors that follow from shapes and from a constant that is a slot, whose channels they lose.
    untraced: parameters of linear maps in bodies that are no part of it. leave: from a model that was written in the
    form that was traced, and as it was traced, to the model as it came. plain: whether both hold the same weights, and
    compute the same from them.
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
    pairs: tuple[Slot, ...] = ()
    pairings: tuple[Pairing, ...] = ()
    heads: Ints | None = None
    has_heads: bool = False
    followed: frozenset[str] = frozenset()
    untraced: int = 0
    leave: Leave = lambda written, traced: written
    plain: bool = True

    @cached_property
    def _quantized(self) -> Ints:
        """The units that a weight makes, carries or reads that is stored as integers."""
        names = ((s, self.facts.nodes[s.node].inputs[s.input].name) for s in self.slots)
        labels = [s.labels[s.labels >= 0] for s, name in names if isinstance(self.facts.stored(name), Quantized)]
        return np.unique(self.unit_of[atoms_of(np.concatenate([np.zeros(0, dtype=np.int64), *labels]))])

    @cached_property
    def cuts(self) -> Mapping[str, tuple[Ints, int]]:
        """tensor name -> its units, of the shape that `units_along` gives, and the axis along which it shrinks."""
        return {name: self.balance.cut(labels) for name, labels in self.labels.items()}

    def cut_of(self, slot: Slot) -> tuple[Ints, int]:
        """As `cuts`, units of such a shape, of a weight."""
        return self._slot_cuts[slot]

    @cached_property
    def _slot_cuts(self) -> Mapping[Slot, tuple[Ints, int]]:
        return {slot: self.balance.cut(slot.labels) for slot in self.slots}

    def _indexed(self, arrays: Iterable[Ints]) -> UnitIndex:
        return UnitIndex.of(arrays, len(self.unit_of))

    @cached_property
    def _tensors_with(self) -> tuple[list[str], UnitIndex]:
        return list(self.cuts), self._indexed(units for units, _ in self.cuts.values())

    @cached_property
    def _slots_with(self) -> UnitIndex:
        return self._indexed(self.cut_of(slot)[0] for slot in self.slots)

    @cached_property
    def _lines_with(self) -> UnitIndex:
        return self._indexed(part.units for part in self.balance.partitions)

    def tensors_with(self, units: Ints) -> list[str]:
        """The tensors that hold any of some units [k], in the order of `cuts`."""
        names, index = self._tensors_with
        return [names[number] for number in index.with_any(units)]

    def slots_with(self, units: Ints) -> list[Slot]:
        """The weights that hold any of some units [k], in the order of `slots`."""
        return [self.slots[number] for number in self._slots_with.with_any(units)]

    def lines_with(self, units: Ints) -> list[Partition]:
        """The partitions of the balance that hold any of some units [k], in their order."""
        return [self.balance.partitions[number] for number in self._lines_with.with_any(units)]

    @cached_property
    def _named(self) -> Mapping[str, Sequence[int]]:
        found: dict[str, list[int]] = {}
        for number, slot in enumerate(self.slots):
            found.setdefault(self.facts.nodes[slot.node].inputs[slot.input].name, []).append(number)
        return found

    def slots_named(self, names: Iterable[str]) -> list[Slot]:
        """The weights of these names, in the order of `slots`."""
        return [self.slots[number] for number in sorted(n for name in set(names) for n in self._named.get(name, ()))]

    @cached_property
    def generated(self) -> tuple[Slot, ...]:
        """The weights that the file only describes (ConstantOfShape)."""
        inputs = [self.facts.nodes[slot.node].inputs[slot.input].name for slot in self.slots]
        return tuple(s for s, name in zip(self.slots, inputs, strict=True) if self.facts.is_generated(name))

    def units_in(self, labels: Labels) -> Ints:
        """[k] the units that stand in a tensor with labels of any shape, each once."""
        atoms = atoms_of(labels)
        return np.unique(self.unit_of[atoms[atoms >= 0]])

    @cached_property
    def group_of(self) -> Ints:
        """[units] the index of its group, -1 where it stays."""
        result = np.full(len(self.unit_of), -1, dtype=np.int64)
        for group in self.groups:
            result[group.units] = group.index
        return result

    @cached_property
    def place_of(self) -> Ints:
        """[units] the index of each within its group, -1 where it stays."""
        result = np.full(len(self.unit_of), -1, dtype=np.int64)
        for group in self.groups:
            result[group.units] = np.arange(len(group.units))
        return result

    @property
    def headed(self) -> tuple[Group, ...]:
        """The groups whose channels are whole heads."""
        units = self.unit_of[self.heads] if self.heads is not None else np.zeros(0, dtype=np.int64)
        return tuple(group for group in self.groups if np.isin(group.units, units).any())

    @cached_property
    def _slots_of(self) -> Mapping[int, tuple[Slot, ...]]:
        return self._by_group(self.slots)

    @cached_property
    def _pairs_of(self) -> Mapping[int, tuple[Slot, ...]]:
        return self._by_group(self.pairs)

    def _by_group(self, slots: Sequence[Slot]) -> Mapping[int, tuple[Slot, ...]]:
        found: dict[int, list[Slot]] = {}
        for slot in slots:
            atoms = atoms_of(slot.labels[slot.labels >= 0])
            for index in np.unique(self.group_of[self.unit_of[atoms]]).tolist():
                found.setdefault(index, []).append(slot)
        return {index: tuple(mine) for index, mine in found.items()}

    def slots_of(self, group: Group) -> tuple[Slot, ...]:
        """The weights that make, carry or read a group's channels."""
        return self._slots_of.get(group.index, ())

    def pairs_of(self, group: Group) -> tuple[Slot, ...]:
        """What makes or shifts the partners of a group's channels in products of data."""
        return self._pairs_of.get(group.index, ())

    @cached_property
    def _slots_at(self) -> Mapping[int, list[Slot]]:
        found: dict[int, list[Slot]] = {}
        for slot in self.slots:
            found.setdefault(slot.node, []).append(slot)
        return found

    def slots_at(self, node: int) -> Sequence[Slot]:
        """The weights of a node."""
        return self._slots_at.get(node, ())

    def is_quantized(self, group: Group) -> bool:
        """Whether a weight that makes, carries or reads the group's channels is stored as integers."""
        return bool(np.isin(group.units, self._quantized).any())

    def size(self, node: int, but: Collection[str] = ()) -> int:
        """Parameters of a linear map's weights; of a refused operator's. but: tensors that do not count."""
        inputs = self.facts.nodes[node].inputs
        return sum(size for (_, i), size in self._sizes(node).items() if inputs[i].name not in but)

    def _sizes(self, node: int) -> dict[tuple[int, int], int]:
        """Parameters by (node, input)."""
        action, inputs = self.actions[node], self.facts.nodes[node].inputs
        if action.refused:
            return {(node, i): self.facts.parameters([tensor]) for i, tensor in enumerate(inputs)}
        if action.linear_map is None and action.reader is None and action.recurrent is None:
            return {}
        values = {(node, i): self.facts.value(inputs[i]) for i in action.weights}
        return {place: value.size for place, value in values.items() if value is not None}

    def linear_map(self, node: int) -> Contraction | None:
        """The linear map that a node is, if it is one."""
        action = self.actions.get(node)
        return None if action is None else action.linear_map

    def shapes_at(self, node: int) -> tuple[list[Shape], Shape]:
        """Shapes of a node's inputs, () for what is left out, and of its first output."""
        tensors, outputs = self.facts.nodes[node].inputs, self.facts.nodes[node].outputs
        values = [self.facts.value(tensor) if tensor.name else np.zeros(()) for tensor in tensors]
        pairs = zip(tensors, values, strict=True)
        inputs = [self.facts.shapes[t.name] if value is None else tuple(value.shape) for t, value in pairs]
        return inputs, next(self.facts.shapes[tensor.name] for tensor in outputs if tensor.name)

    @cached_property
    def made(self) -> Mapping[tuple[int, int], Slot]:
        """(node, input) -> the slot of what that weight produces."""
        return {(slot.node, slot.input): slot for slot in self.slots if slot.role is Role.PRODUCED}

    def reading(self, node: int, position: int) -> Slot | None:
        """What a weight contracts; labels are -1 where data without channels are read."""
        for slot in self.slots_at(node):
            if (slot.input, slot.role) == (position, Role.CONTRACTED):
                return slot
        weight = self.facts.value(self.facts.nodes[node].inputs[position])
        recurrent, action = self.actions[node].recurrent, self.linear_map(node)
        if recurrent is not None and recurrent.weight == position:
            axis, padded, groups = recurrent.weight_axis, False, 1
        elif action is None or action.lookup or action.weight != position:
            return None
        else:
            axis, padded, groups = action.axis(Role.CONTRACTED), action.padded, action.groups
        if weight is None:
            return None
        shape = [size if a == axis else 1 for a, size in enumerate(weight.shape)]
        return Slot(node, position, Role.CONTRACTED, np.full(shape, -1), axis, padded, groups)

    def reached(self, also: Collection[tuple[int, int]] = ()) -> float:
        """The share of the parameters of linear maps, refused ones too, that is sliced when groups shrink.

        Weights of recurrent nodes and tables of embeddings are among them. Not a number where there are none.
        also: (node, input) of weights that become smaller in another way.
        """
        free = np.concatenate([g.units for g in self.groups]) if self.groups else np.zeros(0, dtype=np.int64)
        sizes: dict[tuple[int, int], int] = {}
        for node in self.actions:
            sizes |= self._sizes(node)
        touched = set(also)
        for slot in self.slots:
            atoms = atoms_of(slot.labels.reshape(-1))
            if slot.role is not Role.CARRIED and np.isin(self.unit_of[atoms[atoms >= 0]], free).any():
                touched.add((slot.node, slot.input))
        total = sum(sizes.values()) + self.untraced
        return sum(size for place, size in sizes.items() if place in touched) / total if total else np.nan


def layer_name(node: gs.Node, index: int) -> str:
    """A name for a node that a user recognizes: its own, else its weight's, else operator and position."""
    weights = [t.name for t in node.inputs[1:] if isinstance(t, gs.Constant)]
    return node.name or (weights[0] if weights else f"{node.op}_{index}")
