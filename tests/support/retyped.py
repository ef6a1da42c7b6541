"""Models in another float type: what is float32 in a model becomes float16, bfloat16 or float64."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.helper import tensor_dtype_to_np_dtype


def retyped(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """A copy whose float32 inputs, outputs, weights and casts are of another type (TensorProto.DataType)."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            value = numpy_helper.to_array(tensor).astype(tensor_dtype_to_np_dtype(kind))
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = kind
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = kind
    return result


def narrowed(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """A copy whose weights are stored in another type, each behind a Cast to float32."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    casts = []
    for tensor in result.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            value = numpy_helper.to_array(tensor).astype(tensor_dtype_to_np_dtype(kind))
            casts.append(helper.make_node("Cast", [f"{tensor.name}.stored"], [tensor.name], to=TensorProto.FLOAT))
            tensor.CopyFrom(numpy_helper.from_array(value, f"{tensor.name}.stored"))
    nodes = [*casts, *result.graph.node]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    return result
