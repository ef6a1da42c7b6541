"""A small model that is timed beside others: how fast the machine was just then."""

from __future__ import annotations

from functools import cache

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnx_condense.model.runtime import to_bytes
from onnx_condense.timing.kernels import Small

CHANNELS, PIXELS = 64, 28
"""29 million multiply-accumulates: some tenths of a millisecond, of which a profile tells microseconds."""


@cache
def yardstick() -> Small:
    """A convolution of 3x3."""
    weights = numpy_helper.from_array(np.ones((CHANNELS, CHANNELS, 3, 3), np.float32), "w")
    shape = (1, CHANNELS, PIXELS, PIXELS)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "yardstick", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Small(to_bytes(model), {"x": np.ones(shape, np.float32)})
