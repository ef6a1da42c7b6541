"""The bridge to GraphSurgeon, the working representation: messages into graphs, and back.

What GraphSurgeon drops on the way (model version, domain, doc strings, metadata, attribute kinds that it does not know,
value_info) is put back here, so that only what was rewritten differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper

from onnx_condense.errors import InputError, first_line
from onnx_condense.model.rebuilt import Rebuilt

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
    nodes = []
    for node in graph.nodes:
        index = origin.get(id(node))
        known = onnx.NodeProto() if index is None else original.graph.node[index]
        nodes.append(known if index is not None and id(node) not in edited else _exported(node, known))
    constants = {t.name: t.values for t in graph.tensors().values() if _is_new(t)}
    return Rebuilt(original, nodes, constants).message(shapes, provenance)


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
