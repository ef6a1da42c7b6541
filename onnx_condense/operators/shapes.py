"""Concrete shapes: asked of onnxruntime itself, so that nothing depends on value_info."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import onnx

from onnx_condense.arrays import Array, Shape
from onnx_condense.model.inputs import Feed
from onnx_condense.model.names import Names
from onnx_condense.model.parts import prefix
from onnx_condense.model.runtime import run, sizing
from onnx_condense.model.trial import Trial

SHAPE_OPS = ("Shape", "Size")
"""Operators that make numbers of a shape."""

Stuck = Collection[tuple[str, int]]
"""Axes of inputs, (name, axis), that could not be varied."""

Seen = Callable[[Feed], Mapping[str, Shape] | None]
"""The shapes of tensors inside, by name, on a feed that was tried; None on any other."""


def shape_value(node: onnx.NodeProto, shape: Shape) -> Array:
    """[k], or a scalar: what one of `SHAPE_OPS` makes of a shape."""
    attributes = {a.name: a.i for a in node.attribute}
    if node.op_type == "Size":
        return np.asarray(int(np.prod(shape, dtype=np.int64)), dtype=np.int64)
    return np.asarray(shape[attributes.get("start", 0) : attributes.get("end", len(shape))], dtype=np.int64)


def probe(model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Feed], seen_on: Seen) -> list[dict[str, Shape]]:
    """Asks onnxruntime for the shapes of tensors on each feed. Those of the feed are among the result."""
    shapes = [{name: value.shape for name, value in feed.items()} for feed in feeds]
    if not names:
        return shapes
    missing = []
    for known, feed in zip(shapes, feeds, strict=True):
        seen = seen_on(feed)
        known.update({name: seen[name] for name in names} if seen is not None else {})
        missing += [] if seen is not None else [(known, feed)]
    if not missing:
        return shapes
    part = prefix(model, names)
    del part.graph.output[:]
    _measure(part, names)
    asked = sizing(part)
    for known, feed in missing:
        values = run(asked, None, feed)
        known.update((name, tuple(int(size) for size in value)) for name, value in zip(names, values, strict=True))
    return shapes


def measured(model: onnx.ModelProto, names: Sequence[str]) -> Trial:
    """What runs a model, and by the way sees the shapes of some of its tensors."""
    more = onnx.ModelProto()
    more.CopyFrom(model)
    _measure(more, names)
    return Trial(model, more, names)


def _measure(model: onnx.ModelProto, names: Sequence[str]) -> None:
    """Lets a model give the shapes of some of its tensors, in place."""
    stem = Names.of(model.graph).prefix("__shape", "_")
    for index, name in enumerate(names):
        model.graph.node.add(op_type="Shape", input=[name], output=[f"{stem}{index}"])
        model.graph.output.add(name=f"{stem}{index}")
