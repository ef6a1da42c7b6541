"""The nodes that a rewritten graph may hold beside those that it had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_condense.arrays import Array
from onnx_condense.operators.versions import input_for

FILLED = "ConstantOfShape"
"""Makes a constant of one number from its shape."""

FILLED_SINCE = 9
"""The opset in which it came."""

BIASED = ("Conv", "Gemm", "ConvTranspose")
"""Linear maps whose third input is a bias."""

OPTIONAL_BIAS_SINCE = 11
"""The opset from which Gemm may lack it."""


def takes_bias(node: onnx.NodeProto) -> bool:
    """Whether a linear map may have a bias, which it may lack."""
    return node.op_type in BIASED


def needs_bias(node: onnx.NodeProto, opset: int) -> bool:
    """Whether a linear map must have a bias: Gemm before operator set 11."""
    return node.op_type == "Gemm" and opset < OPTIONAL_BIAS_SINCE


def without_bias(node: onnx.NodeProto) -> float:
    """Takes the bias of a linear map away, and says what that was multiplied with."""
    beta = 1.0
    if takes_bias(node):
        del node.input[2:]
        place = next((i for i, a in enumerate(node.attribute) if a.name == "beta"), None)
        if place is not None:
            beta = node.attribute[place].f
            del node.attribute[place]
    return beta


def is_filled(node: onnx.NodeProto) -> bool:
    """Whether a node makes a constant of one number from its shape."""
    return node.op_type == FILLED


def gathered(data: str, places: str, axis: int, output: str) -> onnx.NodeProto:
    """What stands at some places along an axis."""
    return _node("Gather", [data, places], output, axis=axis)


def joined(parts: Sequence[str], axis: int, output: str) -> onnx.NodeProto:
    """Tensors one behind the other along an axis."""
    return _node("Concat", list(parts), output, axis=axis)


def added(left: str, right: str, output: str, name: str) -> onnx.NodeProto:
    """The sum of two tensors."""
    return _node("Add", [left, right], output, name)


def filled(shape: str, number: Array, output: str) -> onnx.NodeProto:
    """A constant of one number [1]; `shape` names the input that states its shape."""
    return _node(FILLED, [shape], output, value=numpy_helper.from_array(np.asarray(number)))


def _node(op: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    made = helper.make_node(op, inputs, [output], **attributes)
    made.name, made.domain = name, ""
    return made


def convolved(
    data: str, weight: str, output: str, pads: Sequence[int] = (), bias: str = "", name: str = ""
) -> onnx.NodeProto:
    """A convolution."""
    attributes = {"pads": list(pads)} if pads else {}
    return _node("Conv", [data, weight, *([bias] if bias else [])], output, name, **attributes)


def convolution(channels: int, filters: int, pixels: int) -> onnx.ModelProto:
    """A model of one convolution of 3x3 on an image [1, channels, pixels, pixels], to ask onnxruntime with."""
    weight = numpy_helper.from_array(np.ones((filters, channels, 3, 3), np.float32), "w")
    sizes = {"x": channels, "y": filters}
    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, size, pixels, pixels))
        for name, size in sizes.items()
    )
    graph = helper.make_graph([convolved("x", "w", "y", pads=[1, 1, 1, 1])], "probe", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def multiplied(left: str, right: str, output: str, name: str, bias: str = "", beta: float = 1.0) -> onnx.NodeProto:
    """The product of two matrices; plus beta times a bias, where there is one."""
    if not bias:
        return _node("MatMul", [left, right], output, name)
    return _node("Gemm", [left, right, bias], output, name, **({"beta": beta} if beta != 1.0 else {}))


def transposed(data: str, axes: Sequence[int], output: str) -> onnx.NodeProto:
    """A tensor with its axes in another order."""
    return _node("Transpose", [data], output, perm=list(axes))


def shape_of(data: str, output: str) -> onnx.NodeProto:
    """The shape of a tensor."""
    return _node("Shape", [data], output)


def reshaped(data: str, shape: str, output: str) -> onnx.NodeProto:
    """A tensor in the shape that another states."""
    return _node("Reshape", [data, shape], output)


def difference(left: str, right: str, output: str) -> onnx.NodeProto:
    """What is left of a tensor without another."""
    return _node("Sub", [left, right], output)


def mean_over(
    data: str, axis: int, output: str, stated: str, opset: int
) -> tuple[onnx.NodeProto, list[onnx.TensorProto]]:
    """The mean along an axis, which stays with size 1, and the constant `stated` that it reads where it reads one."""
    if input_for("ReduceMean", "axes", opset) is None:
        return _node("ReduceMean", [data], output, axes=[axis]), []
    return _node("ReduceMean", [data, stated], output), [numpy_helper.from_array(np.array([axis]), stated)]


def standardized_by_line(data: str, scale: str, shift: str, output: str, epsilon: float) -> onnx.NodeProto:
    """[samples, channels, ...] with the mean (shift) and the deviation (scale) of each channel of each sample."""
    return _node("InstanceNormalization", [data, scale, shift], output, epsilon=epsilon)


def unrolled(node: onnx.NodeProto, inputs: Sequence[str], output: str) -> onnx.NodeProto:
    """A recurrent node as another one that reads these inputs and gives its states alone."""
    result = onnx.NodeProto(op_type=node.op_type, domain=node.domain, input=inputs, output=[output])
    result.attribute.extend(node.attribute)
    return result


def ungrouped(node: onnx.NodeProto, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
    """A convolution as another one, of one group."""
    result = onnx.NodeProto(op_type=node.op_type, domain=node.domain, input=inputs, output=outputs)
    result.attribute.extend(a for a in node.attribute if a.name != "group")
    return result
