"""Weights as matrices: which elements a row multiplies, and how constants of rows become a bias. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_condense.arrays import Array, Floats, Ints, Shape


@dataclass(frozen=True)
class Layout:
    """How a weight is a matrix [rows, features].

    A feature is an element that a row multiplies: every tap of every channel where a row is a whole kernel (then a row
    makes an output), else a channel.

    Attributes:
        shape, dtype: of the original weight.
        contracted: its axis of channels that are read.
        produced: its axis of outputs; None where it has none of its own.
        kernels: whether a row is a whole kernel.
        alpha: what its product is multiplied with; matrices hold it.
        scattered: of its `Contraction`.
        lines: the contracted axis holds [before, channels, behind] places; a row reads one place of each channel.
    """

    shape: Shape
    dtype: np.dtype[Any]
    contracted: int
    produced: int | None
    kernels: bool = False
    alpha: float = 1.0
    scattered: int = 0
    lines: tuple[int, int] = (1, 1)

    @property
    def channels(self) -> int:
        """How many are read."""
        return self.shape[self.contracted] // (self.lines[0] * self.lines[1])

    def channel_of(self, places: Ints) -> Ints:
        """[k] the channels that lie at places [k] of the contracted axis."""
        return np.asarray(places // self.lines[1] % self.channels)

    @property
    def taps(self) -> int:
        """Features of each channel."""
        if not self.kernels:
            return 1
        ends = (self.contracted, self.produced)
        return int(np.prod([size for axis, size in enumerate(self.shape) if axis not in ends]))

    def features(self, places: Ints) -> Ints:
        """[k · taps] the features of these places [k] of the contracted axis."""
        return (places[:, None] * self.taps + np.arange(self.taps)).reshape(-1)

    def matrix(self, weight: Array) -> Floats:
        """[rows, features] of a weight of this shape, times alpha, float64."""
        return self._flat(weight).astype(np.float64) * self.alpha

    def columns(self, weight: Array, features: Ints) -> Floats:
        """[rows, k] some features of the same."""
        return self._flat(weight).astype(np.float64)[:, features] * self.alpha

    def weight(self, matrix: Floats) -> Array:
        """The inverse of `matrix`, for any number of channels: [rows, channels · taps] to a weight."""
        matrix = matrix / self.alpha
        if not self.kernels:
            turned = np.moveaxis(matrix.reshape(*self._rest, -1), -1, self.contracted + 1)
            shape = *self.shape[: self.contracted], -1, *self.shape[self.contracted + 1 :]
            return turned.reshape(shape).astype(self.dtype)
        sizes = list(self.shape)
        sizes[self.contracted] = matrix.shape[1] // self.taps
        rest = [n for axis, n in enumerate(sizes) if axis not in self._ends]
        turned = np.moveaxis(matrix.reshape(*(sizes[axis] for axis in self._ends), *rest), (0, 1), self._ends)
        return turned.astype(self.dtype)

    def bias(self, constants: Floats) -> Floats:
        """[outputs]: what constants [rows] add to the bias; nothing where there are no outputs of its own."""
        if self.produced is None:
            return np.zeros(0)
        if self.kernels:
            return constants
        axis, rest = self._row_axes(self.produced)
        each: Floats = np.moveaxis(constants.reshape(rest), axis, 0).reshape(rest[axis], -1).sum(1)
        return each / max(1, self.scattered)

    def constants(self, shift: Floats) -> Floats:
        """[rows] that `bias` brings to this shift [outputs], all rows of an output alike; zeros for none."""
        if self.produced is None or not shift.size:
            return np.zeros(int(np.prod(self._rest)))
        axis, rest = self._row_axes(self.produced)
        each = shift * (max(1, self.scattered) * len(shift) / np.prod(rest))
        line = each.reshape([-1 if a == axis else 1 for a in range(len(rest))])
        return np.broadcast_to(line, rest).reshape(-1)

    @property
    def _ends(self) -> tuple[int, int]:
        assert self.produced is not None
        return self.produced, self.contracted

    def _flat(self, weight: Array) -> Array:
        """[rows, features]."""
        if self.kernels:
            return np.moveaxis(weight, self._ends, (0, 1)).reshape(weight.shape[self._ends[0]], -1)
        (before, behind), axis = self.lines, self.contracted
        split = weight.reshape(*weight.shape[:axis], before, -1, behind, *weight.shape[axis + 1 :])
        moved = np.moveaxis(split, axis + 1, -1)
        return moved.reshape(-1, moved.shape[-1])

    @property
    def _rest(self) -> list[int]:
        """Sizes of the axes that rows are numbered along."""
        return [*self.shape[: self.contracted], *self.lines, *self.shape[self.contracted + 1 :]]

    def _row_axes(self, produced: int) -> tuple[int, list[int]]:
        """Where the axis of outputs is among the axes that rows are numbered along, and their sizes."""
        return (produced if produced < self.contracted else produced + 1), self._rest
