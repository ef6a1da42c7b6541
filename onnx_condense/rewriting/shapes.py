"""The shapes of the small model: what is alive of each tensor, and the numbers that follow from sizes.

A tensor shrinks along one axis, every line along it by equally many places. Where what is alive gives it no shape,
`Disagreement` names the channels, and the caller lets them stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np

from onnx_condense.arrays import Array, Bools, Ints, Labels, Shape
from onnx_condense.merging.twin import Twin
from onnx_condense.model.inference import NO_TENSOR
from onnx_condense.operators.facts import Facts
from onnx_condense.operators.moves import compress
from onnx_condense.rewriting.kept import Disagreement, Kept
from onnx_condense.tracing.trace import Slot, Trace


@dataclass(frozen=True, eq=False)
class Shapes:
    """The shapes that a choice of channels leads to.

    alive: [units]. sizes: tensor name -> shape. kept: tensor name -> what is alive of it, where it lost something.
    """

    trace: Trace
    alive: Bools
    sizes: Mapping[str, Shape]
    kept: Mapping[str, Kept]
    _slots: dict[Slot, Kept | None] = field(default_factory=dict)

    @property
    def facts(self) -> Facts:
        """What is true of the graph as it was."""
        return self.trace.facts

    @cached_property
    def smaller(self) -> Mapping[str, Shape]:
        """The tensors whose shape is another."""
        return {name: self.sizes[name] for name in self.kept if self.sizes[name] != self.facts.shapes[name]}

    @cached_property
    def derived(self) -> Mapping[str, Array]:
        """The numbers, of any shape, that follow from these shapes, by the names of their tensors."""
        if self.smaller:
            return self.facts.values_under(self.sizes)
        values = {name: self.facts.value_by_name(name) for name in self.facts.derived}
        return {name: value for name, value in values.items() if value is not None}

    def of(self, name: str) -> Shape:
        """The shape of a tensor; of a constant as it was."""
        value = self.facts.value_by_name(name)
        if value is not None:
            return tuple(value.shape)
        return self.sizes[name] if name in self.sizes else self.facts.shapes[name]

    def known(self, node: int) -> bool:
        """Whether a node reads and gives nothing but tensors: sequences and maps have no shape."""
        found = self.facts.nodes[node]
        names = [tensor.name for tensor in (*found.inputs, *found.outputs) if tensor.name]
        return all(name in self.facts.shapes or self.facts.value_by_name(name) is not None for name in names)

    def at(self, node: int) -> tuple[list[Shape], Shape]:
        """Shapes of a node's inputs and of its first output; () for what is left out or no tensor (a map)."""
        tensors, outputs = self.facts.nodes[node].inputs, self.facts.nodes[node].outputs
        inputs = [self._at(tensor.name) for tensor in tensors]
        return inputs, next(self._at(tensor.name) for tensor in outputs if tensor.name)

    def _at(self, name: str) -> Shape:
        return self.of(name) if name and self.facts.types.get(name) != NO_TENSOR else ()

    def line(self, name: str, axis: int) -> Bools | None:
        """[size of the axis] what is alive of a tensor along an axis, None where the same is everywhere or all is."""
        kept = self.kept.get(name)
        return kept.line if kept is not None and kept.axis == axis else None

    def labels(self, name: str) -> Labels:
        """The labels of what is alive of a tensor, of its rank; their shape is 1 along axes on which nothing varies."""
        labels, kept = self.trace.labels[name], self.kept.get(name)
        return labels if kept is None else kept.of(labels)

    def of_slot(self, slot: Slot) -> Kept | None:
        """What is alive of a weight, None where all of it is. Raises Disagreement."""
        if slot not in self._slots:
            units, axis = self.trace.cut_of(slot)
            self._slots[slot] = _kept(units, axis, self.alive, name_of(self.trace, slot))
        return self._slots[slot]

    def disagreement(self, name: str) -> Disagreement:
        """The channels of a tensor must stay."""
        return Disagreement(self.trace.units_in(self.trace.labels[name]), name)

    def counted(self, name: str) -> Disagreement:
        """A number follows both the sizes of the inputs and channels that a shape counts: those must stay."""
        labels = [self.trace.labels[n] for n in self.facts.measured(name) if n in self.trace.labels]
        found = [self.trace.units_in(x) for x in labels] or [np.zeros(0, dtype=np.int64)]
        return Disagreement(np.unique(np.concatenate(found)), name)


def shapes_of(twin: Twin, expanded: bool = False) -> Shapes:
    """The shapes of the model that a twin describes; of the expanded twin the original's. Raises Disagreement."""
    alive = np.ones_like(twin.alive) if expanded else twin.alive
    known = _LAST.get(twin)
    if known is None or not np.array_equal(known.alive, alive):
        known = _LAST[twin] = _shapes(twin.trace, alive.copy())
    return known


_LAST: WeakKeyDictionary[Twin, Shapes] = WeakKeyDictionary()
"""What was asked for last: a twin's shapes are checked, counted and written one after the other."""


def name_of(trace: Trace, slot: Slot) -> str:
    """The name of a weight."""
    name: str = trace.facts.nodes[slot.node].inputs[slot.input].name
    return name


def _shapes(trace: Trace, alive: Bools) -> Shapes:
    gone = np.flatnonzero(~alive)
    for part in trace.lines_with(gone):
        lines = np.bincount(part.lines, alive[part.units] | (part.units < 0))
        if np.ptp(lines):
            raise Disagreement(np.unique(part.units[part.units >= 0]), "groups or heads")
    sizes, kept = dict(trace.facts.shapes), {}
    for name in trace.tensors_with(gone):
        units, axis = trace.cuts[name]
        found = _kept(units, axis, alive, name)
        if found is not None:
            shape = list(sizes[name])
            shape[axis] = found.count
            sizes[name], kept[name] = tuple(shape), found
    return Shapes(trace, alive, sizes, kept)


def _kept(units: Ints, axis: int, alive: Bools, name: str) -> Kept | None:
    """What is alive of a tensor whose units are these, None where all of it is."""
    mask = alive[units] | (units < 0)
    if mask.all():
        return None
    counts = np.unique(mask.sum(axis))
    if len(counts) > 1 or not counts[0]:
        raise Disagreement(np.unique(units[units >= 0]), name)
    return Kept(axis, compress(mask.astype(np.int64)).astype(bool))
