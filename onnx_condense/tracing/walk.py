"""The state of a pass over a graph: labels, signals, slots, pins and unions, and what a rule may do to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx_condense.algebra.signals import Signal
from onnx_condense.arrays import Array, Floats, Ints, Labels, Shape
from onnx_condense.model.held import parts_of
from onnx_condense.operators.answers import Action, Interval
from onnx_condense.operators.facts import Facts
from onnx_condense.operators.moves import compress
from onnx_condense.operators.reasons import Because, Reason, with_article
from onnx_condense.tracing.labels import UnionFind, atoms_of, pack, signals_of
from onnx_condense.tracing.outcomes import Carried, Contracted, Declined, Outcome, Pinned
from onnx_condense.tracing.trace import Pairing, Refusal, Slot, layer_name

MASKED = 1 << 22
"""Elements whose mask is made at once."""


@dataclass(frozen=True, eq=False)
class Place:
    """A node of the graph, as rules see it."""

    index: int
    node: gs.Node

    @property
    def inputs(self) -> list[Any]:
        """The tensors that the node reads."""
        return list(self.node.inputs)

    @property
    def outputs(self) -> list[Any]:
        """The tensors that the node makes."""
        return list(self.node.outputs)

    @property
    def output(self) -> str:
        """Name of the first output."""
        return str(self.node.outputs[0].name)

    @property
    def layer(self) -> str:
        """A name that a user recognizes."""
        return layer_name(self.node, self.index)

    def because(self, reason: Reason, why: Reason | Because | None = None) -> Because:
        """A reason that names this node."""
        return Because(reason, with_article(self.node.op), Because(why) if isinstance(why, Reason) else why)


@dataclass(eq=False)
class Walk:
    """The state of one pass.

    tied: names of matrices and kernels that more than one node input reads. tied_reads, tied_atoms: what each of them
    contracts (None: no channels) and makes.
    labels: tensor name -> labels. intervals: tensor name -> bounds of its elements.
    pins: (atoms, why they stay), the first one holds. producers: (node, the atoms that it makes).
    actions: node -> what it does.
    blocks: [groups, channels per group] that grouped convolutions read and make.
    fixed: labels of tensors, and axes that may not shrink.
    pairings: of channels that products of data add up.
    whole_heads: whether lines of a batch that products of data share are channels, instead of what they add up.
    heads: atoms of those. has_heads: whether there are such lines.
    through_norms: whether channels go on behind what normalizes them together (see factoring/residual.py).
    followed: names of tensors computed from shapes and a constant that holds channels, with which they lose them.
    """

    facts: Facts
    tied: frozenset[str] = frozenset()
    whole_heads: bool = False
    through_norms: bool = False
    sets: UnionFind = field(default_factory=UnionFind)
    labels: dict[str, Labels] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    signals: list[Signal] = field(default_factory=list)
    pins: list[tuple[Ints, Because]] = field(default_factory=list)
    producers: list[tuple[int, Ints]] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    actions: dict[int, Action] = field(default_factory=dict)
    tied_reads: dict[str, Labels | None] = field(default_factory=dict)
    tied_atoms: dict[str, Ints] = field(default_factory=dict)
    blocks: list[Labels] = field(default_factory=list)
    fixed: list[tuple[Labels, tuple[int, ...]]] = field(default_factory=list)
    pairings: list[Pairing] = field(default_factory=list)
    heads: list[Ints] = field(default_factory=list)
    has_heads: bool = False
    followed: set[str] = field(default_factory=set)
    _pinned: set[int] = field(default_factory=set)

    # ---- what a rule asks

    def at(self, place: Place, position: int) -> Labels | None:
        """The labels that a node reads at an input: of the tensor's rank, their shape is 1 where nothing varies."""
        return self.labels.get(place.inputs[position].name)

    def shape(self, tensor: gs.Tensor) -> Shape:
        """The shape of a tensor on the feed."""
        value = self.facts.value(tensor)
        return tuple(value.shape) if value is not None else self.facts.shapes[tensor.name]

    def constant(self, tensor: gs.Tensor) -> Array | None:
        """The value, of any shape, of a tensor that follows from constants alone."""
        return self.facts.value(tensor) if tensor.name in self.facts.static else None

    def parameters(self, place: Place) -> list[Array]:
        """A node's constant inputs that are floats, of any shape."""
        values = [self.constant(tensor) for tensor in place.inputs]
        return [v for v in values if v is not None and v.dtype.kind in "fV"]

    def is_finite(self, place: Place) -> bool:
        """Whether all parameters of a node are."""
        return all(_all_finite(v) for v in self.parameters(place))

    def function(self, place: Place) -> Callable[[Floats], Floats]:
        """[n] -> [n]: what a node, whose other inputs are constant, makes of numbers."""
        if any(t.name in self.facts.derived for t in place.inputs):
            return unknown  # another function at other sizes
        return lambda values: self.facts.evaluate(place.index, values)

    # ---- what a rule does

    def signal(self, signal: Signal) -> int:
        """Index of a new signal."""
        self.signals.append(signal)
        return len(self.signals) - 1

    def mapped(self, labels: Labels, make: Callable[[Signal], Signal]) -> Labels:
        """Labels of the same shape, with every distinct signal replaced by make(signal)."""
        atoms, sources = atoms_of(labels), signals_of(labels)
        result = np.full(labels.shape, -1, dtype=np.int64)
        for key in np.unique(sources[atoms >= 0]):
            mask = (sources == key) & (atoms >= 0)
            result[mask] = pack(atoms[mask], self.signal(make(self.signals[key])))
        return result

    def hold(self, slot: Slot) -> None:
        """A weight holds labels."""
        self.slots.append(slot)
        if slot.groups > 1:
            self.blocks.append(slot.labels.reshape(slot.groups, -1))

    def pin(self, labels: Labels | None, because: Because) -> None:
        """Channels, in labels of any shape, that must all stay, and why."""
        if labels is None:
            return
        atoms = np.unique(atoms_of(labels))
        atoms = atoms[atoms >= 0]
        if len(atoms):
            self.pins.append((atoms, because))
            self._pinned.update(atoms.tolist())

    def refuse(self, place: Place, reason: Reason | Because, parameters: int) -> None:
        """A layer's own channels stay."""
        because = Because(reason) if isinstance(reason, Reason) else reason
        self.refused.append(Refusal(place.layer, because, parameters))

    # ---- what is taken back

    def mark(self) -> tuple[int, ...]:
        """How far the pass has come."""
        return tuple(map(len, self._collected))

    def take_back(self, place: Place, mark: tuple[int, ...]) -> None:
        """What a rule has said of a node since. Unions and pins hold: they only keep channels from going."""
        for collected, size in zip(self._collected, mark, strict=True):
            del collected[size:]
        for tensor in place.outputs:
            self.labels.pop(tensor.name, None)
            self.intervals.pop(tensor.name, None)

    @property
    def _collected(self) -> tuple[list[Any], ...]:
        return self.slots, self.producers, self.refused, self.blocks, self.fixed, self.pairings, self.heads

    # ---- what becomes of a rule's outcome

    def conclude(self, place: Place, outcome: Outcome) -> None:
        """Records what a rule says. Labels that go nowhere are pinned: none is lost unseen."""
        match outcome:
            case Carried(labels):
                if not self._emit(place, labels):
                    self._pin_rest(place)
            case Contracted(labels):
                self._emit(place, labels)
            case Pinned(stuck, because):
                self.pin(stuck, because)
            case Declined(reason, error):
                why = Because(reason, error)
                for tensor in place.inputs:
                    self.pin(self.labels.get(tensor.name), place.because(Reason.READ, why))
                parameters = self.facts.parameters(place.inputs)
                if parameters:
                    self.refuse(place, why, parameters)

    def _emit(self, place: Place, made: Mapping[str, Labels]) -> bool:
        """Whether any labels go on, or are pinned because they are broadcast."""
        found = [(name, labels) for name, labels in ((n, compress(x)) for n, x in made.items()) if (labels >= 0).any()]
        for name, labels in found:
            if labels.size == 1:
                self.pin(labels, place.because(Reason.BROADCAST))
            else:
                self.labels[name] = labels
        return bool(found)

    def _pin_rest(self, place: Place) -> None:
        """What a node reads, and nothing was said of."""
        for labels in (self.labels[tensor.name] for tensor in place.inputs if tensor.name in self.labels):
            free = [atom not in self._pinned for atom in atoms_of(labels).reshape(-1).tolist()]
            self.pin(labels.reshape(-1)[free], place.because(Reason.READ_UNKNOWN))


def unknown(values: Floats) -> Floats:
    """[n] -> [n]: stands for a function of several tensors, of which one alone says nothing."""
    return np.full(len(values), np.nan)


def along(row: Labels, rank: int, axis: int) -> Labels:
    """[n] labels on one axis of an array of that rank."""
    return row.reshape([-1 if a == axis else 1 for a in range(rank)])


def _all_finite(value: Array) -> bool:
    """Whether all elements of an array of any shape are; in parts: a mask is a quarter of what it is made from."""
    masked = (np.array_split(np.atleast_1d(part), 1 + part.size // MASKED) for part in parts_of(value))
    return all(np.isfinite(part).all() for parts in masked for part in parts)
