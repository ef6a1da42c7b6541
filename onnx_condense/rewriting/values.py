"""The weights of the small model: slices of the twin's, constants of removed channels in the biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import Any

import numpy as np

from onnx_condense.arrays import Array, Floats, Shape
from onnx_condense.merging.paths import by_channel, from_channels
from onnx_condense.merging.twin import Twin
from onnx_condense.model.rebuilt import Content
from onnx_condense.model.storage import Quantized
from onnx_condense.operators.answers import Role
from onnx_condense.operators.nodes import takes_bias
from onnx_condense.rewriting.edits import Attribute, Edit, Shift
from onnx_condense.rewriting.kept import Kept
from onnx_condense.rewriting.shapes import Shapes
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Slot

NodeInput = tuple[int, int]
"""Index of a node, and of one of its inputs."""


@dataclass(frozen=True, eq=False)
class Sliced:
    """What is alive of a weight; cut when its numbers are asked for.

    cuts: what is alive along each axis on which channels lie.
    """

    whole: Content
    cuts: tuple[tuple[Slot, Kept], ...] = ()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its numbers."""
        return self.whole.dtype

    @cached_property
    def shape(self) -> Shape:
        """Sizes of its axes, once it is cut."""
        shape = tuple(self.whole.shape)
        for slot, kept in self.cuts:
            shape = _shape_of(shape, slot, kept)
        return shape

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape)

    @property
    def array(self) -> Array:
        """Its numbers, of `shape`."""
        value = np.asarray(self.whole)
        for slot, kept in self.cuts:
            value = _alive_of(value, slot, kept)
        return np.ascontiguousarray(value).reshape(value.shape)

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> Array:
        return self.array if dtype is None else self.array.astype(dtype)


@dataclass(frozen=True, eq=False)
class Values:
    """The weights that change. edits: what else a node needs to take its new bias."""

    at: Mapping[NodeInput, Sliced]
    edits: tuple[Edit, ...]


def values_of(twin: Twin, shapes: Shapes) -> Values:
    """The twin's weights as shapes slice them."""
    biases = _Biases(twin, shapes)
    for index in twin.shift:
        shift = twin.added(index)
        assert shift is not None
        biases.add(index, shift)
    whole = {place: Sliced(value) for place, value in biases.values.items()}
    return Values(whole | sliced_weights(twin, shapes, biases.values), tuple(biases.edits))


def sliced_weights(twin: Twin, shapes: Shapes, whole: Mapping[NodeInput, Array]) -> dict[NodeInput, Sliced]:
    """The weights that lose channels. whole: those that are not the twin's, in their original shapes."""
    cuts: dict[NodeInput, tuple[tuple[Slot, Kept], ...]] = {}
    for slot in shapes.trace.slots:
        kept = shapes.of_slot(slot)
        if kept is not None:
            place = slot.node, slot.input
            cuts[place] = (*cuts.get(place, ()), (slot, kept))
    return {place: Sliced(whole[place] if place in whole else twin.weight(*place), c) for place, c in cuts.items()}


def stored(twin: Twin, values: Mapping[NodeInput, Sliced]) -> dict[NodeInput, Content]:
    """Where new values go: what is stored as integers or narrower floats stays that, before the same node."""
    found: dict[NodeInput, Content] = {}
    facts = twin.trace.facts
    for (index, position), value in values.items():
        inputs = facts.nodes[index].inputs
        storage = facts.stored(inputs[position].name) if position < len(inputs) else None
        if storage is None:
            found[index, position] = value
            continue
        for slot, kept in value.cuts:
            storage = storage.sliced(partial(_alive_of, slot=slot, kept=kept))
        found |= storage.inputs(value.array)
    return found


def _alive_of(value: Array, slot: Slot, kept: Kept) -> Array:
    """What is alive of a weight, or of numbers that are broadcast with it."""
    value = value.reshape((1,) * (slot.labels.ndim - value.ndim) + value.shape)
    if kept.line is None:
        return kept.of(np.broadcast_to(value, np.broadcast_shapes(value.shape, kept.mask.shape)))
    if slot.groups > 1 and slot.axes == (1,):
        if value.shape[1] == 1:
            return value
        slices = by_channel(value, slot.axes, slot.groups)[kept.line]
        return from_channels(slices, slot.axes, value.shape, slot.groups)
    return kept.of(value) if value.shape[kept.axis] > 1 else value


