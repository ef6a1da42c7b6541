"""What the tracer keeps while it walks a graph: labels, signals, slots, pins, and how they are added to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnx_condense.algebra.signals import Affine, Combined, Restricted, Signal
from onnx_condense.arrays import Array, Bools, Floats, Ints, Labels, Shape
from onnx_condense.operators import moves as movers
from onnx_condense.operators.actions import Action, Interval, Operation, Role
from onnx_condense.operators.facts import Facts
from onnx_condense.operators.shapes import SHAPE_OPS
from onnx_condense.tracing.labels import UnionFind, atoms_of, occurrence, pack, signals_of, varying
from onnx_condense.tracing.trace import Refusal, Slot, layer_name

MOST_OCCURRENCES = 64
"""How many places of one tensor may hold the same atom with different constants (as after Flatten)."""


@dataclass(eq=False)
class Ledger:
    """The state of one pass. `index` and `node` are the node that the pass is at."""

    facts: Facts
    sets: UnionFind = field(default_factory=UnionFind)
    labels: dict[str, Labels] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    signals: list[Signal] = field(default_factory=list)
    pins: list[tuple[Ints, str]] = field(default_factory=list)
    producers: list[tuple[int, Ints]] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    actions: dict[int, Action] = field(default_factory=dict)
    tied_reads: dict[str, Labels | None] = field(default_factory=dict)
    tied_atoms: dict[str, Ints] = field(default_factory=dict)
    shared_weights: set[str] = field(default_factory=set)
    blocks: list[Labels] = field(default_factory=list)
    """[groups, channels per group]: what grouped convolutions read and make."""
    fixed: list[tuple[Labels, tuple[int, ...]]] = field(default_factory=list)
    """Labels of tensors, and axes that may not shrink."""
    index: int = -1
    node: gs.Node = None

    def _refuse(self, reason: str) -> None:
        """Pins whatever the node reads."""
        for tensor in self.node.inputs:
            self._pin_tensor(tensor.name, f"is read by {self._me()}, which {reason}")
        parameters = self.facts.parameters(self.node.inputs)
        if parameters:
            self.refused.append(Refusal(self._layer(), reason, parameters))

    def _signal(self, signal: Signal) -> int:
        self.signals.append(signal)
        return len(self.signals) - 1

    def _mapped(self, labels: Labels, make: Callable[[Signal], Signal]) -> Labels:
        """Labels with every distinct signal replaced by make(signal)."""
        atoms, sources = atoms_of(labels), signals_of(labels)
        result = np.full(labels.shape, -1, dtype=np.int64)
        for key in np.unique(sources[atoms >= 0]):
            mask = (sources == key) & (atoms >= 0)
            result[mask] = pack(atoms[mask], self._signal(make(self.signals[key])))
        return result

    def _per_position(self, labels: Labels, value: Array) -> Floats:
        """[places, q]: the part of a broadcast constant that meets each labelled place."""
        value = np.asarray(value, dtype=np.float64)
        value = value.reshape((1,) * (labels.ndim - value.ndim) + value.shape)
        axes = varying(labels)
        full = np.broadcast_to(value, [labels.shape[a] if a in axes else n for a, n in enumerate(value.shape)])
        others = [a for a in range(labels.ndim) if a not in axes]
        return full.transpose([*axes, *others]).reshape(labels.size, -1)

    def _affine(self, row: Labels, scale: Floats, shift: Floats, magnitude: Floats) -> Labels | None:
        def make(child: Signal, atoms: Ints, places: Ints) -> Signal:
            return Affine(child, atoms, scale[places], shift[places], magnitude[places])

        return self._split_signals(row, np.hstack([scale, shift]), make)

    def _split_signals(
        self, row: Labels, values: Floats, make: Callable[[Signal, Ints, Ints], Signal]
    ) -> Labels | None:
        """One new signal per distinct one; places of the same atom with different values get signals of their own."""
        atoms, sources, rank = atoms_of(row), signals_of(row), occurrence(row)
        if rank.max(initial=0):
            order = np.lexsort((rank, row))
            first = order[np.flatnonzero(rank[order] == 0)]
            head = first[np.cumsum(rank[order] == 0) - 1]
            if np.array_equal(values[order], values[head]):
                rank = np.zeros_like(rank)
        if rank.max(initial=0) >= MOST_OCCURRENCES:
            return None
        result = np.full(len(row), -1, dtype=np.int64)
        for key in np.unique(np.stack([sources, rank])[:, atoms >= 0], axis=1).T:
            places = np.flatnonzero((sources == key[0]) & (rank == key[1]) & (atoms >= 0))
            result[places] = pack(atoms[places], self._signal(make(self.signals[key[0]], atoms[places], places)))
        return result

    def _function(self, index: int) -> Callable[[Floats], Floats]:
        facts = self.facts
        if any(t.name in facts.derived for t in facts.nodes[index].inputs):
            return unknown  # another function at other sizes

        def evaluate(values: Floats) -> Floats:
            return facts.evaluate(index, values)

        return evaluate

    def _parameters(self) -> list[Array]:
        """The node's constant inputs that are floats."""
        values = [self.facts.value(t) for t in self.node.inputs if t.name in self.facts.static]
        return [v for v in values if v is not None and v.dtype.kind in "fV"]

    def _me(self) -> str:
        """The node in a reason: by operator, so that reasons group."""
        vowel = self.node.op[0] in "AEIOaeio" or self.node.op in ("LSTM", "RNN", "Unsqueeze", "Upsample")
        return f"{'an' if vowel else 'a'} {self.node.op}"

    def _layer(self) -> str:
        return layer_name(self.node, self.index)

    def _shape(self, tensor: gs.Tensor) -> Shape:
        value = self.facts.value(tensor)
        return tuple(value.shape) if value is not None else self.facts.shapes[tensor.name]

    def _emit(self, labels: Labels, name: str | None = None) -> None:
        labels = movers.compress(labels)
        if (atoms_of(labels) < 0).all():
            return
        if labels.size == 1:
            return self._pin(labels, f"is broadcast as a single channel at {self._me()}")
        self.labels[name or self.node.outputs[0].name] = labels

    def _add_slot(
        self, position: int, role: Role, row: Labels, rank: int, axis: int, padded: bool = False, groups: int = 1
    ) -> None:
        shape = [1] * rank
        shape[axis] = len(row)
        self.slots.append(Slot(self.index, position, role, row.reshape(shape), axis, padded, groups))
        if groups > 1:
            self.blocks.append(row.reshape(groups, -1))

    def _uniform(self, labels: Labels | None, axes: range | list[int] | tuple[int, ...]) -> Labels | None:
        """Labels with one atom along the axes that a window mixes: those that varied are united."""
        if labels is None:
            return None
        for axis in axes:
            if labels.shape[axis] == 1:
                continue
            first = np.broadcast_to(labels.take([0], axis), labels.shape)
            if (labels < 0).any():
                self._pin(labels, f"is read by {self._me()} beside a tensor whose channels cannot be removed")
                return None
            alike: dict[bytes, list[int]] = {}
            for place in range(labels.shape[axis]):
                alike.setdefault(signals_of(labels.take([place], axis)).tobytes(), []).append(place)
            if len(alike) > MOST_OCCURRENCES:
                self._pin(labels, f"varies in space at {self._me()}")
                return None
            self.sets.unite(atoms_of(first).reshape(-1), atoms_of(labels).reshape(-1))
            parts = [labels.take(places, axis) for places in alike.values()]
            labels = parts[0].take([0], axis) if len(parts) == 1 else self._chosen_from(parts, axis)
        return labels

    def _chosen_from(self, parts: list[Labels], axis: int) -> Labels:
        """Labels of parts that lie beside each other along an axis, as one: a relation must hold in each of them."""
        result = parts[0].take([0], axis)
        for number, part in enumerate(parts[1:]):
            pairs = np.stack([signals_of(result), signals_of(part.take([0], axis))])
            united = np.empty_like(result)
            for key in np.unique(pairs.reshape(2, -1), axis=1).T:
                mask = (pairs == key.reshape(2, *[1] * result.ndim)).all(0)
                left, right = self.signals[key[0]], self._restricted(key[1], part, mask)
                left = left if number else self._restricted(key[0], parts[0], mask)
                signal = self._signal(Combined(Operation.CHOOSE, left, right))
                united[mask] = pack(atoms_of(result[mask]), signal)
            result = united
        return result

    def _restricted(self, signal: int, part: Labels, mask: Bools) -> Signal:
        """A signal at the atoms of those channels of a part."""
        return Restricted(self.signals[signal], np.unique(atoms_of(part[np.broadcast_to(mask, part.shape)])))

    def _pin(self, labels: Labels | None, reason: str) -> None:
        if labels is None:
            return
        atoms = np.unique(atoms_of(labels))
        atoms = atoms[atoms >= 0]
        if len(atoms):
            self.pins.append((atoms, reason))

    def _pin_tensor(self, name: str, reason: str) -> None:
        self._pin(self.labels.get(name), reason)

    def _shared_weights(self) -> set[str]:
        """Names of matrices and kernels that more than one node input reads."""
        names = set()
        for name in self.facts.static:
            readers = [self.facts.nodes[index] for index, _ in self.facts.consumers(name)]
            if sum(node.op not in SHAPE_OPS for node in readers) > 1:
                value = self.facts.value_by_name(name)
                if value is not None and value.ndim >= 2:
                    names.add(name)
        return names


def unknown(values: Floats) -> Floats:
    """Stands for a function of several tensors, of which one alone says nothing."""
    return np.full(len(values), np.nan)
