"""What a model holds."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def weights(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def attributes(model: onnx.ModelProto, name: str) -> dict[str, object]:
    return {a.name: helper.get_attribute_value(a) for a in node(model, name).attribute}


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]
