"""Streams of channels that are normalized together: which of them may lie in fewer directions, and what holds them.

A normalization asks for the length of the channels at each place, and maybe for their mean. In a basis that keeps both,
it is the same normalization of fewer channels: see factoring/shorter.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx_condense.arrays import Ints
from onnx_condense.errors import left_alone
from onnx_condense.factoring.weights import is_wide
from onnx_condense.operators.actions import Activation, Window
from onnx_condense.operators.answers import Action, Role
from onnx_condense.operators.between import Elementwise, Operation
from onnx_condense.operators.moves import Move
from onnx_condense.operators.queries import mean_axes, normalizes
from onnx_condense.operators.reasons import Because, Reason, with_article
from onnx_condense.tracing.labels import atoms_of, varying
from onnx_condense.tracing.trace import Group, Slot, Trace

TRIED = np.array([-3.0, -1.0, 0.0, 0.5, 2.0])
"""[n] numbers of which a function that squares makes squares."""


@dataclass(frozen=True, eq=False)
class State:
    """What a tensor has of a stream's channels, but for a number for each place that it may be multiplied with.

    centred: their mean is taken off. squared: they are. gain, shift: what each is multiplied with, what is added then.
    fresh: what alone made them, where nothing else reads that.
    """

    centred: bool = False
    squared: bool = False
    gain: Slot | None = None
    shift: Slot | None = None
    fresh: tuple[Slot, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether it has the channels themselves."""
        return not self.centred and self.unscaled

    @property
    def unscaled(self) -> bool:
        """Whether each channel is multiplied with the same number."""
        return not self.squared and self.gain is None and self.shift is None


