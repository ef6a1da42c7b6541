"""Data movement, run on arrays of labels, and the constants that a smaller tensor needs to be moved alike.

An array here has the rank of its tensor; along each axis it has either length 1 (it does not vary) or the tensor's full
length. Movements never expand an axis that does not vary, so no array is larger than what varies in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from onnx_condense.arrays import Array, Bools, Labels, Shape
from onnx_condense.operators.answers import ANYTHING, Action, Interval
from onnx_condense.operators.reasons import Reason


class Unmovable(ValueError):
    """Labels cannot follow a movement."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


TO_THE_END = 2**31 - 1
"""As the end of a slice, beyond every size."""


def compress(labels: Labels) -> Labels:
    """Labels, of any shape, with every axis along which nothing varies shortened to length 1."""
    for axis, size in enumerate(labels.shape):
        if size > 1 and not _ends_differ(labels, axis):
            first = labels.take([0], axis)
            if (labels == first).all():
                labels = first
    return labels


def _ends_differ(labels: Labels, axis: int) -> bool:
    """Whether the first label, of any shape, is another than the last one in its line along an axis."""
    if not labels.size:
        return False
    last = [0] * labels.ndim
    last[axis] = labels.shape[axis] - 1
    return bool(labels.item(0) != labels.item(*last))


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


def regrouped(labels: Labels, source: Shape, target: Shape) -> Labels:
    """Reshapes labels of a tensor of the shape `source`, expanding only the blocks that vary. Raises Unmovable."""
    if prod(source) == 0:
        raise Unmovable(Reason.MOVES_NOTHING)
    expanded = list(labels.shape)
    result: list[int] = [1] * len(target)
    for left, right in blocks(source, target):
        if any(labels.shape[axis] > 1 for axis in left):
            for axis in left:
                expanded[axis] = source[axis]
            for axis in right:
                result[axis] = target[axis]
    return compress(np.broadcast_to(labels, expanded).reshape(result))


def concatenated(parts: Sequence[Labels], shapes: Sequence[Shape], axis: int) -> Labels:
    """Labels of tensors of these shapes, concatenated; the axis is expanded, the others only where a part varies."""
    common = list(np.broadcast_shapes(*(tuple(1 if a == axis else n for a, n in enumerate(p.shape)) for p in parts)))
    full = []
    for part, shape in zip(parts, shapes, strict=True):
        common[axis] = shape[axis]
        full.append(np.broadcast_to(part, common))
    return compress(np.concatenate(full, axis))


class Move(Action):
    """Data movement: what it does to data it does to labels."""

    @property
    def move(self) -> Move | None:
        return self

    @property
    def keeps_bounds(self) -> bool:
        return True

    @property
    def indexed(self) -> tuple[int, ...]:
        """The axes of the input along which places are taken by their number."""
        return ()

    @property
    def barred(self) -> tuple[int, ...]:
        """The indexed axes along which places cannot go in whole periods."""
        return self.indexed

    def cut(self, axis: int, lines: Bools) -> Move | None:
        """What it is of a smaller tensor, of whose lines [lines, size] along an indexed axis some places are left.

        None where it would not be the same for all lines.
        """
        return None

    @property
    def chained(self) -> bool:
        """Whether several of its kind in a row may only permute or pick channels (tracing/shuffles.py)."""
        return False

    @property
    def permutes(self) -> bool:
        """Whether it brings axes into another order."""
        return False

    @property
    def states_shape(self) -> bool:
        """Whether the node states the shape of its output."""
        return False

    @property
    def regroups(self) -> bool:
        """Whether it keeps the order of all numbers, and groups them into other axes."""
        return False

    def image(self, ends: Sequence[Interval]) -> Interval:
        return ends[0] if ends else ANYTHING

    def to(self, shape: Shape) -> Move:
        """The same movement of a tensor of another size, to this shape."""
        return self

    def moved(self, labels: Labels, shape: Shape) -> list[Labels]:
        """Labels of each output, from those of the input, a tensor of that shape. Raises Unmovable."""
        raise NotImplementedError


@dataclass(frozen=True)
class Regroup(Move):
    """The same numbers in the same order, in another shape: Flatten, Unsqueeze and the like."""

    shape: Shape

    @property
    def chained(self) -> bool:
        return True

    @property
    def regroups(self) -> bool:
        return True

    def to(self, shape: Shape) -> Regroup:
        return replace(self, shape=shape)

    def moved(self, labels: Labels, shape: Shape) -> list[Labels]:
        return [regrouped(labels, shape, self.shape)]


class Reshape(Regroup):
    """A shape that is stated."""

    @property
    def states_shape(self) -> bool:
        return True


class Squeeze(Regroup):
    """Axes of size 1 that go, maybe without being stated."""


@dataclass(frozen=True)
class Transpose(Move):
    order: tuple[int, ...]

    @property
    def chained(self) -> bool:
        return True

    @property
    def permutes(self) -> bool:
        return True

    def moved(self, labels: Labels, shape: Shape) -> list[Labels]:
        return [labels.transpose(self.order)]


