"""How many numbers of a basis the rows of a table keep: frequent rows more than the others. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Array, Floats, Ints
from onnx_condense.factoring.spectrum import PANEL, Spectrum, floored
from onnx_condense.merging.factors import Bands

PRIOR = 1.0
"""Weight of what a law says of how often rows are read, against reads that were counted."""

GROUPS = 128
"""Rows that are read about as often count together, in so many groups."""

TRIED = 40
"""How many numbers rows may keep: so many choices are tried."""

CLEAR = 0.9
"""Share of what is lost where all rows keep as many numbers, above which they do: it takes fewer nodes."""


@dataclass(frozen=True, eq=False)
class Reads:
    """How often the rows of a table are read.

    counts: [n] reads that were counted. law: [n] shares of a law, for what was not counted.
    """

    counts: Floats
    law: Floats

    @property
    def counted(self) -> bool:
        """Whether any were."""
        return bool(self.counts.any())

    @property
    def shares(self) -> Floats:
        """[n] of all reads, as counts and the law say."""
        return self._shares(self.counts) if self.counted else self.law

    @property
    def otherwise(self) -> Floats:
        """[n] the same share of each row where one read of it had not been counted: what a next one finds."""
        return self._shares(self.counts - 1)

    def _shares(self, counts: Floats) -> Floats:
        total = self.counts.sum()
        return np.asarray((counts + PRIOR * total * self.law) / ((1 + PRIOR) * max(1.0, total)))


@dataclass(frozen=True, eq=False)
class Divided:
    """A table at the sizes of pairs of each rank: what is lost, and how many numbers its rows keep.

    order: [n] rows, the most frequent first. vectors: [m, k] orthonormal columns.
    lost: [k + 1] the share of the variance that is lost, falling. Where rows differ, the less the larger the rank: what
    is lost between two ranks that are worth it is said to lie between.
    kept: [k + 1, 3] numbers that frequent rows keep, numbers that the others keep, and how many rows are frequent: 0
    where all keep as many.
    """

    order: Ints
    vectors: Floats
    lost: Floats
    kept: Ints

    @property
    def differ(self) -> bool:
        """Whether at some size not all rows keep as many numbers."""
        return bool(self.kept[:, 2].any())

    def at(self, rank: int) -> tuple[Floats, Bands | None]:
        """The basis [m, r], and what rows keep in it, of a pair as large as one of this rank."""
        high, rare, frequent = self.kept[rank].tolist()
        return self.vectors[:, :high], Bands(np.sort(self.order[:frequent]), rare) if frequent else None


def alike(found: Spectrum) -> Divided:
    """A weight all of whose rows keep as many numbers."""
    ranks = np.arange(len(found.lost))
    return Divided(np.zeros(0, np.int64), found.vectors, found.lost, np.stack([ranks, ranks, 0 * ranks], axis=1))


def divided(matrix: Array, reads: Reads, found: Spectrum, most: int, beside: int) -> Divided:
    """The best ways to spend the size of a pair on a table.

    Rows differ where that loses less by the frequencies, and also of the reads that were counted, each as if the others
    alone told which rows are frequent: a table whose rows are read alike keeps them alike.

    matrix: [m, n] whose columns are the table's rows. most: the highest rank of a pair. beside: numbers that further
    nodes take.
    """
    shares, seen = reads.shares, np.flatnonzero(reads.counts)
    order = np.argsort(-shares, kind="stable")
    ends = np.unique(np.geomspace(1, len(order), GROUPS).astype(np.int64))
    place, again = np.argsort(order), np.searchsorted(-shares[order], -reads.otherwise[seen])
    energy = _energy(matrix, found.vectors, floored(shares), np.searchsorted(ends, place, "right"), len(ends))
    other = _energy(
        matrix[:, seen], found.vectors, reads.counts[seen], np.searchsorted(ends, again, "right"), len(ends)
    )
    both = [_Kept(one, np.concatenate([[0], ends])) for one in (energy, other)]
    plain = alike(found)
    lost, kept = plain.lost.copy(), plain.kept.copy()
    for rank in range(1, most + 1):
        choices = _choices(rank, matrix.shape, len(found.lost) - 1, beside)
        if not len(choices):
            continue
        best = choices[np.argmin(both[0].lost(choices))][None]
        if all(one.lost(best)[0] < CLEAR * one.lost(kept[rank][None])[0] for one in both):
            lost[rank], kept[rank] = both[0].lost(best)[0], best[0]
    if kept[:, 2].any():
        lost[1 : most + 1] = _convex(lost[1 : most + 1])
    return Divided(order, found.vectors, lost, kept)


def _convex(values: Floats) -> Floats:
    """[n] the largest convex values that are nowhere above these [n]."""
    corners = list[int]()
    for at in range(len(values)):
        while len(corners) > 1:
            one, two = corners[-2:]
            if (values[two] - values[one]) * (at - one) < (values[at] - values[one]) * (two - one):
                break
            corners.pop()
        corners.append(at)
    return np.asarray(np.interp(np.arange(len(values)), corners, values[corners]))


def _energy(matrix: Array, vectors: Floats, weights: Floats, groups: Ints, count: int) -> Floats:
    """[count + 1, k + 1] what the first groups of rows hold in the first directions, of all that rows hold.

    matrix: [m, n] whose columns are rows, weights: [n] of them, groups: [n] to which they belong.
    """
    (m, n), total = matrix.shape, np.zeros((count + 1, vectors.shape[1] + 1))
    turned, step = vectors.T.astype(np.result_type(matrix.dtype, np.float32)), max(1, PANEL // m)
    for start in range(0, n, step):
        numbers = turned @ matrix[:, start : start + step]
        here = groups[start : start + step]
        spread = np.zeros((count + 1, len(here)), numbers.dtype)
        spread[np.minimum(here, count - 1) + 1, np.arange(len(here))] = weights[start : start + step]
        total[:, 1:] += spread @ (numbers * numbers).T
    found = total.cumsum(0).cumsum(1)
    return np.asarray(found / max(found[-1, -1], np.finfo(float).tiny))


@dataclass(frozen=True, eq=False)
class _Kept:
    """What rows keep of a basis.

    energy: as of `_energy`. ends: [groups + 1] how many rows these groups hold.
    """

    energy: Floats
    ends: Ints

    def lost(self, kept: Ints) -> Floats:
        """[c] the share that is lost where rows keep so much [c, 3] (see `Divided.kept`)."""
        high, rare, frequent = kept.T
        left = self.energy[-1, rare] + self._of(frequent, high) - self._of(frequent, rare)
        return np.asarray(np.maximum(0.0, 1.0 - left))

    def _of(self, rows: Ints, directions: Ints) -> Floats:
        """[c] what so many of the most frequent rows [c] hold in so many directions [c]."""
        above = np.maximum(1, np.searchsorted(self.ends, rows))
        low, high = self.energy[above - 1, directions], self.energy[above, directions]
        part = (rows - self.ends[above - 1]) / (self.ends[above] - self.ends[above - 1])
        return np.asarray(low + part * (high - low))


def _choices(rank: int, shape: tuple[int, ...], full: int, beside: int) -> Ints:
    """[c, 3] what rows may keep (see `Divided.kept`) in the size of a pair of this rank.

    The first numbers of all rows, more numbers of frequent ones and of one of zeros, the basis, and for each row where
    it is, are counted. shape: [m, n]. full: the numbers that there are.
    """
    m, n = shape
    few = np.unique(np.linspace(1, rank, TRIED).astype(np.int64))[:-1]
    many = np.unique(np.linspace(rank, full, TRIED).astype(np.int64))[1:]
    rare, high = (side.ravel() for side in np.meshgrid(few, many, indexing="ij"))
    frequent = (rank * (m + n) - n - beside - high * m - rare * n) // np.maximum(1, high - rare) - 1
    fits = (frequent > 0) & (frequent < n)
    return np.asarray(np.stack([high, rare, frequent], axis=1)[fits])
