"""Tensors as rows of features, by sample and position. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Array, Floats, Ints

CHUNK = 2**22
"""Numbers of one consumer's features that are taken at a time."""

EACH = 64
"""Rows for each feature that tell how features vary together: what is fitted to so many loses about 1 / 64 more than
what is fitted to all; rows of one sample are alike, and say less than that."""

FEWEST = 2**12
"""But not fewer rows in all."""


def rows_for(features: int, most: int) -> int:
    """How many rows of so many features are summed, `most` at most."""
    return min(most, max(FEWEST, EACH * features))


@dataclass(frozen=True)
class Channels:
    """A tensor and the axis that its channels lie on; `lines`: [before, channels, behind] on that axis, once each."""

    tensor: str
    axis: int
    lines: tuple[int, int] = (1, 1)

    def of(self, value: Array) -> Floats:
        """[samples, positions, channels] of a value of the tensor; what has no axis of samples is one."""
        if self.lines == (1, 1):
            values = np.moveaxis(value, self.axis, -1)
        else:
            before, behind = self.lines
            split = *value.shape[: self.axis], before, -1, behind, *value.shape[self.axis + 1 :]
            values = np.moveaxis(value.reshape(split), self.axis + 1, -1)
        if values.ndim < 2:
            return values.reshape(1, 1, -1)
        return values.reshape(len(values), -1, values.shape[-1])


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """What a consumer reads: a row of features for each position of its output in each sample.

    lines: [samples, places, channels], with a place of zeros behind the others where there are windows.
    taps: [positions, taps] places of each window; without windows, positions are those of its input.
    """

    lines: Floats
    taps: Ints | None

    @staticmethod
    def through(lines: Floats, taps: Ints | None) -> FeatureRows:
        """Rows of lines [samples, places, channels] through windows [positions, taps], -1 beyond the border."""
        return FeatureRows(lines if taps is None else _bordered(lines), taps)

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.lines)

    @property
    def positions(self) -> int:
        """Rows of each sample."""
        return int(self.lines.shape[1]) if self.taps is None else len(self.taps)

    @property
    def features(self) -> int:
        """Elements of a row."""
        return int(self.lines.shape[2]) * (1 if self.taps is None else self.taps.shape[1])

    def at(self, samples: Ints, positions: Ints) -> Floats:
        """[n, features] of n pairs of a sample [n] and a position [n]."""
        if self.taps is None:
            return self.lines[samples, positions]
        taps = self.lines[samples[:, None], self.taps[positions]]
        return taps.swapaxes(1, 2).reshape(len(taps), -1)

    def whole(self) -> Floats:
        """[samples, positions, features]: every row."""
        if self.taps is None:
            return self.lines
        taps = self.lines[:, self.taps]
        return taps.swapaxes(2, 3).reshape(*taps.shape[:2], -1)

    def of_samples(self, chosen: Ints) -> FeatureRows:
        """The rows of some samples [k]."""
        return FeatureRows(self.lines[chosen], self.taps)

    def other(self, lines: Floats) -> FeatureRows:
        """Rows of the same windows over other lines [samples, places, channels], without the place of zeros."""
        return FeatureRows.through(lines, self.taps)

    def adjoint(self, rows: Floats) -> Floats:
        """[samples, places, channels]: of `whole`, sums of what rows [samples, positions, features] have there."""
        if self.taps is None:
            return rows
        result = np.zeros((len(rows), *self.lines.shape[1:]), dtype=rows.dtype)
        each = rows.reshape(*rows.shape[:2], self.lines.shape[2], -1)
        for tap, places in enumerate(self.taps.T):  # places of one tap differ, but for the border
            result[:, places] += each[..., tap]
        return result[:, :-1]


def _bordered(lines: Floats) -> Floats:
    """[samples, places + 1, channels] with a place of zeros behind the others."""
    return np.pad(lines, ((0, 0), (0, 1), (0, 0)))
