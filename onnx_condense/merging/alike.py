"""How alike the channels of a cell are: all pairs of few channels, of many only those that are anything alike.

Numpy only. A table of all pairs of 16,384 channels takes a gigabyte, twice what their weights take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnx_condense.algebra.stages import Stage
from onnx_condense.arrays import Floats, Ints
from onnx_condense.merging.similarity import BLOCK, Compared, Confirm, condensation_groups, precise, similarity

SPARSE_FROM = 2**10
"""Channels from which only pairs are kept that are alike."""

FLOOR = 0.5
"""How alike these are at least."""

MOST = 32
"""Pairs that are kept per channel, on average, at most: where more are alike, all are kept."""


@dataclass(frozen=True, eq=False)
class Near:
    """The pairs of n channels that are alike. starts: [n + 1] where the pairs of each begin.

    others: [pairs] the other channel, in order. values: [pairs] how alike it is. highest: of all pairs, kept or not.
    """

    starts: Ints
    others: Ints
    values: Floats
    highest: float

    def row(self, i: int) -> tuple[Ints, Floats]:
        """[k] the channels that are like channel i, and [k] how alike they are."""
        mine = slice(self.starts[i], self.starts[i + 1])
        return self.others[mine], self.values[mine]

    @property
    def owners(self) -> Ints:
        """[pairs] the first channel."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


class Alike:
    """How alike n channels are by some stages, pair by pair (see `similarity`)."""

    def __init__(self, stages: Sequence[Stage], n: int, sparse_from: int = SPARSE_FROM) -> None:
        """`sparse_from`: so many channels and more are kept as pairs."""
        self._stages, self._n = stages, n
        self._near = _near(stages, n) if n >= sparse_from and stages else None
        if self._near is None:
            self.table = similarity(stages, n)

    @cached_property
    def table(self) -> Floats:
        """[n, n]: all of it."""
        return similarity(self._stages, self._n)

    @property
    def highest(self) -> float:
        """Of any two channels; -1 where there are none."""
        if self._near is not None:
            return self._near.highest
        return float(self.table.max()) if self._n > 1 else -1.0

    def groups(self, threshold: float, confirm: Confirm | None = None) -> Ints:
        """[n]: the main channel of each (see `condensation_groups`)."""
        near = self._near
        if near is None or threshold < FLOOR:
            return condensation_groups(self.table, threshold, confirm)
        main, open_ = np.arange(self._n), np.ones(self._n, dtype=bool)
        counts = np.bincount(near.owners[near.values > threshold], minlength=self._n)
        while True:
            chosen = int(np.argmax(np.where(open_, counts, -1)))
            if not open_[chosen] or counts[chosen] < 1:
                return main
            members = self._above(chosen, threshold)
            members = members[open_[members]]
            if confirm is not None:
                members = members[confirm(members, chosen)]
            main[members] = chosen
            taken = np.append(members, chosen)
            open_[taken] = False
            for one in taken.tolist():
                counts[self._above(one, threshold)] -= 1

    def _above(self, i: int, threshold: float) -> Ints:
        assert self._near is not None
        others, values = self._near.row(i)
        return others[values > threshold]

    def of(self, j: Ints, m: Ints) -> Floats:
        """[k]: how alike channels j [k] and m [k] are; where less than FLOOR, it may be said that they are not."""
        near = self._near
        if near is None:
            return self.table[j, m]
        found = np.full(len(j), -1, dtype=near.values.dtype)
        for place, (one, other) in enumerate(zip(j.tolist(), m.tolist(), strict=True)):
            others, values = near.row(one)
            where = int(np.searchsorted(others, other))
            if where < len(others) and others[where] == other:
                found[place] = values[where]
        return found

    def nearest(self, goes: Ints, stays: Ints) -> Ints:
        """[k]: the most alike of channels `stays` to each of `goes` [k]; any where none is like it."""
        if self._near is None:
            return np.asarray(stays[np.argmax(self.table[np.ix_(goes, stays)], axis=1)])
        kept, found = np.zeros(self._n, dtype=bool), np.full(len(goes), stays[0])
        kept[stays] = True
        for place, one in enumerate(goes.tolist()):
            others, values = self._near.row(one)
            others, values = others[kept[others]], values[kept[others]]
            if len(others):
                found[place] = others[np.argmax(values)]
        return found


def _near(stages: Sequence[Stage], n: int) -> Near | None:
    """The pairs that are alike, None where they are too many to be kept as such."""
    kind = np.float64 if precise(stages, n) else np.float32
    compared = [Compared.of(stage, kind) for stage in stages]
    rows, columns, values, count, highest = [], [], [], 0, -1.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, n, BLOCK):
            found = compared[0].products(start)
            for other in compared[1:]:
                np.minimum(found, other.products(start), out=found)
            found[np.tril_indices(len(found))] = -1
            highest = max(highest, float(found.max(initial=-1)))
            i, j = np.nonzero(found > FLOOR)
            rows.append(i + start)
            columns.append(j + start)
            values.append(found[i, j])
            count += 2 * len(i)
            if count > MOST * n:
                return None
    i, j = np.concatenate([*rows, *columns]), np.concatenate([*columns, *rows])
    value = np.concatenate([*values, *values])
    order = np.lexsort((j, i))
    starts = np.concatenate([[0], np.cumsum(np.bincount(i, minlength=n))])
    return Near(starts, j[order], value[order], highest)
