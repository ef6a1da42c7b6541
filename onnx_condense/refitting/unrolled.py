"""Recurrent nodes alone: their states on calibration inputs, by weights that are fed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from onnx_condense.arrays import Array, Bools, Ints
from onnx_condense.model.parts import with_inputs
from onnx_condense.model.runtime import run, session, to_bytes
from onnx_condense.operators.actions import Recurrent
from onnx_condense.operators.nodes import unrolled
from onnx_condense.refitting.samples import Shard
from onnx_condense.refitting.staged import Chain
from onnx_condense.tracing.trace import Trace, layer_name

LENGTHS, FIRST = 4, 5
"""Inputs of a recurrent node: how many steps each sample has, and the states before the first."""

STATES = "states"
"""Name of what it makes."""

Weights = Mapping[int, Array]
"""Weights of a recurrent node, by input."""


@dataclass(frozen=True, eq=False)
class Cell:
    """A recurrent node in the graph, whatever twin it is in; workers get it.

    Attributes:
        node: its index. layer: its name, for people.
        action: what it does.
        model: bytes of a model that is this node, whose inputs are all of the node's (see `name_of`).
        data: inputs that are no weights, by number: names of tensors.
        fixed: those that are constants, by number.
        original: its weights as they were.
    """

    node: int
    layer: str
    action: Recurrent
    model: bytes
    data: Mapping[int, str]
    fixed: Mapping[int, Array]
    original: Weights

    @staticmethod
    def of(trace: Trace, index: int) -> Cell | None:
        """None of a node whose weights are no floats of its own."""
        facts, action = trace.facts, trace.actions[index].recurrent
        node = facts.nodes[index]
        inputs = {number: tensor for number, tensor in enumerate(node.inputs) if tensor.name}
        if action is None or facts.is_inside(next(t.name for t in node.outputs if t.name)):
            return None
        weights = {n: facts.value(inputs[n]) for n in (*action.weights, action.bias, action.peepholes) if n is not None}
        known = {n: value for n, value in weights.items() if value is not None}
        if len(known) < len(weights) or any(value.dtype not in (np.float32, np.float64) for value in known.values()):
            return None
        if any(facts.stored(inputs[n].name) is not None for n in known):
            return None
        rest = {number: tensor for number, tensor in inputs.items() if number not in known}
        given = {number: facts.value(tensor) for number, tensor in rest.items() if tensor.name in facts.static}
        fixed = {number: value for number, value in given.items() if value is not None}
        data = {number: tensor.name for number, tensor in rest.items() if number not in fixed}
        if action.data not in data:
            return None
        alone = _alone(facts.model, index, inputs)
        return Cell(index, layer_name(node, index), action, alone, data, fixed, known)

    @property
    def recurrent(self) -> int:
        """The input that is R."""
        return self.action.weights[1]

    @cached_property
    def units(self) -> int:
        """How many there are in each direction."""
        return int(self.original[self.recurrent].shape[2])

    def run(self, active: Any, fed: Mapping[int, Array]) -> Array:
        """[steps, directions, samples, units] its states. Raises InputError."""
        (states,) = run(active, [STATES], {name_of(number): value for number, value in fed.items()})
        return states

    def open(self, fed: Mapping[int, Array]) -> Any:
        """A session for inputs of these types, of any shape."""
        return session(with_inputs(self.model, {name_of(number): value for number, value in fed.items()}))


def name_of(number: int) -> str:
    """The name of an input of a node alone."""
    return f"input{number}"


def _alone(model: onnx.ModelProto, index: int, inputs: Mapping[int, Any]) -> bytes:
    names = [name_of(n) if n in inputs else "" for n in range(max(inputs) + 1)]
    node = unrolled(model.graph.node[index], names, STATES)
    graph = onnx.GraphProto(name=STATES, node=[node], output=[onnx.ValueInfoProto(name=STATES)])
    return to_bytes(onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=graph))


@dataclass(frozen=True, eq=False)
class Steps:
    """Some samples of a calibration: what a recurrent node reads and makes in the original model, and reads by now.

    numbers: [samples]. fed: its inputs in the original model. states: [steps, directions, samples, units] of it.
    data: [steps, samples, channels] what it reads now, zeros where channels are gone.
    """

    cell: Cell
    numbers: Ints
    fed: Mapping[int, Array]
    states: Array
    data: Array

    def of_samples(self, chosen: Ints) -> Steps:
        """Those of some samples [k]."""
        axes = {self.cell.action.data: 1, LENGTHS: 0}
        fed = {number: value.take(chosen, axes.get(number, 1)) for number, value in self.fed.items()}
        return Steps(self.cell, self.numbers[chosen], fed, self.states[:, :, chosen], self.data[:, chosen])

    def by(self, weights: Weights, active: Any) -> Array:
        """[steps, directions, samples, units] its states on what it reads now, by these weights."""
        return self.cell.run(active, {**self.fed, **weights, self.cell.action.data: self.data})

    def before(self, states: Array, direction: int) -> Array:
        """[steps, samples, units] what each step begins with, of states [steps, directions, samples, units]."""
        first = np.zeros_like(states[:1, direction])
        if FIRST in self.fed:
            first[0] = self.fed[FIRST][direction]
        line = states[:, direction]
        backward = self.cell.action.backward[direction]
        return np.concatenate([line[1:], first]) if backward else np.concatenate([first, line[:-1]])


@dataclass(frozen=True, eq=False)
class Unrolled:
    """A recurrent node in the original model and in a condensed one, run as far as it.

    before, after: as far as what it reads. reads: [channels] which of its data are still there.
    """

    cell: Cell
    before: Chain
    after: Chain
    reads: Bools

    def __call__(self, shard: Shard) -> Iterator[tuple[Steps, Any]]:
        """Feed by feed, with a session of the node alone. Raises InputError."""
        cell, first, active = self.cell, shard.first, None
        feeds, name = shard.feeds(), cell.data[cell.action.data]
        for before, after in zip(self.before(shard.first, feeds), self.after(shard.first, feeds), strict=True):
            fed = {number: before[tensor] for number, tensor in cell.data.items()} | dict(cell.fixed)
            active = active or cell.open({**fed, **cell.original})
            states = cell.run(active, {**fed, **cell.original})
            data = np.zeros((*after[name].shape[:2], len(self.reads)), after[name].dtype)
            data[..., self.reads] = after[name]
            yield Steps(cell, np.arange(first, first + data.shape[1]), fed, states, data), active
            first += data.shape[1]