@dataclass(frozen=True)
class Concat(Move):
    """Several tensors beside each other; see `concatenated`."""

    axis: int

    def image(self, ends: Sequence[Interval]) -> Interval:
        return min(low for low, _ in ends), max(high for _, high in ends)


@dataclass(frozen=True, eq=False)
class _Picked(Move):
    """Places of one axis, taken by their number."""

    axis: int

    @property
    def indexed(self) -> tuple[int, ...]:
        return (self.axis,)

    @property
    def chained(self) -> bool:
        return True


@dataclass(frozen=True)
class Split(_Picked):
    sizes: tuple[int, ...]

    def moved(self, labels: Labels, shape: Shape) -> list[Labels]:
        if labels.shape[self.axis] == 1:
            return [labels] * len(self.sizes)
        return [compress(part) for part in np.split(labels, np.cumsum(self.sizes)[:-1], self.axis)]


@dataclass(frozen=True)
class Slice(Move):
    """slices: (axis, start, stop, step) of each axis that is cut."""

    slices: tuple[tuple[int, int, int, int], ...]

    @property
    def indexed(self) -> tuple[int, ...]:
        return tuple(axis for axis, *_ in self.slices)

    @property
    def barred(self) -> tuple[int, ...]:
        return tuple(axis for axis, *taken in self.slices if not _every(*taken))

    @property
    def chained(self) -> bool:
        return True

    def moved(self, labels: Labels, shape: Shape) -> list[Labels]:
        index: list[slice] = [slice(None)] * labels.ndim
        for axis, start, stop, step in self.slices:
            if labels.shape[axis] > 1:
                index[axis] = slice(start, None if step < 0 and stop < -labels.shape[axis] else stop, step)
        return [compress(labels[tuple(index)])]

    def cut(self, axis: int, lines: Bools) -> Move | None:
        slices = list(self.slices)
        for number, (at, start, stop, step) in enumerate(self.slices):
            if at != axis:
                continue
            if _every(start, stop, step):
                places = np.cumsum(lines, axis=1) - 1
                chosen = np.arange(lines.shape[1]) % step == start
                if not (lines <= ((places % step == start) == chosen)).all():
                    return None
                continue
            places = np.arange(lines.shape[1])[start:stop]
            if step != 1 or not len(places):
                return None
            before, inside = lines[:, : places[0]].sum(1), lines[:, places].sum(1)
            if np.ptp(before) or np.ptp(inside) or not inside[0]:
                return None
            slices[number] = at, int(before[0]), int(before[0] + inside[0]), 1
        return Slice(tuple(slices))


def _every(start: int, stop: int, step: int) -> bool:
    """Whether a slice takes one place of each period, to the end."""
    return step > 1 and 0 <= start < step and stop >= TO_THE_END


@dataclass(frozen=True, eq=False)
class Gather(_Picked):
    indices: Array

    def moved(self, labels: Labels, shape: Shape) -> list[Labels]:
        if labels.shape[self.axis] == 1:
            ones = (1,) * self.indices.ndim
            return [labels.reshape(labels.shape[: self.axis] + ones + labels.shape[self.axis + 1 :])]
        return [compress(labels.take(self.indices, self.axis))]


@dataclass(frozen=True)
class Expand(Move):
    shape: Shape

    def moved(self, labels: Labels, shape: Shape) -> list[Labels]:
        return [labels.reshape((1,) * (len(self.shape) - labels.ndim) + labels.shape)]


@dataclass(frozen=True)
class Tile(Move):
    repeats: tuple[int, ...]

    def moved(self, labels: Labels, shape: Shape) -> list[Labels]:
        return [np.tile(labels, [r if n > 1 else 1 for r, n in zip(self.repeats, labels.shape, strict=True)])]


@dataclass(frozen=True)
class SpaceToDepth(Move):
    """Places that become channels: each block of places repeats the labels of its channels.

    deep_first: "DCR", the places of a block are the outer axis of the channels that are made.
    """

    block: int
    deep_first: bool = True

    def moved(self, labels: Labels, shape: Shape) -> list[Labels]:
        count = self.block**2 if labels.shape[1] > 1 else 1
        return [np.tile(labels, (1, count, 1, 1)) if self.deep_first else np.repeat(labels, count, axis=1)]


@dataclass(frozen=True)
class DepthToSpace(Move):
    """Channels that become places. deep_first: "DCR", the places of a block are the outer axis of the channels.

    `moved` gives [n, places in a block, channels, h, w].
    """

    block: int
    deep_first: bool

    def moved(self, labels: Labels, shape: Shape) -> list[Labels]:
        n, channels, height, width = labels.shape
        if channels == 1:
            return [labels[:, None]]
        order = (self.block**2, channels // self.block**2)
        split = labels.reshape(n, *(order if self.deep_first else order[::-1]), height, width)
        return [split if self.deep_first else split.swapaxes(1, 2)]


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
