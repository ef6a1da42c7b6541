"""Truncated SVD of every matrix of a model, a baseline without data: one share of each weight's own numbers is kept."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[np.floating]

NOTHING = "no bias of a first factor"
"""An initializer: below operator set 11 a Gemm must have a bias."""


def truncated(model: onnx.ModelProto, kept: float) -> onnx.ModelProto:
    """The model with two factors for every weight of a Gemm or MatMul and every 1x1 Conv of one group.

    kept: the factors of a weight have at most this share of its numbers; a weight of which no rank is left, or that
    other nodes read too, stays.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, weights = made.graph, {tensor.name: tensor for tensor in made.graph.initializer}
    reads = [name for node in graph.node for name in node.input]
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        tensor = weights.get(node.input[1]) if len(node.input) > 1 else None
        if tensor is None or reads.count(tensor.name) > 1 or not _is_matrix(node, tensor):
            nodes.append(node)
            continue
        value = numpy_helper.to_array(tensor)
        left, right = _factors(value.reshape(value.shape[:2]), kept)
        if left is None or right is None:
            nodes.append(node)
            continue
        ends = value.shape[2:]
        graph.initializer.remove(tensor)
        for end, factor in (("a", left), ("b", right)):
            graph.initializer.append(numpy_helper.from_array(factor.reshape(*factor.shape, *ends), tensor.name + end))
        nodes += _pair(node, tensor.name)
    if any(NOTHING in node.input for node in nodes):
        graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), NOTHING))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return made


def _is_matrix(node: onnx.NodeProto, tensor: onnx.TensorProto) -> bool:
    """Whether the node multiplies its data by this weight as by one matrix."""
    stated = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return False
    if node.op_type == "Conv":
        return list(tensor.dims[2:]) == [1] * (len(tensor.dims) - 2) and stated.get("group", 1) == 1
    plain = node.op_type == "MatMul" or (node.op_type == "Gemm" and stated.get("alpha", 1.0) == 1.0)
    return plain and len(tensor.dims) == 2


def _factors(matrix: Array, kept: float) -> tuple[Array | None, Array | None]:
    """[m, r] and [r, n], whose product is the nearest of its rank to [m, n]."""
    rank = int(kept * matrix.size / sum(matrix.shape))
    if rank < 1 or rank >= min(matrix.shape):
        return None, None
    u, s, v = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return (u[:, :rank] * s[:rank]).astype(matrix.dtype), v[:rank].astype(matrix.dtype)


def _pair(node: onnx.NodeProto, weight: str) -> list[onnx.NodeProto]:
    """Two nodes in the place of one: the bias, strides and pads of Conv and Gemm go where they compute the same."""
    between = f"{node.output[0]}/between"
    second = onnx.NodeProto()
    second.CopyFrom(node)
    stated = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    data, turned = node.input[0], node.op_type == "Conv" or bool(stated.get("transB", 0))
    names = (weight + "b", weight + "a") if turned else (weight + "a", weight + "b")
    if node.op_type == "Gemm":
        given = {name: stated.get(name, 0) for name in ("transA", "transB")}
        first = helper.make_node("Gemm", [data, names[0], NOTHING], [between], **given)
        kept = [a for a in second.attribute if a.name != "transA"]
        del second.attribute[:]
        second.attribute.extend(kept)
    else:
        first = helper.make_node(node.op_type, [data, names[0]], [between])
    second.input[0], second.input[1] = between, names[1]
    return [first, second]