@dataclass(frozen=True, eq=False)
class Residual:
    """A stream that normalizations read.

    trace: one through normalizations. order: [n] the channel at each place of its tensors.
    writers: what makes its channels, and is added to them. readers: what they end in, and what was made of them there.
    parameters: gains and shifts on the way. scaled: writer -> what its channels are multiplied with before all else.
    centred: whether a normalization takes the mean off.
    """

    trace: Trace
    group: Group
    order: Ints
    writers: tuple[Slot, ...]
    readers: tuple[tuple[Slot, State], ...]
    parameters: tuple[Slot, ...]
    scaled: Mapping[Slot, Slot]
    centred: bool

    @property
    def width(self) -> int:
        """Channels."""
        return len(self.group.units)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All weights that hold its channels."""
        return *self.writers, *self.parameters, *(slot for slot, _ in self.readers)

    @property
    def convolved(self) -> bool:
        """Whether convolutions of images touch its channels."""
        actions = [self.trace.actions.get(slot.node) for slot in self.slots]
        return any(action is not None and action.convolves for action in actions)


class Bound(Exception):
    """The channels of a stream are no basis of many, and why."""

    def __init__(self, because: Because) -> None:
        super().__init__(str(because))
        self.because = because


def residuals(trace: Trace, groups: tuple[Group, ...]) -> Iterator[tuple[Group, Residual | Because]]:
    """Those of the groups that are normalized together, and why some of them stay. trace: one through norms."""
    nodes, normalized = _touched(trace)
    for group in groups:
        if group.index in normalized and not group.partitions:
            stream: Residual | Because | None = None
            with left_alone(group.layers[0]):
                try:
                    stream = _Walk(trace, group, nodes[group.index]).residual()
                except Bound as bound:
                    stream = bound.because
            if stream is not None:
                yield group, stream


def _touched(trace: Trace) -> tuple[dict[int, list[int]], set[int]]:
    """Group index -> the nodes that read or make a tensor with its channels; and the groups that are normalized."""
    found: dict[int, list[int]] = {}
    normalized: set[int] = set()
    for index in sorted(trace.actions):
        node = trace.facts.nodes[index]
        for tensor in dict.fromkeys(t.name for t in (*node.inputs, *node.outputs) if t.name in trace.labels):
            mine = np.unique(trace.group_of[trace.units_in(trace.labels[tensor])]).tolist()
            for group in mine:
                nodes = found.setdefault(group, [])
                nodes += [index] if nodes[-1:] != [index] else []
            if normalizes(trace.actions[index]):
                normalized.update(mine)
    return found, normalized - {-1}


class _Walk:
    """Follows the channels of a group from node to node."""

    def __init__(self, trace: Trace, group: Group, nodes: list[int]) -> None:
        self._trace, self._facts, self._group, self._nodes = trace, trace.facts, group, nodes
        self._states: dict[str, State] = {}
        self._order: Ints | None = None
        self._writers: list[Slot] = []
        self._readers: list[tuple[Slot, State]] = []
        self._parameters: list[Slot] = []
        self._scaled: dict[Slot, Slot] = {}
        self._centred = False

    def residual(self) -> Residual:
        """Raises Bound."""
        trace, group = self._trace, self._group
        if trace.pairs_of(group):
            raise Bound(self._because(trace.pairs_of(group)[0].node, Reason.PRODUCT_OF_DATA))
        for index in self._nodes:
            self._step(index)
        known = {*self._writers, *self._parameters, *(slot for slot, _ in self._readers)}
        unknown = [slot for slot in trace.slots_of(group) if slot not in known]
        if unknown or self._order is None or len(group.cells) > 1:
            raise Bound(self._because(unknown[0].node if unknown else self._nodes[0], Reason.TAKES_APART))
        parts = tuple(self._writers), tuple(self._readers), tuple(self._parameters), self._scaled
        return Residual(trace, group, self._order, *parts, self._centred)

    def _because(self, index: int, why: Reason) -> Because:
        return Because(Reason.READ, with_article(self._facts.nodes[index].op), Because(why))

    # ---- nodes

    def _step(self, index: int) -> None:
        """What one node makes of the channels. Raises Bound."""
        action, node = self._trace.actions[index], self._facts.nodes[index]
        slots = [slot for slot in self._slots_at(index) if self._is_mine(slot.labels)]
        for slot in slots:
            self._check(slot)
        if any(slot.role in (Role.PRODUCED, Role.CONTRACTED) for slot in slots):
            made = self._linear(index, action, slots)
        elif not self._inputs(index):
            raise Bound(self._because(index, Reason.READ_UNKNOWN))
        else:
            step = next(STEPS[kind] for kind in type(action).__mro__ if kind in STEPS)
            made = step(self, index, action, slots)
        for tensor in node.outputs:
            if tensor.name in self._trace.labels and self._is_mine(self._trace.labels[tensor.name]):
                if made is None:
                    raise Bound(self._because(index, Reason.READ_UNKNOWN))
                self._place(index, tensor)
                again = len(self._facts.consumers(tensor.name)) > 1 or tensor.name in self._facts.read_outside
                self._states[tensor.name] = replace(made, fresh=()) if again else made

    def _slots_at(self, index: int) -> list[Slot]:
        """The weights of a node, and constants of which it reads as many rows as inputs say."""
        names = [t.name for t in self._facts.nodes[index].inputs if t.name in self._trace.followed]
        makers = [maker for name in names if (maker := self._facts.maker(name)) is not None]
        return [slot for node in (index, *makers) for slot in self._trace.slots_at(node)]

    def _inputs(self, index: int) -> list[State]:
        """What a node reads of the channels."""
        return [self._states[t.name] for t in self._facts.nodes[index].inputs if t.name in self._states]

    def _linear(self, index: int, action: Action, slots: list[Slot]) -> State | None:
        """A linear map whose weights make the channels, or read them."""
        reads = [slot for slot in slots if slot.role is Role.CONTRACTED]
        if reads:
            states = self._inputs(index)
            if len(states) != 1 or states[0].squared or reads[0].groups > 1:
                raise Bound(self._because(index, Reason.BY_ITSELF))
            self._readers += [(slot, states[0]) for slot in reads]
        writes = [slot for slot in slots if slot.role is not Role.CONTRACTED]
        if not writes:
            return None
        if action.linear_map is None or any(slot.groups > 1 for slot in writes):
            raise Bound(self._because(index, Reason.BY_ITSELF))
        self._writers += writes
        return State(fresh=tuple(writes))

    def _between(self, index: int, action: Elementwise, slots: list[Slot]) -> State | None:
        """An operation between two tensors."""
        states, operation = self._inputs(index), action.operation
        names = [tensor.name for tensor in self._facts.nodes[index].inputs]
        if operation in (Operation.ADD, Operation.SUB):
            return self._sum(index, operation, slots, states)
        if operation is Operation.MUL and len(names) == 2 and names[0] == names[1] and states[0].unscaled:
            return replace(states[0], squared=True)
        if operation not in (Operation.MUL, Operation.DIV) or len(states) != 1 or len(names) != 2:
            raise Bound(self._because(index, Reason.MULTIPLIES if len(states) > 1 else Reason.BY_ITSELF))
        if operation is Operation.DIV and (names[0] not in self._states or slots):
            raise Bound(self._because(index, Reason.BY_ITSELF))
        if not slots and all(self._is_same_for_all(index, name) for name in names if name not in self._states):
            return states[0]
        (state,) = states
        gain = self._parameter(index, slots, state.unscaled)
        if not state.plain or not state.fresh or not self._scaled.keys().isdisjoint(state.fresh):
            return replace(state, gain=gain)
        self._scaled |= dict.fromkeys(state.fresh, gain)
        return State()

    def _sum(self, index: int, operation: Operation, slots: list[Slot], states: list[State]) -> State | None:
        """Channels and channels, or channels and numbers of their own; or channels less their mean."""
        (first, *others), inputs = states, self._facts.nodes[index].inputs
        if others or first.plain:
            if not all(state.plain for state in states):
                raise Bound(self._because(index, Reason.SCALED_IN_STREAM))
            if operation is Operation.SUB and not others and self._is_mean(inputs):
                return State(centred=True)
            if len(states) + len(slots) != len(inputs):
                raise Bound(self._because(index, Reason.BY_ITSELF))
            self._writers += slots
            return State(fresh=(*first.fresh, *slots) if first.fresh and not others else ())
        if not first.centred:
            raise Bound(self._because(index, Reason.SHIFTED))
        fits = operation is Operation.ADD and first.shift is None and not first.squared
        return replace(first, shift=self._parameter(index, slots, fits))

    def _parameter(self, index: int, slots: list[Slot], fits: bool) -> Slot:
        """The one constant that holds a number for each channel. Raises Bound where there are others."""
        if not fits or len(slots) != 1:
            raise Bound(self._because(index, Reason.BY_ITSELF))
        value = self._facts.value(self._facts.nodes[slots[0].node].inputs[slots[0].input])
        if value is None or value.size != len(self._group.units):
            raise Bound(self._because(index, Reason.PARAMETERS_ALONG_OTHERS))
        self._parameters.append(slots[0])
        return slots[0]

    def _is_same_for_all(self, index: int, name: str) -> bool:
        """Whether a tensor that meets channels has one number for all of them."""
        labels = self._trace.labels[self._facts.nodes[index].outputs[0].name]
        value = self._facts.value_by_name(name)
        shape = self._facts.shapes[name] if value is None else value.shape
        behind = labels.ndim - varying(labels)[0]
        return behind > len(shape) or shape[-behind] == 1

    def _is_mean(self, inputs: list[gs.Tensor]) -> bool:
        """Whether the second of two tensors is the mean of the channels that are the first."""
        maker, channels = self._facts.maker(inputs[1].name), self._trace.labels.get(inputs[0].name)
        action = None if maker is None else self._trace.actions.get(maker)
        if maker is None or action is None or channels is None or mean_axes(action) != varying(channels):
            return False
        return bool(self._facts.nodes[maker].inputs[0].name == inputs[0].name)

    def _function(self, index: int, action: Activation, slots: list[Slot]) -> State | None:
        """A function of each channel, or a normalization of them all."""
        node, (state, *_) = self._facts.nodes[index], self._inputs(index)
        if normalizes(action):
            return self._normalized(index, action, slots, state)
        types = {self._facts.types.get(tensor.name) for tensor in (node.inputs[0], node.outputs[0])}
        if action.keeps_bounds and len(types) == 1:
            return state
        single = action.pointwise and action.slope is None
        if state.unscaled and single and np.allclose(self._facts.evaluate(index, TRIED), TRIED**2):
            return replace(state, squared=True)
        raise Bound(self._because(index, Reason.BY_ITSELF))

    def _normalized(self, index: int, action: Activation, slots: list[Slot], state: State) -> State:
        self._centred = self._centred or action.centres
        made = State(state.centred or action.centres)
        for slot in sorted(slots, key=lambda slot: slot.input):
            found = self._parameter(index, [slot], state.unscaled)
            made = replace(made, gain=found) if made.gain is None else replace(made, shift=found)
        if not state.unscaled or (made.shift is not None and not made.centred):
            raise Bound(self._because(index, Reason.SHIFTED))
        return made

    def _moved(self, index: int, action: Move, slots: list[Slot]) -> State | None:
        """Places that move."""
        states = self._inputs(index)
        if slots and not all(state.plain for state in states):
            raise Bound(self._because(index, Reason.BY_ITSELF))
        states = [replace(state, fresh=()) for state in states] if len(states) > 1 or slots else states
        alike = all(vars(state) == vars(states[0]) for state in states)
        if not alike or self._brings_others(index):
            raise Bound(Because(Reason.READ_BESIDE, with_article(self._facts.nodes[index].op)))
        self._writers += slots
        return states[0]

    def _refused(self, index: int, action: Action, slots: list[Slot]) -> State | None:
        raise Bound(self._because(index, Reason.BY_ITSELF))

    def _mixed(self, index: int, action: Window, slots: list[Slot]) -> State | None:
        """What a window makes of channels; nothing where it takes the mean of all, which another basis keeps."""
        labels, (state, *_) = self._trace.labels[self._facts.nodes[index].inputs[0].name], self._inputs(index)
        if normalizes(action) and set(action.axes) >= set(varying(labels)):
            self._centred = self._centred or not state.squared
            if not (state.squared or state.unscaled):
                raise Bound(self._because(index, Reason.BY_ITSELF))
            return None
        if not action.linear or action.before is not None or state.squared:
            raise Bound(self._because(index, Reason.BY_ITSELF))
        return state

    def _brings_others(self, index: int) -> bool:
        """Whether a node that joins tensors takes in numbers of channels that are in no slot."""
        node, held = self._facts.nodes[index], {slot.input for slot in self._trace.slots_at(index)}
        others = [t.name for i, t in enumerate(node.inputs) if t.name not in self._states and i not in held]
        return any(self._is_float(name) for name in others if name not in self._trace.followed)

    def _is_float(self, name: str) -> bool:
        value = self._facts.value_by_name(name)
        return value is None or value.dtype.kind == "f"

    # ---- places

    def _is_mine(self, labels: Ints) -> bool:
        """Whether labels of any shape have channels of the group."""
        return bool(np.isin(self._trace.units_in(labels), self._group.units).any())

    def _places(self, labels: Ints) -> Ints | None:
        """[n] the channel at each place of labels of any shape, None where some lie elsewhere."""
        atoms = atoms_of(labels.reshape(-1))
        if len(varying(labels)) != 1 or (atoms < 0).any():
            return None
        units = self._trace.unit_of[atoms]
        if not (self._trace.group_of[units] == self._group.index).all():
            return None
        places = self._trace.place_of[units]
        whole = len(places) == len(self._group.units) == len(np.unique(places))
        order = places if self._order is None else self._order
        return places if whole and np.array_equal(places, order) else None

    def _place(self, index: int, tensor: gs.Tensor) -> None:
        """Raises Bound where a tensor has not all channels, in their order, along one axis."""
        places = self._places(self._trace.labels[tensor.name])
        if places is None:
            raise Bound(self._because(index, Reason.TAKES_APART))
        self._order = places

    def _check(self, slot: Slot) -> None:
        """Raises Bound where a weight has not all channels, or is stored in another way than it is used."""
        name = self._facts.nodes[slot.node].inputs[slot.input].name
        value, places = self._facts.value_by_name(name), self._places(slot.labels)
        if places is None:
            raise Bound(self._because(slot.node, Reason.TAKES_APART))
        if self._facts.is_inside(self._facts.nodes[slot.node].outputs[0].name):
            raise Bound(Because(Reason.IN_BODY))
        if value is None or not is_wide(value) or self._facts.stored(name) is not None:
            raise Bound(Because(Reason.WEIGHTS_NARROW))
        axis = slot.axes[0] - slot.labels.ndim
        if -axis > value.ndim or value.shape[axis] != len(places) or self._facts.is_generated(name):
            raise Bound(Because(Reason.WEIGHTS_COMPUTED))
        self._order = places


STEPS: Mapping[type[Action], Callable[[_Walk, int, Any, list[Slot]], State | None]] = {
    Elementwise: _Walk._between,
    Activation: _Walk._function,
    Window: _Walk._mixed,
    Move: _Walk._moved,
    Action: _Walk._refused,
}
"""What nodes make of channels that they neither make nor end, by their actions."""