def _shape_of(shape: Shape, slot: Slot, kept: Kept) -> Shape:
    """The shape of `_alive_of`."""
    sizes = [*(1,) * (slot.labels.ndim - len(shape)), *shape]
    if kept.line is None:
        sizes = list(np.broadcast_shapes(tuple(sizes), kept.mask.shape))
        sizes[kept.axis] = kept.count
    elif slot.groups > 1 and slot.axes == (1,):
        sizes[1] = sizes[1] if sizes[1] == 1 else kept.count // slot.groups
    elif sizes[kept.axis] > 1:
        sizes[kept.axis] = kept.count
    return tuple(sizes)


class _Biases:
    """Constants of removed channels on their way into the biases of consumers.

    values: the weights that change, in original shape but where they are sliced already.
    """

    def __init__(self, twin: Twin, shapes: Shapes) -> None:
        self.values: dict[NodeInput, Array] = twin.rewritten
        self.edits: list[Edit] = []
        self._twin, self._trace, self._facts = twin, twin.trace, twin.trace.facts
        self._alive, self._outside = shapes.alive, self._facts.read_outside

    def add(self, index: int, shift: Floats) -> None:
        """Adds constants to a consumer's bias, in original shape."""
        action = self._trace.linear_map(index)
        assert action is not None
        kind = self._twin.weight(index, action.weight).dtype
        if action.beta == 0:  # the bias that was there counted for nothing
            self.edits.append(Attribute(index, "beta", 1.0))
            self._set(index, shift.astype(kind))
        elif action.bias is not None:
            bias = self._twin.wide(index, action.bias) + shift / action.beta
            floats = self._twin.stored(index, action.bias) is None
            self._set(index, bias.astype(self._value(index, action.bias).dtype) if floats else bias)
        elif self._into_mean(index, shift, action.output_axis):
            pass
        elif takes_bias(self._facts.model.graph.node[index]) and action.output_axis == 1:  # where a bias lies
            self._set(index, (shift / action.beta).astype(kind))
        elif not self._add_next(index, shift):
            value = self._produced(index, shift.astype(kind))
            behind = len(action.output_axes) - 1 - action.output_axes.index(action.outer)
            self.edits.append(Shift(index, value.reshape(-1, *[1] * behind)))

    def _value(self, index: int, position: int) -> Array:
        return self.values.get((index, position), self._twin.weight(index, position))

    def _set(self, index: int, value: Array) -> None:
        """A new bias in original shape; where the old one had one number for all, it is sliced here."""
        sliced_later = any(slot.input == 2 for slot in self._trace.slots_at(index))
        self.values[index, 2] = value if sliced_later else self._produced(index, value.reshape(-1))

    def _produced(self, index: int, values: Array) -> Array:
        """The part of a vector over a producer's rows that is alive."""
        made = (s.labels.reshape(-1) for s in self._trace.slots_at(index) if s.role is Role.PRODUCED)
        row = next(made, None)
        return values if row is None else values[self._alive[self._trace.unit_of[atoms_of(row)]]]

    def _only_reader(self, index: int) -> NodeInput | None:
        """Where the output of a node is read, if that is once and by a node that was traced."""
        name = self._facts.nodes[index].outputs[0].name
        uses = self._facts.consumers(name)
        if len(uses) != 1 or name in self._outside or uses[0][0] not in self._trace.actions:
            return None
        return uses[0]

    def _into_mean(self, index: int, shift: Floats, axis: int) -> bool:
        """Lets a BatchNormalization that alone reads the output take the constants from its mean: no bias comes."""
        use = self._only_reader(index)
        action = None if use is None or axis != 1 else self._trace.actions[use[0]].normalization
        if use is None or use[1] != 0 or action is None or action.mean is None:
            return False
        following, position = use[0], action.mean
        value = self._value(following, position)
        if value.shape != shift.shape or self._twin.stored(following, position) is not None:
            return False
        self.values[following, position] = (value.astype(np.float64) - shift).astype(value.dtype)
        return True

    def _add_next(self, index: int, shift: Floats) -> bool:
        """MatMul has no bias: uses the constant of the Add that follows, where only that reads the product."""
        use = self._only_reader(index)
        if use is None:
            return False
        following, position = use[0], 1 - use[1]
        if not self._trace.actions[following].adds:
            return False
        tensors = self._facts.nodes[following].inputs
        if len(tensors) != 2 or tensors[position].name not in self._facts.static:
            return False
        if isinstance(self._twin.stored(following, position), Quantized):
            return False
        value = self._value(following, position)
        if not value.ndim or value.shape[-1] != len(shift) or not self._produced_axis_is_last(index):
            return False
        self.values[following, position] = (value.astype(np.float64) + shift).astype(value.dtype)
        return True

    def _produced_axis_is_last(self, index: int) -> bool:
        action = self._trace.linear_map(index)
        assert action is not None
        return action.output_axes[-1] in action.weight_axes
