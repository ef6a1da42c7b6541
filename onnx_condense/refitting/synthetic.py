"""Synthetic inputs, and models that take the statistics of what they are fed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_condense.arrays import Array
from onnx_condense.model.inputs import Feed
from onnx_condense.model.names import Names
from onnx_condense.model.protos import opset_of
from onnx_condense.operators.nodes import (
    difference,
    mean_over,
    reshaped,
    shape_of,
    standardized_by_line,
    transposed,
)
from onnx_condense.refitting.images import Images, pink

Span = tuple[float, float]
"""Between which numbers inputs lie."""


@dataclass(frozen=True)
class BatchStatistics:
    """How the output of a node gets statistics of the batch.

    Attributes:
        rank: of the output. axis: that of its channels. channels: how many there are.
        epsilon: of a BatchNormalization; None where only the mean becomes zero.
    """

    rank: int
    axis: int
    channels: int
    epsilon: float | None = None


def standardized(model: onnx.ModelProto, wanted: Mapping[int, BatchStatistics]) -> onnx.ModelProto:
    """A model that takes the statistics of the batch that it is fed.

    On any inputs every normalized channel then has the mean (shift) and the deviation (|scale|) that it had in
    training. Written as a normalization of [1, channels, everything else], since onnxruntime does not train.

    Args:
        model: it stays as it is.
        wanted: what becomes of the outputs of nodes, by their index.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    opset, stem = opset_of(model.opset_import), Names.of(model.graph).prefix("__batch", "_")
    for number, node in enumerate(model.graph.node):
        made = wanted.get(number)
        nodes, constants = ([node], []) if made is None else _batchwise(node, f"{stem}{number}", made, opset)
        result.graph.node.extend(nodes)
        result.graph.initializer.extend(constants)
    return result


def _batchwise(
    node: onnx.NodeProto, stem: str, made: BatchStatistics, opset: int
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes instead of one, and the constants that they read; they work on lines [1, channels, everything else].

    `stem`: what the names of their tensors begin with.
    """
    names = ("raw", "flat", "turned", "shape", "lines", "axes", "mean", "even", "whole")
    raw, flat, turned, shape, lines, axes, mean, even, whole = (f"{stem}_{part}" for part in names)
    turn = [made.axis, *(a for a in range(made.rank) if a != made.axis)]
    data = raw if made.epsilon is None else node.input[0]
    result = [transposed(data, turn, turned), shape_of(turned, shape), reshaped(turned, flat, lines)]
    constants = [numpy_helper.from_array(np.array([1, made.channels, -1]), flat)]
    if made.epsilon is None:
        averaged, stated = mean_over(lines, 2, mean, axes, opset)
        result = [_renamed(node, raw), *result, averaged, difference(lines, mean, even)]
        constants += stated
    else:
        result.append(standardized_by_line(lines, node.input[1], node.input[2], even, made.epsilon))
    back = [int(a) for a in np.argsort(turn)]
    return [*result, reshaped(even, shape, whole), transposed(whole, back, node.output[0])], constants


def _renamed(node: onnx.NodeProto, output: str) -> onnx.NodeProto:
    result = onnx.NodeProto()
    result.CopyFrom(node)
    result.output[0] = output
    return result


def unbatched(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that says nothing of the size of its inputs' first axes, nor of the shapes that follow."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]
    for value in result.graph.input:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].Clear()
    return result


def synthetic(feed: Feed, samples: int | None, seed: int, span: Span | None = None, images: Images = pink) -> Feed:
    """Inputs like a feed, with so many samples or as many as each has.

    Made-up `images` stand for images (rank 4, at least 8x8), normal numbers for other floats. Integers and what else
    is no float are the feed's, repeated. span: between which numbers floats lie.
    """
    generator = np.random.default_rng(seed)
    made: Feed = {}
    for name, value in feed.items():
        shape = value.shape if samples is None or not value.ndim else (samples, *value.shape[1:])
        if value.dtype.kind != "f":
            made[name] = np.resize(value, shape)
        elif _is_image(value):
            made[name] = _within(images(generator, shape), span).astype(value.dtype)
        else:
            made[name] = _within(generator.standard_normal(shape), span).astype(value.dtype)
    return made


def has_images(feed: Feed) -> bool:
    """Whether images are made up for it."""
    return any(_is_image(value) for value in feed.values())


def _is_image(value: Array) -> bool:
    return value.dtype.kind == "f" and value.ndim == 4 and min(value.shape[2:]) >= 8


def has_floats(feed: Feed) -> bool:
    """Whether some inputs are made up: integers alone, as of tokens, are the feed's."""
    return any(value.dtype.kind == "f" for value in feed.values())


def _within(values: Array, span: Span | None) -> Array:
    """Values [...] of unit variance, moved into a span: two deviations from its middle to its ends."""
    if span is None:
        return values
    low, high = span
    return np.clip((low + high) / 2 + (high - low) / 4 * values, low, high)
