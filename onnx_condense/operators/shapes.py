"""Concrete shapes: asked of onnxruntime itself, so that nothing depends on value_info."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx

from onnx_condense.arrays import Array, Shape
from onnx_condense.model.inputs import Feed
from onnx_condense.model.names import Names
from onnx_condense.model.parts import prefix
from onnx_condense.model.runtime import run, sizing

SHAPE_OPS = ("Shape", "Size")
"""Operators that make numbers of a shape."""


def shape_value(node: onnx.NodeProto, shape: Shape) -> Array:
    """[k], or a scalar: what one of `SHAPE_OPS` makes of a shape."""
    attributes = {a.name: a.i for a in node.attribute}
    if node.op_type == "Size":
        return np.asarray(int(np.prod(shape, dtype=np.int64)), dtype=np.int64)
    return np.asarray(shape[attributes.get("start", 0) : attributes.get("end", len(shape))], dtype=np.int64)


def probe(model: onnx.ModelProto, names: Collection[str], feeds: Sequence[Feed]) -> list[dict[str, Shape]]:
    """Asks onnxruntime for the shapes of tensors on each feed. Those of the feed are among the result."""
    shapes = [{name: value.shape for name, value in feed.items()} for feed in feeds]
    if not names or not feeds:
        return shapes
    part = prefix(model, list(names))
    del part.graph.output[:]
    stem = Names.of(model.graph).prefix("__shape", "_")
    for index, name in enumerate(names):
        part.graph.node.add(op_type="Shape", input=[name], output=[f"{stem}{index}"])
        part.graph.output.add(name=f"{stem}{index}")
    asked = sizing(part)
    for known, feed in zip(shapes, feeds, strict=True):
        values = run(asked, None, feed)
        known.update((name, tuple(int(size) for size in value)) for name, value in zip(names, values, strict=True))
    return shapes
