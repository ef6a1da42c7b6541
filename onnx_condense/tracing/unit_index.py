"""Which arrays hold a unit: of many tensors and weights, few hold those of one group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Ints


@dataclass(frozen=True, eq=False)
class UnitIndex:
    """Which of several arrays hold each unit.

    starts: [units + 1] where the numbers of each begin. numbers: [k] of arrays, ascending for each unit.
    """

    starts: Ints
    numbers: Ints

    @staticmethod
    def of(arrays: Iterable[Ints], units: int) -> UnitIndex:
        """arrays: units, of any shape, -1 where there is none. units: how many there are."""
        held = [np.unique(array[array >= 0]) for array in arrays]
        every = np.concatenate([np.zeros(0, dtype=np.int64), *held])
        numbers = np.repeat(np.arange(len(held)), [len(mine) for mine in held])
        starts = np.concatenate([[0], np.cumsum(np.bincount(every, minlength=units))])
        return UnitIndex(starts, numbers[np.argsort(every, kind="stable")])

    def with_any(self, units: Ints) -> list[int]:
        """The arrays that hold any of some units [k], ascending."""
        spans = zip(self.starts[units].tolist(), self.starts[units + 1].tolist(), strict=True)
        found = [self.numbers[start:end] for start, end in spans]
        return [int(one) for one in np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *found]))]
