"""The bridge to GraphSurgeon, the working representation: messages into graphs, and back.

What GraphSurgeon drops on the way (model version, domain, doc strings, metadata, attribute kinds that it does not know,
value_info) is put back here, so that only what was rewritten differs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper

from onnx_condense.errors import InputError, first_line
from onnx_condense.model.protos import drop_unread, names_read

gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.CRITICAL

KINDS = onnx.AttributeProto
UNKNOWN_TO_GRAPHSURGEON = (
    KINDS.TENSORS,
    KINDS.GRAPHS,
    KINDS.SPARSE_TENSOR,
    KINDS.SPARSE_TENSORS,
    KINDS.TYPE_PROTO,
    KINDS.TYPE_PROTOS,
)
"""Attribute types that GraphSurgeon leaves out."""


def import_graph(proto: onnx.ModelProto) -> gs.Graph:
    """The working representation of a model. Raises InputError where GraphSurgeon cannot read it.

    It works on a copy: exporting a GraphSurgeon graph renames tensors of the message that it was imported from.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    try:
        return gs.import_onnx(copied)
    except Exception as error:  # GraphSurgeon raises whatever its reading trips over
        raise InputError(f"the graph cannot be read ({first_line(error)}): check it with onnx.checker") from error


def export_graph(
    graph: gs.Graph,
    original: onnx.ModelProto,
    origin: Mapping[int, int],
    edited: Iterable[int],
    shapes: Mapping[str, tuple[int, ...]],
    provenance: Mapping[str, Any],
) -> onnx.ModelProto:
    """The message for a rewritten graph, equal to the original wherever nothing was rewritten.

    Args:
        graph: the rewritten graph.
        original: the message that `graph` was imported from.
        origin: id of a GraphSurgeon node -> its index in the original message.
        edited: ids of the nodes whose inputs or attributes changed.
        shapes: the concrete shapes of the tensors that became smaller, for value_info.
        provenance: what goes into metadata_props.
    """
    edited = set(edited)
    result = onnx.ModelProto()
    result.CopyFrom(original)
    del result.graph.node[:]
    for node in graph.nodes:
        index = origin.get(id(node))
        known = onnx.NodeProto() if index is None else original.graph.node[index]
        result.graph.node.append(known if index is not None and id(node) not in edited else _exported(node, known))
    drop_unread(result, names_read(original.graph))
    _export_initializers(graph, original, result)
    _update_value_info(result, shapes)
    for key, value in provenance.items():
        _set_metadata(
            result, f"onnx_condense.{key}", value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        )
    return result


def _exported(node: gs.Node, original: onnx.NodeProto) -> onnx.NodeProto:
    """The message for a node that changed; attributes other than numbers and new constants never do."""
    proto = onnx.NodeProto()
    proto.CopyFrom(original)
    proto.op_type, proto.name, proto.domain = node.op, node.name, node.domain or ""
    proto.input[:] = [t.name for t in node.inputs]
    proto.output[:] = [t.name for t in node.outputs]
    del proto.attribute[:]
    stated = {name: value for name, value in node.attrs.items() if _is_plain(value) or _is_new(value)}
    proto.attribute.extend(
        a
        for a in original.attribute
        if a.type in UNKNOWN_TO_GRAPHSURGEON or (a.name in node.attrs and a.name not in stated)
    )
    for name, value in stated.items():
        content = numpy_helper.from_array(value.values) if isinstance(value, gs.Constant) else value
        proto.attribute.append(onnx.helper.make_attribute(name, content))
    return proto


def _is_new(value: object) -> bool:
    """A constant that was not read from the file."""
    return isinstance(value, gs.Constant) and isinstance(value._values, np.ndarray)


def _is_plain(value: object) -> bool:
    """An integer, a float, or a list of them that is not empty."""
    values = value if isinstance(value, list | tuple) else [value]
    return bool(values) and all(isinstance(v, int | float) for v in values)


def _export_initializers(graph: gs.Graph, original: onnx.ModelProto, result: onnx.ModelProto) -> None:
    """Keeps the order and the bytes of what stays, replaces what changed, appends what is new."""
    constants = {t.name: t for t in graph.tensors().values() if isinstance(t, gs.Constant)}
    used = names_read(result.graph)
    used_before = names_read(original.graph)
    del result.graph.initializer[:]
    known = set()
    for tensor in original.graph.initializer:
        known.add(tensor.name)
        if tensor.name in used_before and tensor.name not in used:
            continue
        constant = constants.get(tensor.name)
        if constant is None or not isinstance(constant._values, np.ndarray):
            result.graph.initializer.append(tensor)
            continue
        replaced = numpy_helper.from_array(constant.values, tensor.name)
        replaced.doc_string = tensor.doc_string
        result.graph.initializer.append(replaced)
    kept = {t.name for t in result.graph.initializer}
    known |= {t.values.name for t in original.graph.sparse_initializer}
    for name, constant in constants.items():
        if name not in known and name in used:
            added = numpy_helper.from_array(constant.values, name)
            result.graph.initializer.append(added)
            if result.ir_version < 4:  # every initializer had to be an input too
                result.graph.input.append(onnx.helper.make_tensor_value_info(name, added.data_type, added.dims))
    stale = [i for i in result.graph.input if i.name in known and i.name not in kept]
    for value in stale:
        result.graph.input.remove(value)
    sizes = {t.name: tuple(t.dims) for t in result.graph.initializer}
    for value in result.graph.input:
        if value.name in sizes:
            _set_dims(value, sizes[value.name])


def _update_value_info(result: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    produced = {name for node in result.graph.node for name in node.output}
    kept = [value for value in result.graph.value_info if value.name in produced]
    initializers = {t.name: tuple(t.dims) for t in result.graph.initializer}
    kept += [value for value in result.graph.value_info if value.name in initializers]
    for value in kept:
        shape = shapes.get(value.name, initializers.get(value.name))
        if shape is not None:
            _set_dims(value, shape)
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del result.graph.value_info[:]
    result.graph.value_info.extend(copies)


def _set_dims(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    """Corrects the stated sizes; symbolic ones stay, and a wrong rank is dropped rather than repeated."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return
    if len(tensor.shape.dim) != len(shape):
        tensor.ClearField("shape")
        return
    for dim, size in zip(tensor.shape.dim, shape, strict=True):
        if dim.HasField("dim_value"):
            dim.dim_value = size


def _set_metadata(model: onnx.ModelProto, key: str, value: str) -> None:
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value
            return
    model.metadata_props.add(key=key, value=value)
