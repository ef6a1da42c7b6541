"""Between which numbers the inputs of a model lie, where its first nodes say so."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx

from onnx_condense.arrays import Array
from onnx_condense.model import held
from onnx_condense.model.inputs import input_specs

LEAST = 16.0
"""A smaller scale says little: inputs of about one are what is assumed anyway."""

SPREAD = 2.0
"""Deviations that inputs lie from a mean which is subtracted."""

PASSES = ("Identity", "Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze")
"""Operators that leave numbers as they are."""

FEW = 2**12
"""Numbers of a constant that may be a mean or a deviation, at most."""


def range_stated(model: onnx.ModelProto) -> tuple[float, float] | None:
    """The interval that a scale at the only input implies, as x / 255, or (x - mean) / deviation; else None."""
    specs = input_specs(model)
    if len(specs) != 1 or specs[0].dtype.kind != "f":
        return None
    name, mean = specs[0].name, None
    while True:
        readers = [node for node in model.graph.node if name in node.input]
        if len(readers) != 1 or not readers[0].output:
            return None
        node = readers[0]
        name = node.output[0]
        if node.op_type in PASSES:
            continue
        value = _other(model, node)
        if value is None or not np.isfinite(value).all():
            return None
        if node.op_type == "Sub" and mean is None and node.input[0] != node.input[1]:
            mean = float(value.mean())
        elif node.op_type == "Add" and mean is None:
            mean = -float(value.mean())
        else:
            return _interval(mean, _scale(node, value))


def _scale(node: onnx.NodeProto, value: Array) -> float:
    """What a Div or Mul divides by; 0 of others."""
    with np.errstate(divide="ignore"):
        each = value if node.op_type == "Div" else 1 / value if node.op_type == "Mul" else np.zeros(1)
    return float(np.abs(each).mean())


def _interval(mean: float | None, scale: float) -> tuple[float, float] | None:
    if not LEAST <= scale < np.inf:
        return None
    if mean is None:
        return 0.0, scale
    low, high = mean - SPREAD * scale, mean + SPREAD * scale
    return (max(low, 0.0), min(high, 2 * mean)) if mean > 0 else (low, high)


def _other(model: onnx.ModelProto, node: onnx.NodeProto) -> Array | None:
    """The constant that a node of two inputs reads as its second one, or as either of a sum or product."""
    found = {t.name: t for t in model.graph.initializer if t.name in node.input and prod(t.dims) <= FEW}
    for maker in model.graph.node:
        if maker.op_type == "Constant" and maker.output[0] in node.input and maker.attribute[0].HasField("t"):
            found[maker.output[0]] = maker.attribute[0].t
    place = list(node.input)
    if len(place) != 2 or len(found) != 1:
        return None
    (name,) = found
    if name == place[0] and node.op_type in ("Sub", "Div"):
        return None
    return np.asarray(held.numbers(found[name]), dtype=np.float64)
