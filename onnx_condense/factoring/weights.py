"""The weights that may become pairs of factors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from onnx_condense.arrays import Array, Bools, Floats, Ints
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.factors import Bands, Factor
from onnx_condense.merging.twin import Twin
from onnx_condense.model.held import by_rows
from onnx_condense.operators.actions import Contraction
from onnx_condense.operators.answers import Role
from onnx_condense.operators.reasons import Because, Reason
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Refusal, Trace, layer_name

OVERHEAD = 512
"""Bytes that the file grows by with one more node and its names, about."""


@dataclass(frozen=True, eq=False)
class Factorable:
    """A weight that may become a pair: m outputs, each of n numbers, as a table of n rows holds m of them.

    Attributes:
        node, input: index of the node in the graph, and of its weight among the node's inputs.
        layer: its name, for people. name: the weight's.
        produced, read: the axes of the weight along which its outputs lie, and what it reads, or the table's rows.
        shape: of the weight.
        lookup: whether it is a table.
    """

    node: int
    input: int
    layer: str
    name: str
    produced: int
    read: int
    shape: tuple[int, ...]
    lookup: bool

    @property
    def place(self) -> tuple[int, int]:
        """Node and input."""
        return self.node, self.input

    @property
    def outputs(self) -> int:
        """m."""
        return self.shape[self.produced]

    @property
    def inputs(self) -> int:
        """n."""
        return prod(self.shape) // self.outputs

    @property
    def full(self) -> int:
        """The rank above which there is none."""
        return min(self.outputs, self.inputs)

    def matrix(self, twin: Twin) -> Floats:
        """[m, n] what a twin holds of it."""
        moved = np.moveaxis(twin.weight(*self.place), self.produced, 0)
        return moved.reshape(len(moved), -1)

    def within(self, basis: Floats, value: Array) -> Array:
        """What is left of the weight, whatever it holds, where its outputs lie in a basis [m, r]."""
        moved = np.moveaxis(value, self.produced, 0)
        inside = basis @ (basis.T @ moved.reshape(len(moved), -1))
        return np.asarray(np.moveaxis(inside.reshape(moved.shape), 0, self.produced).astype(value.dtype))

    def rows_within(self, basis: Floats, bands: Bands | None, value: Array, rows: Ints) -> Array:
        """As `within`, of rows [k] of a table that alone are asked for; the others stay as they are."""
        found = by_rows(value, np.copy)
        numbers = basis.T @ value[rows].T
        if bands is not None:
            bands.cut(numbers, rows)
        found[rows] = (basis @ numbers).T
        return found

    def alive(self, twin: Twin) -> tuple[Bools, Bools]:
        """[m] and [n] which of its outputs and of what it reads are still there in a twin."""
        rows, columns = np.ones(self.outputs, dtype=bool), np.ones(self.inputs, dtype=bool)
        for slot in twin.trace.slots_at(self.node):
            if slot.input == self.input and slot.role is not Role.CARRIED:
                atoms = atoms_of(slot.labels.reshape(-1))
                found = (atoms < 0) | twin.alive[twin.trace.unit_of[atoms]]
                (rows if slot.role is Role.PRODUCED else columns)[:] = found
        return rows, columns

    def factor(self, twin: Twin, basis: Floats, source: Evidence | None, bands: Bands | None = None) -> Factor:
        """The pair with a basis [m, r], in the type of its numbers."""
        kind = np.result_type(twin.weight(*self.place).dtype, np.float32)
        return Factor(self.node, self.input, self.layer, source, basis.astype(kind), bands)

    def pays(self, twin: Twin) -> int:
        """The highest rank at which a pair makes the file smaller, of what is still there in a twin; 0 of none.

        Rows that take up others for a product of data lie in no basis of what was read: such a weight stays whole.
        """
        if twin.is_turned(self.place):
            return 0
        rows, columns = (int(alive.sum()) for alive in self.alive(twin))
        overhead = OVERHEAD // twin.weight(*self.place).dtype.itemsize
        return max(0, -(-(rows * columns - overhead) // max(1, rows + columns)) - 1)


def factorable(trace: Trace) -> Iterator[Factorable]:
    """The weights that may become pairs, in graph order.

    Dense weights, kernels of 1x1 convolutions and tables, of 32 bits and more, which one node alone reads as they are.
    """
    for node, action, value in _linear_maps(trace):
        if _whole(trace, node, action, value) is None:
            name = trace.facts.nodes[node].inputs[action.weight].name
            axes = action.axis(Role.PRODUCED), _read(action)
            layer = _layer(trace, node, action)
            yield Factorable(node, action.weight, layer, name, *axes, value.shape, action.lookup)


def whole(trace: Trace) -> Iterator[Refusal]:
    """Why the other weights of linear maps stay whole, in graph order."""
    for node, action, value in _linear_maps(trace):
        reason = _whole(trace, node, action, value)
        if reason is not None:
            yield Refusal(_layer(trace, node, action), Because(reason), value.size)


def _linear_maps(trace: Trace) -> Iterator[tuple[int, Contraction, Array]]:
    """(node, what it is, its weight), in graph order."""
    for node in sorted(trace.actions):
        action = trace.linear_map(node)
        value = None if action is None else trace.facts.value(trace.facts.nodes[node].inputs[action.weight])
        if action is not None and value is not None:
            yield node, action, value


def _layer(trace: Trace, node: int, action: Contraction) -> str:
    found = trace.facts.nodes[node]
    return found.name or (found.inputs[action.weight].name if action.lookup else layer_name(found, node))


def is_wide(value: Array) -> bool:
    """Whether numbers of any shape are floats that a product of two matrices does not round by much."""
    return value.dtype.kind == "f" and value.dtype.itemsize >= 4


def _read(action: Contraction) -> int:
    """The axis of the weight that is contracted, or that of the table's rows."""
    return 0 if action.lookup else action.axis(Role.CONTRACTED)


