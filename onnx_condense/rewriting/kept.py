"""What is alive of a tensor, and the channels for which it has no shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Array, Bools, Ints


class Disagreement(Exception):
    """What is alive on a tensor gives it no shape: these units must all stay."""

    def __init__(self, units: Ints, name: str) -> None:
        super().__init__(name)
        self.units = units
        self.name = name


class Enlarged(Disagreement):
    """A weight that the file only described would have to be written down, and the file would grow."""


class Failed(Disagreement):
    """An error of ours, which `text` tells, happened where these units are handled."""

    def __init__(self, units: Ints, name: str, text: str) -> None:
        super().__init__(units, name)
        self.text = text


@dataclass(frozen=True, eq=False)
class Kept:
    """What is alive of a tensor along the axis that shrinks.

    mask: of the tensor's rank; axes along which it does not vary have length 1.
    """

    axis: int
    mask: Bools

    @property
    def line(self) -> Bools | None:
        """[size of the axis], None where other places are alive in each line."""
        return self.mask.reshape(-1) if self.mask.size == self.mask.shape[self.axis] else None

    @property
    def lines(self) -> Bools:
        """[lines, size of the axis] what is alive of each line along it, the first one of lines that are alike."""
        return np.moveaxis(self.mask, self.axis, -1).reshape(-1, self.mask.shape[self.axis])

    @property
    def count(self) -> int:
        """Places that are alive in each line."""
        lines = self.mask.size // self.mask.shape[self.axis]
        return int(np.count_nonzero(self.mask) // lines)

    def of(self, value: Array) -> Array:
        """What is alive of an array of the tensor's shape."""
        if self.line is not None:
            return value.compress(self.line, self.axis)
        mask = np.moveaxis(np.broadcast_to(self.mask, value.shape), self.axis, -1)
        moved = np.moveaxis(value, self.axis, -1)
        return np.moveaxis(moved[mask].reshape(*moved.shape[:-1], self.count), -1, self.axis)
