"""Slopes of a PRelu that an Expand makes, as what it expands.

Exact: a PRelu broadcasts its slopes itself (from opset 7 on), to the same numbers.
"""

from __future__ import annotations

import onnx

from onnx_condense.forms.stack import for_good
from onnx_condense.model.protos import read_by


def unexpand(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose slopes are as small as they were stated; the model itself where they are."""
    expanded = {node.output[0]: node for node in model.graph.node if node.op_type == "Expand" and not node.domain}
    if not any(_is_expanded(node, expanded) for node in model.graph.node):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for node in result.graph.node:
        while _is_expanded(node, expanded):
            node.input[1] = expanded[node.input[1]].input[0]
    read = read_by(result.graph.node) | {value.name for value in result.graph.output}
    kept = [node for node in result.graph.node if node.output[0] in read or node.output[0] not in expanded]
    del result.graph.node[:]
    result.graph.node.extend(kept)
    return result


enter = for_good(unexpand)


def _is_expanded(node: onnx.NodeProto, expanded: dict[str, onnx.NodeProto]) -> bool:
    return node.op_type == "PRelu" and not node.domain and node.input[1] in expanded
