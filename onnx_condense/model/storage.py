"""Weights that are stored in another type than they are used in, and what they can hold after a merge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnx_condense.arrays import FLOAT32, FLOATS, Array, Bools, Floats

INTEGERS = (np.int8, np.uint8, np.int16, np.uint16, np.int32)
"""Types of integers that weights may be sliced and folded in."""

NEAR = FLOAT32.rounding
"""A number this near to an integer, relative to its size, is one: scales are float32."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """A constant that a DequantizeLinear makes of integers: value = (integer - zero point) · scale.

    node: index of the DequantizeLinear. source: index and type of the floats that a QuantizeLinear makes integers of,
    None where integers are stored. scale, zero_point: of the integers' rank, of length 1 or full along each axis.
    axis: along which they vary, None where they do not. explicit: whether the nodes name a zero point.
    """

    node: int
    source: tuple[int, np.dtype[Any]] | None
    integers: Array
    scale: Floats
    zero_point: Array
    axis: int | None
    explicit: bool

    def values(self, integers: Array) -> Floats:
        """What integers of the stored shape stand for, in float64."""
        wide: Floats = (integers.astype(np.float64) - self.zero_point) * self.scale
        return wide

    def wide(self, value: Array) -> Floats:
        """The float64 values of stored floats, of their shape and free of their rounding."""
        return self.rounded(value)

    def rounded(self, value: Array) -> Floats:
        """The float64 values nearest to these that can be stored, of their shape."""
        return self.values(self.nearest(value))

    def nearest(self, value: Array) -> Array:
        """The integers, of the stored shape, whose values are nearest.

        They stay as stored where the value is what is stored, rounded to its type.
        """
        before = self.values(self.integers)
        change = value.astype(np.float64) - before
        rounding = 0.0 if value.dtype == np.float64 else 2 * FLOATS[value.dtype.name].eps
        steps = np.where(np.abs(change) <= rounding * np.abs(before), 0.0, change) / self.scale
        limits = np.iinfo(self.integers.dtype)
        integers = self.integers.astype(np.float64) + np.round(steps)
        return np.clip(integers, limits.min, limits.max).astype(self.integers.dtype)

    def holds(self, value: Floats) -> Bools:
        """Where float64 values are values of integers of the type, to rounding; of their shape."""
        number = value / self.scale
        whole = np.round(number)
        limits = np.iinfo(self.integers.dtype)
        near = np.abs(number - whole) <= np.minimum(0.05, NEAR * np.maximum(1, np.abs(number)))
        inside = (whole + self.zero_point >= limits.min) & (whole + self.zero_point <= limits.max)
        return np.asarray(near & inside)

    def sliced(self, take: Callable[[Array], Array]) -> Quantized:
        """What is left of it; `take` is given arrays of its rank, whose shapes are 1 or full along each axis."""
        return replace(self, integers=take(self.integers), scale=take(self.scale), zero_point=take(self.zero_point))

    def inputs(self, value: Array) -> dict[tuple[int, int], Array]:
        """(node index, input index) -> what must be stored there for a value of any shape."""
        integers = self.nearest(value)
        if self.source is None:
            nodes, found = [self.node], {(self.node, 0): integers}
        else:
            index, kind = self.source
            nodes, found = [self.node, index], {(index, 0): self.values(integers).astype(kind)}
        if self.axis is not None:
            found |= {(node, 1): self.scale.reshape(-1) for node in nodes}
        if self.axis is not None and self.explicit:
            found |= {(node, 2): self.zero_point.reshape(-1) for node in nodes}
        return found


@dataclass(frozen=True)
class Narrowed:
    """A constant that a Cast makes of narrower floats: float16 or bfloat16 weights of a float32 model.

    node: index of the Cast. kind: type of what is stored.
    """

    node: int
    kind: np.dtype[Any]

    def wide(self, value: Array) -> Floats:
        """The value in float64, of its shape."""
        return np.asarray(value, dtype=np.float64)

    def rounded(self, value: Array) -> Floats:
        """The float64 values nearest to these that can be stored, of their shape."""
        return value.astype(self.kind).astype(np.float64)

    def sliced(self, take: Callable[[Array], Array]) -> Narrowed:
        """As of Quantized, for arrays of any shape: there is nothing to slice."""
        return self

    def inputs(self, value: Array) -> dict[tuple[int, int], Array]:
        """(node index, input index) -> what must be stored there for a value of any shape."""
        return {(self.node, 0): value.astype(self.kind)}
