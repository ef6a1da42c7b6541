"""Concrete shapes: asked of onnxruntime itself, so that nothing depends on value_info."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx

from onnx_condense.arrays import Array, Shape
from onnx_condense.model.inputs import Feed
from onnx_condense.model.names import Names
from onnx_condense.model.parts import prefix
from onnx_condense.model.runtime import run, session

SHAPE_OPS = ("Shape", "Size")
"""Operators that make numbers of a shape."""


def shape_value(node: onnx.NodeProto, shape: Shape) -> Array:
    """[k], or a scalar: what one of `SHAPE_OPS` makes of a shape."""
    attributes = {a.name: a.i for a in node.attribute}
    if node.op_type == "Size":
        return np.asarray(int(np.prod(shape, dtype=np.int64)), dtype=np.int64)
    return np.asarray(shape[attributes.get("start", 0) : attributes.get("end", len(shape))], dtype=np.int64)


def probe(model: onnx.ModelProto, names: Collection[str], feed: Feed) -> dict[str, Shape]:
    """Asks onnxruntime for the shapes of tensors on a feed. Those of the feed are among the result."""
    shapes = {name: value.shape for name, value in feed.items()}
    if not names:
        return shapes
    part = prefix(model, list(names))
    del part.graph.output[:]
    stem = Names.of(model.graph).prefix("__shape", "_")
    for index, name in enumerate(names):
        part.graph.node.add(op_type="Shape", input=[name], output=[f"{stem}{index}"])
        part.graph.output.add(name=f"{stem}{index}")
    found = run(session(part, optimize=False), None, feed)
    return shapes | {name: tuple(int(size) for size in value) for name, value in zip(names, found, strict=True)}
