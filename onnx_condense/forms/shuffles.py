"""Chains of data movement that only permute or pick channels, written as a Gather of the channels themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_condense.arrays import Ints
from onnx_condense.model.names import Names
from onnx_condense.model.surgeon import export_graph, import_graph
from onnx_condense.operators.facts import Facts

INDEX = np.int32
"""The type of indices."""


@dataclass(frozen=True, eq=False)
class Shuffle:
    """Node `node` does what Gather(source, indices, axis) does."""

    node: int
    source: str
    axis: int
    indices: Ints


@dataclass(frozen=True, eq=False)
class Pick(Shuffle):
    """Node `node` does what that Gather does, reshaped as by the node `reshape` without `dropped`, then transposed."""

    reshape: int
    dropped: int
    order: tuple[int, ...]


def replace_shuffles(facts: Facts, found: Sequence[Shuffle]) -> onnx.ModelProto:
    """A model with a Gather in place of each chain; what only the chains read is gone."""
    graph = import_graph(facts.model)
    nodes, tensors, names = list(graph.nodes), graph.tensors(), Names.of(facts.model.graph)
    origin = {id(node): index for index, node in enumerate(nodes)}
    for shuffle in found:
        node, source = nodes[shuffle.node], tensors[shuffle.source]
        channels = gs.Constant(names.fresh(f"{node.outputs[0].name}_channels"), shuffle.indices.astype(INDEX))
        node.op, node.attrs, node.inputs = "Gather", {"axis": shuffle.axis}, [source, channels]
        if isinstance(shuffle, Pick):
            place = next(i for i, n in enumerate(graph.nodes) if n is node)
            graph.nodes[place:place] = _reshaped(node, shuffle, nodes[shuffle.reshape], names)
    return export_graph(graph, facts.model, origin, {id(nodes[s.node]) for s in found}, {}, {})


def _reshaped(node: gs.Node, pick: Pick, reshape: gs.Node, names: Names) -> list[gs.Node]:
    """The Gather of a pick, what states its shape, and its Reshape; the node itself becomes its Transpose."""
    stem = node.outputs[0].name
    picked, reshaped = gs.Variable(names.fresh(f"{stem}_picked")), gs.Variable(names.fresh(f"{stem}_reshaped"))
    added = [gs.Node("Gather", picked.name, node.attrs, list(node.inputs), [picked])]
    stated, kept = reshape.inputs[1], np.delete(np.arange(len(pick.order) + 1), pick.dropped)
    if isinstance(stated, gs.Constant):
        shape = gs.Constant(names.fresh(f"{stem}_shape"), stated.values[kept])
    else:
        shape = gs.Variable(names.fresh(f"{stem}_shape"))
        places = gs.Constant(names.fresh(f"{stem}_kept"), kept)
        added.append(gs.Node("Gather", shape.name, {}, [stated, places], [shape]))
    added.append(gs.Node("Reshape", reshaped.name, dict(reshape.attrs), [picked, shape], [reshaped]))
    node.op, node.attrs, node.inputs = "Transpose", {"perm": list(pick.order)}, [reshaped]
    return added
