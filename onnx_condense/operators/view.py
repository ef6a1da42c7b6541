"""What a row of the operator table may ask about a node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_condense.arrays import Array
from onnx_condense.operators.facts import Facts
from onnx_condense.operators.versions import input_for

PARTS = ("Slice", "Split", "Gather", "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Identity", "Cast")
"""Operators whose output is a part of their first input."""


class NodeView:
    """What a row may ask about a node."""

    def __init__(self, node: gs.Node, facts: Facts) -> None:
        self.node = node
        self.opset = facts.opset
        self._facts = facts

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.node.attrs.get(name, default)

    def has(self, index: int) -> bool:
        return index < len(self.node.inputs) and bool(self.node.inputs[index].name)

    def optional(self, index: int) -> int | None:
        """The index of an input, None where the node leaves it out."""
        return index if self.has(index) else None

    def is_used(self, output: int) -> bool:
        """Whether an optional output is read or is an output of the model."""
        tensors = self.node.outputs[output : output + 1]
        return any(t.outputs or any(t is o for o in self._facts.graph.outputs) for t in tensors if t.name)

    def value(self, index: int) -> Array | None:
        return self._facts.value(self.node.inputs[index]) if self.has(index) else None

    def type(self, index: int) -> int | None:
        """The element type of an input (TensorProto.DataType)."""
        return self._facts.types.get(self.node.inputs[index].name)

    def type_of_output(self) -> int | None:
        return self._facts.types.get(self.node.outputs[0].name)

    def is_weight(self, index: int) -> bool:
        """Whether an input is constant and can therefore be rewritten."""
        return self.has(index) and self.node.inputs[index].name in self._facts.static and self.value(index) is not None

    def is_derived(self, index: int) -> bool:
        """Whether an input is computed from shapes."""
        return self.has(index) and self.node.inputs[index].name in self._facts.derived

    def shape(self, index: int = 0) -> tuple[int, ...]:
        value = self.value(index)
        return tuple(value.shape) if value is not None else self._facts.shapes[self.node.inputs[index].name]

    def output_shape(self, index: int = 0) -> tuple[int, ...]:
        return self._facts.shapes[self.node.outputs[index].name]

    def is_zero(self, index: int) -> bool:
        """Whether an input that no data reaches is all zeros, whatever the sizes of the model's inputs."""
        name, value = self.node.inputs[index].name, self.value(index)
        others = self._facts.other_values(name)
        return value is not None and not value.any() and not any(other.any() for other in others)

    def is_given(self, index: int) -> bool:
        """Whether an input is one of the model's, maybe a part of it."""
        tensor = self.node.inputs[index]
        while tensor.inputs and tensor.inputs[0].op in PARTS:
            tensor = tensor.inputs[0].inputs[0]
        return any(tensor is given for given in self._facts.graph.inputs)

    def stated(self, name: str, default: Any = None) -> Array | None:
        """Numbers, of any shape, that old opsets keep in an attribute and new ones in an input.

        None where data reaches them.
        """
        if name in self.node.attrs:
            return np.asarray(self.node.attrs[name])
        position = input_for(self.node.op, name, self.opset)
        if position is not None and self.has(position):
            return self.value(position)
        return None if default is None else np.asarray(default)

    def is_constant(self, name: str) -> bool:
        """Whether such numbers are stated, and the same at all sizes of the model's inputs."""
        position = input_for(self.node.op, name, self.opset)
        return name in self.node.attrs or (position is not None and self.is_weight(position))

    def ints(self, name: str) -> list[int] | None:
        """As `stated`, of integers; None where they are absent, too."""
        value = self.stated(name)
        return None if value is None else [int(v) for v in value.reshape(-1)]


INTEGER_TYPES = tuple(getattr(onnx.TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64))
