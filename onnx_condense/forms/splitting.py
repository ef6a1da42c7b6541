"""What a fused node is taken apart with: its graph, and a maker of its parts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_condense.arrays import Array
from onnx_condense.model.inference import Dims
from onnx_condense.model.names import Names
from onnx_condense.operators.versions import input_for

DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class Around:
    """The graph in which a fused node stands.

    labels: names of nodes. weights: initializers that no caller sets. shapes: of tensors as far as they are known.
    batch: the first size of all inputs that have several axes. makers: of tensors, the operators. read: tensors that
    something reads.
    """

    opset: int
    names: Names
    labels: Names
    weights: Mapping[str, onnx.TensorProto] = field(default_factory=dict)
    shapes: dict[str, Dims] = field(default_factory=dict)
    batch: int | str | None = None
    makers: Mapping[str, str] = field(default_factory=dict)
    read: Collection[str] = ()


class Splitter:
    """Makes the parts of one fused node, in order; the last one has its output."""

    def __init__(self, node: onnx.NodeProto, around: Around) -> None:
        self.node = node
        self.around = around
        self.opset = around.opset
        self.attributes = {a.name: a for a in node.attribute}
        self._names = around.names
        self._made: list[onnx.NodeProto] = []

    def has(self, index: int) -> bool:
        """Whether an input is there."""
        return index < len(self.node.input) and bool(self.node.input[index])

    def add(
        self, op: str, inputs: Sequence[str], domain: str = "", part: str = "", named: str = "", **attributes: Any
    ) -> str:
        """A part; returns the name of its output: `named`, or one that ends in `part` or the operator."""
        output = named or self._names.fresh(f"{self.node.output[0]}_{part or op}")
        name = self.node.name
        if self._made and name:
            name = self.around.labels.fresh(f"{name}_{part or op}")
        self._made.append(helper.make_node(op, inputs, [output], name=name, domain=domain, **attributes))
        return output

    def is_read(self, output: int) -> bool:
        """Whether an optional output is."""
        return output < len(self.node.output) and self.node.output[output] in self.around.read

    def weight(self, index: int) -> onnx.TensorProto | None:
        """The initializer at an input, if it is one."""
        return self.around.weights.get(self.node.input[index]) if self.has(index) else None

    def constant(self, value: Array, part: str) -> str:
        """A constant, of any shape."""
        return self.add("Constant", [], part=part, value=numpy_helper.from_array(value))

    def split(self, data: str, sizes: Sequence[int]) -> list[str]:
        """Parts of these sizes along the last axis."""
        stated = input_for("Split", "split", self.opset)
        inputs = [data] if stated is None else [data, self.constant(np.array(sizes), "sizes")]
        attributes: dict[str, Any] = {"split": list(sizes)} if stated is None else {}
        made = self.add("Split", inputs, axis=-1, **attributes)
        others = [self._names.fresh(made) for _ in sizes[1:]]
        self._made[-1].output.extend(others)
        return [made, *others]

    def like(self, op: str, inputs: Sequence[str], domain: str = "") -> str:
        """A part that has the fused node's attributes, but for those of the activation."""
        output = self.add(op, inputs, domain)
        self._made[-1].attribute.extend(a for name, a in self.attributes.items() if not name.startswith("activation"))
        return output

    def finish(self) -> Iterator[onnx.NodeProto]:
        """The parts."""
        self._made[-1].output[0] = self.node.output[0]
        yield from self._made
