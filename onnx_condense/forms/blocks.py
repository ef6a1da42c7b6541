"""Blocks of transformers that onnxruntime's optimizer writes as one node: apart while traced, one again afterwards.

Exact: the parts compute what the node does. What was written is put together where its parts still are what the node
can hold; where they are not (a table that became a pair of factors), the parts stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import onnx

from onnx_condense.forms import attention, normalized
from onnx_condense.forms.pieces import Pieces
from onnx_condense.forms.splitting import DOMAIN, Around, Splitter
from onnx_condense.forms.stack import Entered
from onnx_condense.model.inference import symbolic_shapes
from onnx_condense.model.names import Names
from onnx_condense.model.protos import drop_unread, names_read, opset_of, read_by


@dataclass(frozen=True)
class Block:
    """How an operator is taken apart and put together.

    apart: makes its parts, nodes in order, or None where this use of it stays. together: the node that pieces of a
    written model are again, or None where they are not.
    """

    apart: Callable[[Splitter], Sequence[onnx.NodeProto] | None]
    together: Callable[[Pieces], onnx.NodeProto | None]


BLOCKS: Mapping[str, Block] = {
    "Attention": Block(attention.apart, attention.together),
    "SkipLayerNormalization": Block(normalized.apart, normalized.together),
    "SkipSimplifiedLayerNormalization": Block(normalized.apart, normalized.together),
    "EmbedLayerNormalization": Block(normalized.embedded_apart, normalized.embedded_together),
}


def enter(entered: Entered) -> Entered:
    """A model with its blocks apart; the model itself where there is none."""
    source = entered.model
    if not any(_is_block(node) for node in source.graph.node):
        return entered
    model = onnx.ModelProto()
    model.CopyFrom(source)
    around, taken = _around(source), list[onnx.NodeProto]()
    del model.graph.node[:]
    for node in source.graph.node:
        parts = BLOCKS[node.op_type].apart(Splitter(node, around)) if _is_block(node) else None
        if parts is not None:
            taken.append(node)
        model.graph.node.extend([node] if parts is None else parts)
    return entered.then(model, partial(_leave, taken), plain=True) if taken else entered


def _around(model: onnx.ModelProto) -> Around:
    shapes, inputs = symbolic_shapes(model), {value.name for value in model.graph.input}
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name not in inputs}
    batches = {shapes[name][0] for name in inputs - weights.keys() if len(shapes.get(name, ())) > 1}
    batch = batches.pop() if len(batches) == 1 else None
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    read = names_read(model.graph)
    names = Names.of(model.graph), Names.of_nodes(model.graph)
    return Around(opset_of(model.opset_import), *names, weights, shapes, batch, makers, read)


def _is_block(node: onnx.NodeProto) -> bool:
    return node.domain == DOMAIN and node.op_type in BLOCKS


def _leave(taken: Sequence[onnx.NodeProto], written: onnx.ModelProto, traced: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its blocks in one node each, as far as they can be."""
    model = onnx.ModelProto()
    model.CopyFrom(written)
    nodes = list(model.graph.node)
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in taken:
        pieces = Pieces(node, nodes, makers, weights)
        made = BLOCKS[node.op_type].together(pieces)
        if made is None:
            continue
        places = sorted({makers[name] for name in made.output if name in makers})
        if read_by(nodes[places[0] : places[-1]]) & set(made.output):  # before all of it is there
            continue
        for index in places:
            nodes[index] = onnx.NodeProto()
        nodes[places[-1]] = made
    del model.graph.node[:]
    model.graph.node.extend(node for node in nodes if node.op_type)
    drop_unread(model, names_read(written.graph))
    _name_apart(model.graph, {node.name for node in taken if node.name})
    return model


def _name_apart(graph: onnx.GraphProto, blocks: set[str]) -> None:
    """Parts that are left beside their block have a name of their own, too."""
    labels = Names.of_nodes(graph)
    named = Counter(node.name for node in graph.node)
    for node in graph.node:
        if node.name in blocks and named[node.name] > 1 and not _is_block(node):
            node.name = labels.fresh(f"{node.name}_{node.op_type}")
