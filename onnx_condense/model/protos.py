"""Questions about messages."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

FLOAT_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
"""TensorProto.DataType of `arrays.FLOATS`."""

PROTOBUF_LIMIT = 2**31 - 1
"""Largest serialized message in bytes; beyond it weights must live in a file of their own."""


def opset_of(imports: Iterable[onnx.OperatorSetIdProto]) -> int:
    """The version of the standard operators among the opsets of a model or function; 1 where none is stated."""
    return next((o.version for o in imports if o.domain in ("", "ai.onnx")), 1)


def names_read(graph: onnx.GraphProto) -> set[str]:
    """Names of the tensors that nodes read, in bodies too, or that are outputs."""
    names = {output.name for output in graph.output}
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                names |= names_read(body)
    return names


def names_in(graph: onnx.GraphProto) -> set[str]:
    """Names of all tensors of a graph, those in bodies too."""
    names = names_read(graph) | {t.name for t in graph.initializer} | {v.name for v in graph.input}
    names |= {t.values.name for t in graph.sparse_initializer}
    for node in graph.node:
        names.update(node.output)
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                names |= names_in(body)
    return names


def drop_unread(model: onnx.ModelProto, read_before: set[str]) -> None:
    """Removes, in place, nodes and initializers that were read before and are not any more."""
    graph, count = model.graph, -1
    while len(graph.node) != count:
        count, gone = len(graph.node), read_before - names_read(graph)
        for node in [n for n in graph.node if gone.issuperset(filter(None, n.output))]:
            graph.node.remove(node)
        for tensor in [t for t in graph.initializer if t.name in gone]:
            graph.initializer.remove(tensor)


def serialize(model: onnx.ModelProto) -> bytes:
    """Deterministic bytes of a model."""
    return bytes(model.SerializeToString(deterministic=True))
