"""Groups whose channels are one basis of many: every way from writers to readers is linear and mixes no places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from onnx_condense.factoring.weights import is_wide
from onnx_condense.forms.bases import Along, Normalized, Writer
from onnx_condense.operators.answers import Role
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Group, Slot, Trace


@dataclass(frozen=True, eq=False)
class Stream:
    """A group in which any basis will do.

    slots: of the weights that read it, in the order of `readers`.
    """

    group: Group
    writers: tuple[Writer, ...]
    readers: tuple[Along, ...]
    added: tuple[Along, ...]
    slots: tuple[Slot, ...]

    @property
    def width(self) -> int:
        """Channels."""
        return len(self.group.units)


class Bound(Exception):
    """The channels of a group are no basis of many."""


def streams(trace: Trace, groups: tuple[Group, ...]) -> Iterator[Stream]:
    """Those of the groups in which any basis will do."""
    nodes_of = _nodes_of(trace)
    for group in groups:
        if len(group.units) < 2 or len(group.cells) > 1 or group.partitions or trace.is_quantized(group):
            continue
        try:
            yield _Walk(trace, group, nodes_of.get(group.index, [])).stream()
        except Bound:
            continue


def name_of(trace: Trace, slot: Slot) -> str:
    """Of a weight that is in the file, as it is used, and that nothing else reads. Raises Bound."""
    facts = trace.facts
    name = str(facts.nodes[slot.node].inputs[slot.input].name)
    outside = name in facts.read_outside or facts.is_inside(facts.nodes[slot.node].outputs[0].name)
    alone = not outside and len(facts.consumers(name)) == 1 and facts.stored(name) is None
    value = facts.value_by_name(name) if alone and name in facts.initializers else None
    if value is None or not is_wide(value):
        raise Bound
    return name


def _nodes_of(trace: Trace) -> dict[int, list[int]]:
    """Group index -> the nodes that read a tensor with its channels."""
    found: dict[int, list[int]] = {}
    for index in sorted(trace.actions):
        for tensor in trace.facts.nodes[index].inputs:
            if tensor.name in trace.labels:
                units = trace.units_in(trace.labels[tensor.name])
                for group in np.unique(trace.group_of[units]).tolist():
                    found.setdefault(group, []).append(index)
    return found


class _Walk:
    """Looks at everything that makes, carries or reads the channels of a group."""

    def __init__(self, trace: Trace, group: Group, nodes: list[int]) -> None:
        self._trace, self._facts, self._group = trace, trace.facts, group
        self._nodes = sorted(set(nodes))
        self._order: tuple[int, ...] | None = None

    def stream(self) -> Stream:
        """Raises Bound."""
        writers: dict[int, Writer] = {}
        readers: list[tuple[Slot, Along]] = []
        added: list[Along] = []
        slots = self._trace.slots_of(self._group)
        for slot in slots:
            self._check(slot)
            if slot.role is Role.PRODUCED:
                writers[slot.node] = Writer(name_of(self._trace, slot), slot.axis)
            elif slot.role is Role.CONTRACTED:
                readers.append((slot, Along(name_of(self._trace, slot), slot.axis)))
        for slot in (slot for slot in slots if slot.role is Role.CARRIED):
            self._carry(slot, writers, added)
        self._passed(set(writers), {slot.node for slot, _ in readers}, {along.name for along in added})
        if not writers or not readers:
            raise Bound
        found = tuple(along for _, along in readers)
        return Stream(self._group, tuple(writers.values()), found, tuple(added), tuple(slot for slot, _ in readers))

    def _check(self, slot: Slot) -> None:
        """Whether all channels lie along one axis of a weight, each once and in one order everywhere. Raises Bound."""
        atoms = atoms_of(slot.labels.reshape(-1))
        value = self._facts.value(self._facts.nodes[slot.node].inputs[slot.input])
        if slot.groups > 1 or (atoms < 0).any() or value is None or len(slot.axes) != 1:
            raise Bound
        places = self._trace.place_of[self._trace.unit_of[atoms]]
        mine = (self._trace.group_of[self._trace.unit_of[atoms]] == self._group.index).all()
        order = tuple(places.tolist())
        if not mine or sorted(order) != list(range(len(self._group.units))) or order != (self._order or order):
            raise Bound
        self._order = order

    def _carry(self, slot: Slot, writers: dict[int, Writer], added: list[Along]) -> None:
        """What holds a number per channel: a writer's bias, its BatchNormalization, a constant of an addition."""
        action, node = self._trace.actions[slot.node], self._facts.nodes[slot.node]
        if slot.node in writers:
            writers[slot.node] = replace(writers[slot.node], bias=name_of(self._trace, slot))
            return
        if action.adds:
            added.append(Along(name_of(self._trace, slot), slot.axes[0] - slot.labels.ndim))
            return
        norm = action.normalization
        if norm is None or norm.mean is None or norm.var is None:
            raise Bound
        if slot.input != norm.scale:
            return
        maker = self._facts.maker(node.inputs[0].name)
        if maker not in writers or len(self._facts.consumers(node.inputs[0].name)) > 1:
            raise Bound
        inputs = norm.scale, norm.shift, norm.mean, norm.var
        scale, shift, mean, var = (name_of(self._trace, replace(slot, input=position)) for position in inputs)
        writers[maker] = replace(writers[maker], normalized=Normalized(scale, shift, mean, var, norm.epsilon))

    def _passed(self, writers: set[int], readers: set[int], added: set[str]) -> None:
        """Whether everything else on the way adds channels up or leaves them as they are. Raises Bound.

        What is added holds the channels of a stream, or is among the constants `added`: what is broadcast over
        channels lies in no basis but theirs.
        """
        for index in self._nodes:
            action, node = self._trace.actions[index], self._facts.nodes[index]
            if index in readers:
                continue
            if action.normalization is not None and self._facts.maker(node.inputs[0].name) in writers:
                continue
            plain = action.adds or (action.pointwise and action.keeps_bounds and len(node.inputs) == 1)
            if not plain or not all(self._holds(tensor.name) or tensor.name in added for tensor in node.inputs):
                raise Bound

    def _holds(self, name: str) -> bool:
        """Whether a tensor has all channels of the group."""
        labels = self._trace.labels.get(name)
        return labels is not None and bool(np.isin(self._group.units, self._trace.units_in(labels)).all())
