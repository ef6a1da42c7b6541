"""What differs between two models, layer by layer: weights, parameters, nodes that are in one of them only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import onnx

from onnx_condense.documents import head
from onnx_condense.model.files import Source
from onnx_condense.model.held import numbers
from onnx_condense.model.protos import FLOAT_TYPES, bodies
from onnx_condense.operators.queries import count_parameters

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LayerDifference:
    """A node of both models whose weights differ.

    before, after: shapes of its weights. parameters_before, parameters_after: its floats, shared ones at each reader.
    """

    layer: str
    operator: str
    before: tuple[Shape, ...]
    after: tuple[Shape, ...]
    parameters_before: int
    parameters_after: int


@dataclass(frozen=True)
class NodeOfOne:
    """A node that one of two models lacks."""

    layer: str
    operator: str


@dataclass(frozen=True)
class Difference:
    """What differs between two models.

    models: their names. parameters: of each (see ModelFacts). layers: nodes of both whose weights differ.
    removed, added: nodes of the first only, and of the second only. unchanged: how many nodes have the same weights.
    """

    models: tuple[str, str]
    parameters: tuple[int, int]
    layers: tuple[LayerDifference, ...]
    removed: tuple[NodeOfOne, ...]
    added: tuple[NodeOfOne, ...]
    unchanged: int

    def to_json(self) -> dict[str, Any]:
        """The difference as a JSON object."""
        return head("difference", 1) | asdict(self)


@dataclass(frozen=True)
class Layer:
    """A node with the weights that it reads."""

    node: onnx.NodeProto
    weights: tuple[onnx.TensorProto, ...]

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """Of its weights."""
        return tuple(tuple(tensor.dims) for tensor in self.weights)

    @property
    def parameters(self) -> int:
        """Floats among them, without scalars."""
        return sum(prod(t.dims) for t in self.weights if t.dims and t.data_type in FLOAT_TYPES)

    def same(self, other: Layer) -> bool:
        """Whether another one has the same weights, number by number."""
        kinds = [[t.data_type for t in layer.weights] for layer in (self, other)]
        if self.shapes != other.shapes or kinds[0] != kinds[1]:
            return False
        pairs = zip(self.weights, other.weights, strict=True)
        return all(_content(a) == _content(b) for a, b in pairs)


def difference(a: Source, b: Source, names: tuple[str, str]) -> Difference:
    """What differs from model a in model b; nodes are known by their names, else by their first outputs."""
    first, second = _layers(a.proto.graph), _layers(b.proto.graph)
    both = [key for key in first if key in second]
    changed = [key for key in both if not first[key].same(second[key])]
    layers = tuple(_changed(key[0], first[key], second[key]) for key in changed)
    removed, added = _only(first, second), _only(second, first)
    sizes = count_parameters(a.proto.graph)[0], count_parameters(b.proto.graph)[0]
    return Difference(names, sizes, layers, removed, added, len(both) - len(changed))


def _content(tensor: onnx.TensorProto) -> Any:
    """What two tensors of one shape and type are told apart by; a NaN is like itself."""
    found = numbers(tensor)
    return found.tolist() if found.dtype.hasobject else found.tobytes()


Key = tuple[str, str, int]
"""A node: its name, its operator, and how many of both came before."""


def _changed(name: str, before: Layer, after: Layer) -> LayerDifference:
    sizes = before.parameters, after.parameters
    return LayerDifference(name, before.node.op_type, before.shapes, after.shapes, *sizes)


def _only(these: Mapping[Key, Layer], others: Mapping[Key, Layer]) -> tuple[NodeOfOne, ...]:
    return tuple(NodeOfOne(key[0], key[1]) for key in these if key not in others)


def _layers(graph: onnx.GraphProto) -> dict[Key, Layer]:
    found: dict[Key, Layer] = {}
    seen: dict[tuple[str, str], int] = {}
    for layer in walk(graph, {}):
        name = layer.node.name or next(iter(layer.node.output), "")
        place = seen[name, layer.node.op_type] = seen.get((name, layer.node.op_type), -1) + 1
        found[name, layer.node.op_type, place] = layer
    return found


def walk(graph: onnx.GraphProto, around: Mapping[str, onnx.TensorProto]) -> Iterator[Layer]:
    """The nodes of a graph and of the bodies in it; constants are weights of those that read them."""
    known = {**around, **{tensor.name: tensor for tensor in graph.initializer}}
    for node in graph.node:
        constant = next((a.t for a in node.attribute if a.HasField("t")), None)
        if constant is not None and not node.input:
            known[node.output[0]] = constant
            continue
        yield Layer(node, tuple(known[name] for name in node.input if name in known))
        for body in bodies(node):
            yield from walk(body, known)
