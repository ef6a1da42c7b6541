"""The part of a graph that no data reaches: which tensors belong to it, and what they hold, for any shapes of the data.

It is computed by a small model of just its nodes, which can be run again for other shapes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnx_condense.arrays import Array, Shape
from onnx_condense.model.inputs import Feed
from onnx_condense.model.runtime import run, session
from onnx_condense.operators.shapes import SHAPE_OPS, shape_value

NOT_CONSTANT = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")

LARGE = 2**26
"""Largest constant in elements that is computed ahead; beyond it a constant is treated as data."""


@dataclass(frozen=True)
class Static:
    """What no data reaches.

    model: all of it. types: tensor name -> TensorProto.DataType. constant: names of tensors that follow from constants
    alone, initializers among them. derived: of those that follow from shapes, too.
    """

    model: onnx.ModelProto
    types: Mapping[str, int]
    constant: set[str]
    derived: set[str]

    @staticmethod
    def of(model: onnx.ModelProto, nodes: Iterable[gs.Node], types: Mapping[str, int]) -> Static:
        """The static part of a model, whose nodes in GraphSurgeon these are."""
        found = Static(model, types, {t.name for t in model.graph.initializer}, set())
        for node in nodes:
            found._add(node)
        return found

    def _add(self, node: gs.Node) -> None:
        names = [t.name for t in node.inputs if t.name]
        outputs = [t.name for t in node.outputs if t.name]
        if node.op == "CastLike" and names[0] in self.constant and names[1] in self.types:
            self.constant.update(outputs)
        elif node.op in SHAPE_OPS and names and names[0] not in self.constant:
            self.derived.update(outputs)
        elif self._is_known(node, names):
            (self.derived if self.derived.intersection(names) else self.constant).update(outputs)

    def _is_known(self, node: gs.Node, names: Collection[str]) -> bool:
        """Whether a node computes the same from the same inputs, all of which are known."""
        has_body = any(isinstance(a, gs.Graph) for a in node.attrs.values())
        known = all(name in self.constant or name in self.derived for name in names)
        return known and not has_body and node.op not in NOT_CONSTANT

    @cached_property
    def known(self) -> set[str]:
        """Names of all static tensors."""
        return self.constant | self.derived

    def values(self, shapes: Mapping[str, Shape]) -> dict[str, Array]:
        """What static tensors, of any shape, hold where data has these shapes."""
        return self._computed(self._nodes, shapes)

    def derived_values(self, shapes: Mapping[str, Shape]) -> dict[str, Array]:
        """As `values`, of any shape, of derived tensors alone."""
        found = self._computed(self._derived_nodes, shapes)
        return {name: value for name, value in found.items() if name in self.derived}

    @cached_property
    def _nodes(self) -> list[onnx.NodeProto]:
        nodes = self.model.graph.node
        return [n for n in nodes if any(n.output) and all(name in self.known for name in n.output if name)]

    @cached_property
    def _derived_nodes(self) -> list[onnx.NodeProto]:
        """The nodes that derived tensors need."""
        needed, found = set(self.derived), []
        for node in reversed(self._nodes):
            if needed.intersection(node.output):
                found.append(node)
                needed.update(() if self._takes_a_shape(node) else node.input)
        return found[::-1]

    def _computed(self, nodes: Iterable[onnx.NodeProto], shapes: Mapping[str, Shape]) -> dict[str, Array]:
        feed: Feed = {}
        running: list[onnx.NodeProto] = []
        for node in nodes:
            if self._takes_a_shape(node) and node.input[0] in shapes:
                feed[node.output[0]] = shape_value(node, shapes[node.input[0]])
            else:
                running.append(self._plain_cast(node))
        return feed | self._run(running, feed) if running else feed

    def _takes_a_shape(self, node: onnx.NodeProto) -> bool:
        """Whether a node makes a number of the shape of data."""
        return node.op_type in SHAPE_OPS and node.input[0] not in self.known

    def _plain_cast(self, proto: onnx.NodeProto) -> onnx.NodeProto:
        """CastLike takes nothing but the type from its second input."""
        if proto.op_type != "CastLike":
            return proto
        return helper.make_node("Cast", [proto.input[0]], list(proto.output), to=self.types[proto.input[1]])

    def _run(self, nodes: Collection[onnx.NodeProto], feed: Feed) -> dict[str, Array]:
        read = {name for node in nodes for name in node.input}
        wanted = [name for node in nodes for name in node.output if name]
        fed = {name: value for name, value in feed.items() if name in read}
        graph = onnx.GraphProto(
            name="static",
            node=nodes,
            initializer=[t for t in self.model.graph.initializer if t.name in read],
            input=[helper.make_tensor_value_info(n, onnx.TensorProto.INT64, None) for n in fed],
            output=[onnx.ValueInfoProto(name=name) for name in wanted],
        )
        found = run(session(alone(self.model, graph), optimize=False), wanted, fed)
        return {name: value for name, value in zip(wanted, found, strict=True) if _is_kept(value)}


def _is_kept(value: Array) -> bool:
    """Whether a value is an array, no sequence, and not too large to be computed ahead."""
    return isinstance(value, np.ndarray) and value.size <= LARGE


def alone(model: onnx.ModelProto, graph: onnx.GraphProto) -> onnx.ModelProto:
    """A small model of some nodes of another one."""
    return onnx.ModelProto(
        ir_version=max(model.ir_version, 4), graph=graph, opset_import=model.opset_import, functions=model.functions
    )
