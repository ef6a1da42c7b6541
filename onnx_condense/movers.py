"""Data movement, run on arrays of labels, and the constants that a smaller tensor needs to be moved alike.

An array here has the rank of its tensor; along each axis it has either length 1 (it does not vary) or the tensor's full
length. Movements never expand an axis that does not vary, so no array is larger than what varies in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Shape = tuple[int, ...]


def compress(labels: Labels) -> Labels:
    """Shortens every axis along which nothing varies to length 1."""
    for axis in range(labels.ndim):
        if labels.shape[axis] > 1:
            first = labels.take([0], axis)
            if np.array_equal(np.broadcast_to(first, labels.shape), labels):
                labels = first
    return labels


def blocks(source: Shape, target: Shape) -> list[tuple[list[int], list[int]]]:
    """Aligns the axes of a reshape into minimal blocks of equal product: (source axes, target axes) each."""
    result: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) or j < len(target):
        left, right = [], []
        a = b = 1
        if i < len(source):
            a, left, i = source[i], [i], i + 1
        if j < len(target) and (not left or a != 1 or target[j] == 1 or i == len(source)):
            b, right, j = target[j], [j], j + 1
        while a != b:
            if a < b:
                a, left, i = a * source[i], [*left, i], i + 1
            else:
                b, right, j = b * target[j], [*right, j], j + 1
        result.append((left, right))
    return result


def reshape(labels: Labels, source: Shape, target: Shape) -> Labels:
    """Reshape, expanding only the blocks of axes in which something varies."""
    if prod(source) == 0:
        raise ValueError("an empty tensor has no labels")
    expanded = list(labels.shape)
    result: list[int] = [1] * len(target)
    for left, right in blocks(source, target):
        if any(labels.shape[axis] > 1 for axis in left):
            for axis in left:
                expanded[axis] = source[axis]
            for axis in right:
                result[axis] = target[axis]
    return compress(np.broadcast_to(labels, expanded).reshape(result))


def concat(parts: Sequence[Labels], shapes: Sequence[Shape], axis: int) -> Labels:
    """Concat; the axis is expanded, the others only where a part varies."""
    common = list(np.broadcast_shapes(*(tuple(1 if a == axis else n for a, n in enumerate(p.shape)) for p in parts)))
    full = []
    for part, shape in zip(parts, shapes, strict=True):
        common[axis] = shape[axis]
        full.append(np.broadcast_to(part, common))
    return compress(np.concatenate(full, axis))


def _blocks(labels: Labels, block: int, mode: str) -> Labels:
    """[n, places in a block, channels, h, w] of a DepthToSpace."""
    n, channels, height, width = labels.shape
    if channels == 1:
        return labels[:, None]
    order = (block**2, channels // block**2) if mode == "DCR" else (channels // block**2, block**2)
    split = labels.reshape(n, *order, height, width)
    return split if mode == "DCR" else split.swapaxes(1, 2)


def apply(name: str, parameters: Mapping[str, Any], labels: Labels, shape: Shape) -> list[Labels]:
    """Runs a movement of one tensor on its labels; one array per output."""
    match name:
        case "reshape":
            return [reshape(labels, shape, parameters["shape"])]
        case "transpose":
            return [labels.transpose(parameters["order"])]
        case "split":
            axis, sizes = parameters["axis"], parameters["sizes"]
            if labels.shape[axis] == 1:
                return [labels] * len(sizes)
            return [compress(part) for part in np.split(labels, np.cumsum(sizes)[:-1], axis)]
        case "slice":
            index: list[slice] = [slice(None)] * labels.ndim
            for axis, start, stop, step in parameters["slices"]:
                if labels.shape[axis] > 1:
                    stop = None if step < 0 and stop < -labels.shape[axis] else stop
                    index[axis] = slice(start, stop, step)
            return [compress(labels[tuple(index)])]
        case "expand":
            return [labels.reshape((1,) * (len(parameters["shape"]) - labels.ndim) + labels.shape)]
        case "tile":
            return [
                np.tile(labels, [r if n > 1 else 1 for r, n in zip(parameters["repeats"], labels.shape, strict=True)])
            ]
        case "space_to_depth":
            repeats = parameters["block"] ** 2 if labels.shape[1] > 1 else 1
            return [np.tile(labels, (1, repeats, 1, 1))]
        case "depth_to_space":
            return [_blocks(labels, parameters["block"], parameters["mode"])]
        case "gather":
            axis, indices = parameters["axis"], parameters["indices"]
            if labels.shape[axis] == 1:
                flat = labels.reshape(labels.shape[:axis] + (1,) * indices.ndim + labels.shape[axis + 1 :])
                return [flat]
            return [compress(labels.take(indices, axis))]
    raise KeyError(name)


def reshape_target(stated: Sequence[int] | None, small_source: Shape, small_target: Shape) -> list[int]:
    """The shape input of a Reshape for the smaller tensor.

    -1 stays where it was; 0 ("copy this axis") stays where the axis is copied in the small model as well. `stated` is
    the original input, None when it is unknown (then the concrete sizes are stated).
    """
    if stated is None:
        return list(small_target)
    result = []
    for axis, value in enumerate(stated):
        keeps = value == -1 or (value == 0 and axis < len(small_source) and small_source[axis] == small_target[axis])
        result.append(int(value) if keeps else small_target[axis])
    return result
