"""Questions about messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

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
    return read_by(graph.node) | {output.name for output in graph.output}


def read_by(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Names of the tensors that nodes read, and that the bodies in them read or give."""
    names: set[str] = set()
    for node in nodes:
        names.update(node.input)
        for body in bodies(node):
            names |= names_read(body)
    return names


def unused(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The initializers that nothing reads, but for those that a caller may set; of sparse ones their numbers."""
    graph = model.graph
    read = names_read(graph)
    if model.ir_version >= 4:  # before, every initializer was an input
        read |= {value.name for value in graph.input}
    return [t for t in (*graph.initializer, *(s.values for s in graph.sparse_initializer)) if t.name not in read]


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that a model states: in its graph, in bodies, functions and training, in sparse tensors too."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_attributes(function.attribute_proto)
        for node in function.node:
            yield from _of_attributes(node.attribute)
    for training in model.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _of_sparse(graph.sparse_initializer)
    for node in graph.node:
        yield from _of_attributes(node.attribute)


def _of_attributes(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from _of_sparse([attribute.sparse_tensor])
        yield from _of_sparse(attribute.sparse_tensors)
        if attribute.HasField("g"):
            yield from _of_graph(attribute.g)
        for body in attribute.graphs:
            yield from _of_graph(body)


def _of_sparse(found: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for tensor in found:
        yield from (tensor.values, tensor.indices)


def still_read(nodes: Iterable[onnx.NodeProto], outputs: set[str], read_before: set[str]) -> list[onnx.NodeProto]:
    """The nodes without those that made only what was read before and is not any more."""
    kept, readers = list(nodes), Counter(outputs)
    makers = {name: index for index, node in enumerate(kept) for name in node.output if name}
    reads = [read_by([node]) for node in kept]
    for names in reads:
        readers.update(names)
    gone, waiting = set[int](), list(range(len(kept)))
    while waiting:
        index = waiting.pop()
        made = [name for name in kept[index].output if name]
        if index in gone or any(readers[name] or name not in read_before for name in made):
            continue
        gone.add(index)
        readers.subtract(reads[index])
        waiting += [makers[name] for name in reads[index] if name in makers]
    return [node for index, node in enumerate(kept) if index not in gone]


def names_in(graph: onnx.GraphProto) -> set[str]:
    """Names of all tensors of a graph, those in bodies too."""
    names = names_read(graph) | {t.name for t in graph.initializer} | {v.name for v in graph.input}
    names |= {t.values.name for t in graph.sparse_initializer}
    for node in graph.node:
        names.update(node.output)
        for body in bodies(node):
            names |= names_in(body)
    return names


def drop_unread(model: onnx.ModelProto, read_before: set[str]) -> None:
    """Removes, in place, nodes and initializers that were read before and are not any more."""
    graph = model.graph
    kept = still_read(graph.node, {output.name for output in graph.output}, read_before)
    if len(kept) < len(graph.node):
        copies = onnx.GraphProto(node=kept)
        graph.ClearField("node")
        graph.node.extend(copies.node)
    gone = read_before - names_read(graph)
    for tensor in [t for t in graph.initializer if t.name in gone]:
        graph.initializer.remove(tensor)


def sparse_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Name of a sparse constant -> the shape of what it stands for."""
    kind = onnx.AttributeProto.SPARSE_TENSOR
    found = [(t.values.name, t) for t in model.graph.sparse_initializer]
    found += [(n.output[0], a.sparse_tensor) for n in model.graph.node for a in n.attribute if a.type == kind]
    return {name: tuple(tensor.dims) for name, tensor in found}


def serialize(model: onnx.ModelProto) -> bytes:
    """Deterministic bytes of a model."""
    return bytes(model.SerializeToString(deterministic=True))