def _whole(trace: Trace, node: int, action: Contraction, value: Array) -> Reason | None:
    """Why a weight, of any shape, is no pair; None where it may be one."""
    if not is_wide(value):
        return Reason.WEIGHTS_NARROW
    if action.groups > 1:
        return Reason.GROUPED
    if action.scattered:
        return Reason.SCATTERS
    return _held_otherwise(trace, node, trace.facts.nodes[node].inputs[action.weight].name) or _laid(
        trace, node, action, value
    )


def _held_otherwise(trace: Trace, node: int, name: str) -> Reason | None:
    """Why a weight cannot be another one in the file."""
    facts, maker = trace.facts, trace.facts.maker(name)
    if name not in facts.initializers and (maker is None or facts.nodes[maker].inputs):
        return Reason.WEIGHTS_NARROW if facts.stored(name) is not None else Reason.WEIGHTS_COMPUTED
    if len(facts.consumers(name)) != 1 or name in facts.read_outside:
        return Reason.WEIGHTS_USED_ELSEWHERE
    if facts.stored(name) is not None:
        return Reason.WEIGHTS_NARROW
    if facts.is_generated(name):
        return Reason.WEIGHTS_COMPUTED
    return Reason.IN_BODY if facts.is_inside(facts.nodes[node].outputs[0].name) else None


def _laid(trace: Trace, node: int, action: Contraction, value: Array) -> Reason | None:
    """Why a weight, of any shape, is no matrix that stands before another one."""
    produced, read = action.axis(Role.PRODUCED), _read(action)
    if value.size != value.shape[produced] * value.shape[read]:
        return Reason.WINDOWED
    made, reads = trace.made.get((node, action.weight)), trace.reading(node, action.weight)
    plain = all(slot is None or slot.axes in ((), (slot.axis,)) for slot in (made, reads))
    behind = len(action.output_axes) - 1 - action.output_axis
    fits = plain and (action.is_kernel or behind == 0 or (behind == 1 and not action.lookup))
    return None if fits else Reason.LAID_OUT
