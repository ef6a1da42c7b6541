"""Synthetic inputs, and models that take the statistics of what they are fed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_condense.arrays import Array
from onnx_condense.model.inputs import Feed

PINK = 1.0
"""Exponent of the amplitude spectrum 1 / frequency of synthetic images, as natural images have it."""

GREY = 0.9
"""Share of a synthetic image's variance that its colours have in common."""


def standardized(
    model: onnx.ModelProto,
    normalizations: Mapping[int, tuple[int, int, float]],
    centred: Mapping[int, tuple[int, int, int]],
) -> onnx.ModelProto:
    """A model that takes the statistics of the batch that it is fed.

    On any inputs every normalized channel then has the mean (shift) and the deviation (|scale|) that it had in
    training. Written as InstanceNormalization of [1, channels, everything else], since onnxruntime does not train.

    Args:
        normalizations: BatchNormalizations, node index -> (rank of the input, channels, epsilon).
        centred: nodes whose outputs get mean zero per channel,
            node index -> (rank of the output, its channel axis, channels).
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    add = result.graph.node.append
    for number, node in enumerate(model.graph.node):
        if number in normalizations:
            rank, channels, epsilon = normalizations[number]
            lines, back = _lines(result.graph, number, node.input[0], node.output[0], rank, 1, channels)
            even = f"__even_{number}"
            inputs = [lines, *node.input[1:3]]
            add(helper.make_node("InstanceNormalization", inputs, [even], epsilon=epsilon))
            result.graph.node.extend(back(even))
        elif number in centred:
            rank, axis, channels = centred[number]
            raw = f"__raw_{number}"
            add(_renamed(node, raw))
            lines, back = _lines(result.graph, number, raw, node.output[0], rank, axis, channels)
            mean, even = f"__mean_{number}", f"__even_{number}"
            add(_mean(result, number, lines, mean))
            add(helper.make_node("Sub", [lines, mean], [even]))
            result.graph.node.extend(back(even))
        else:
            add(node)
    return result


def _mean(model: onnx.ModelProto, number: int, data: str, output: str) -> onnx.NodeProto:
    """The mean over the last of three axes, an input of ReduceMean since opset 18."""
    if next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) < 18:
        return helper.make_node("ReduceMean", [data], [output], axes=[2])
    axes = f"__axes_{number}"
    model.graph.initializer.append(numpy_helper.from_array(np.array([2]), axes))
    return helper.make_node("ReduceMean", [data, axes], [output])


def _renamed(node: onnx.NodeProto, output: str) -> onnx.NodeProto:
    result = onnx.NodeProto()
    result.CopyFrom(node)
    result.output[0] = output
    return result


def _lines(
    graph: onnx.GraphProto, number: int, data: str, output: str, rank: int, axis: int, channels: int
) -> tuple[str, Callable[[str], list[onnx.NodeProto]]]:
    """Adds nodes that bring data to [1, channels, everything else], and says which ones bring it back as `output`."""
    turn = [axis, *(a for a in range(rank) if a != axis)]
    flat, turned, shape, lines, whole = (f"__{part}_{number}" for part in ("flat", "turned", "shape", "lines", "whole"))
    graph.initializer.append(numpy_helper.from_array(np.array([1, channels, -1]), flat))
    graph.node.extend(
        [
            helper.make_node("Transpose", [data], [turned], perm=turn),
            helper.make_node("Shape", [turned], [shape]),
            helper.make_node("Reshape", [turned, flat], [lines]),
        ]
    )

    def back(even: str) -> list[onnx.NodeProto]:
        undo = [int(a) for a in np.argsort(turn)]
        return [
            helper.make_node("Reshape", [even, shape], [whole]),
            helper.make_node("Transpose", [whole], [output], perm=undo),
        ]

    return lines, back


def unbatched(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that says nothing of the size of its inputs' first axes, nor of the shapes that follow."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]
    for value in result.graph.input:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].Clear()
    return result


def synthetic(feed: Feed, samples: int, seed: int) -> Feed:
    """Inputs like a feed, with so many samples: pink noise for images (rank 4, at least 8x8), else normal numbers.

    Integers and what else is no float are the feed's, repeated.
    """
    generator = np.random.default_rng(seed)
    made: Feed = {}
    for name, value in feed.items():
        shape = (samples, *value.shape[1:]) if value.ndim else ()
        if value.dtype.kind != "f":
            made[name] = np.resize(value, shape)
        elif value.ndim == 4 and min(value.shape[2:]) >= 8:
            made[name] = _pink(generator, shape).astype(value.dtype)
        else:
            made[name] = generator.standard_normal(shape).astype(value.dtype)
    return made


def _pink(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """[n, c, h, w] images of unit variance whose amplitudes fall with frequency."""
    n, c, h, w = shape
    frequency = np.sqrt(np.fft.fftfreq(h)[:, None] ** 2 + np.fft.rfftfreq(w)[None] ** 2)
    frequency[0, 0] = 1 / max(h, w)
    white = GREY**0.5 * generator.standard_normal((n, 1, h, w))
    white = white + (1 - GREY) ** 0.5 * generator.standard_normal((n, c, h, w))
    images = np.fft.irfft2(np.fft.rfft2(white) / frequency**PINK, s=(h, w))
    return np.asarray(images / images.std())
