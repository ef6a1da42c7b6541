"""Folds BatchNormalization into the weights before it, in the file (--fold-batchnorm)."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnx_condense.arrays import Array, Floats
from onnx_condense.forms.stack import for_good
from onnx_condense.model.held import numbers
from onnx_condense.model.names import Names
from onnx_condense.model.surgeon import export_graph, import_graph
from onnx_condense.operators.actions import Normalization
from onnx_condense.operators.queries import foldable


def fold_batchnorm(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model in which every BatchNormalization that alone reads a Conv or Gemm is part of its weights.

    W' = W · g and b' = (b - mean) · g + shift, per output channel, with the gain g = scale / sqrt(var + epsilon). The
    model itself where there is none to fold.
    """
    graph = import_graph(model)
    origin = {id(node): index for index, node in enumerate(graph.nodes)}
    edited: set[int] = set()
    names = Names.of(model.graph)
    outputs = {t.name for t in graph.outputs}
    if graph.opset is not None and graph.opset < 7:  # normalized with statistics of the batch
        return model
    for normalization in list(graph.nodes):
        pair = foldable(normalization)
        if pair is None or normalization.inputs[0].name in outputs:
            continue
        producer, axis, epsilon = pair
        folded = _folded(producer, axis, normalization, epsilon)
        _replace(producer, normalization, folded, names)
        edited.add(id(producer))
        graph.nodes = [n for n in graph.nodes if n is not normalization]
    if not edited:
        return model
    return export_graph(graph, model, origin, edited, {}, {})


enter = for_good(fold_batchnorm)


def _folded(producer: gs.Node, axis: int, normalization: gs.Node, epsilon: float) -> tuple[Array, Array]:
    """W' and b' in the type of the weight, which is produced along `axis`."""
    scale, shift, mean, var = (constant_value(t) for t in normalization.inputs[1:5])
    gain = Normalization(epsilon).gain(scale, var)
    weight, kind = constant_value(producer.inputs[1]), _type(producer.inputs[1])
    has_bias = len(producer.inputs) > 2 and producer.inputs[2].name
    bias = constant_value(producer.inputs[2]) if has_bias else np.zeros(len(gain))
    spread = [-1 if a == axis else 1 for a in range(weight.ndim)]
    return (weight * gain.reshape(spread)).astype(kind), ((bias - mean) * gain + shift).astype(kind)


def _replace(producer: gs.Node, normalization: gs.Node, folded: tuple[Array, Array], names: Names) -> None:
    """Gives a producer its folded weight and bias, and the result of the normalization."""
    stem = producer.outputs[0].name
    while len(producer.inputs) < 3:
        producer.inputs.append(gs.Variable.empty())
    producer.inputs[1] = gs.Constant(names.fresh(f"{stem}_folded_weight"), folded[0])
    producer.inputs[2] = gs.Constant(names.fresh(f"{stem}_folded_bias"), folded[1])
    result = normalization.outputs[0]
    normalization.inputs.clear()
    normalization.outputs.clear()
    producer.outputs = [result]


def _type(tensor: gs.Constant) -> np.dtype[Any]:
    values = tensor._values
    kind = helper.tensor_dtype_to_np_dtype(values.tensor.data_type) if hasattr(values, "tensor") else values.dtype
    return np.dtype(kind)


def constant_value(tensor: gs.Constant) -> Floats:
    """A constant's value, of any shape, in float64, leaving the constant as it was read."""
    values = tensor._values
    array = numbers(values.tensor) if hasattr(values, "tensor") else values
    return np.asarray(array, dtype=np.float64)
