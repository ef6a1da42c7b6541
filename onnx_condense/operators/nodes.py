"""The nodes that a rewritten graph may hold beside those that it had."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_condense.arrays import Array

FILLED = "ConstantOfShape"
"""Makes a constant of one number from its shape."""

FILLED_SINCE = 9
"""The opset in which it came."""

BIASED = ("Conv", "Gemm", "ConvTranspose")
"""Linear maps whose third input is a bias."""


def takes_bias(node: onnx.NodeProto) -> bool:
    """Whether a linear map may have a bias, which it may lack."""
    return node.op_type in BIASED


def is_filled(node: onnx.NodeProto) -> bool:
    """Whether a node makes a constant of one number from its shape."""
    return node.op_type == FILLED


def gathered(data: str, places: str, axis: int, output: str) -> onnx.NodeProto:
    """What stands at some places along an axis."""
    return _node("Gather", [data, places], output, axis=axis)


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
