"""How many numbers of a basis the rows of a table keep: frequent rows more than the others. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Array, Floats, Ints
from onnx_condense.factoring.spectrum import PANEL, Spectrum, spectrum
from onnx_condense.merging.factors import Bands

FLATTER = 0.5
"""Power of how often a row is read by which it counts here. By how often itself, the basis would follow frequent rows,
which keep nearly all their numbers anyway, and rare words, each of which says more, would lose most."""

GROUPS = 128
"""Rows that are read about as often are taken together, in so many groups."""

TRIED = 40
"""How many numbers rows may keep: so many choices are tried."""


@dataclass(frozen=True, eq=False)
class Divided:
    """A weight at the sizes of pairs of each rank: what is lost, and how many numbers rows of a table keep.

    plain: [m, k] orthonormal columns, those of a pair. vectors: [m, k] the same where rows keep different numbers.
    lost: [k + 1] the share of the variance that is lost, falling. Where rows differ, the less the larger the rank: what
    is lost between two ranks that are worth it is said to lie between.
    kept: [k + 1, 3] numbers that frequent rows keep, numbers that the others keep, and how many rows are frequent: 0
    where all keep as many.
    order: [n] rows, the most frequent first.
    """

    plain: Floats
    vectors: Floats
    lost: Floats
    kept: Ints
    order: Ints

    @property
    def differ(self) -> bool:
        """Whether at some size not all rows keep as many numbers."""
        return bool(self.kept[:, 2].any())

    def at(self, rank: int) -> tuple[Floats, Bands | None]:
        """The basis [m, r], and what rows keep in it, of a pair as large as one of this rank."""
        high, rare, frequent = self.kept[rank].tolist()
        if not frequent:
            return self.plain[:, :rank], None
        return self.vectors[:, :high], Bands(np.sort(self.order[:frequent]), rare)


def alike(found: Spectrum) -> Divided:
    """A weight all of whose rows keep as many numbers."""
    ranks = np.arange(len(found.lost))
    kept = np.stack([ranks, ranks, 0 * ranks], axis=1)
    return Divided(found.vectors, found.vectors, found.lost, kept, np.zeros(0, dtype=np.int64))


def divided(matrix: Array, shares: Floats, found: Spectrum, most: int, beside: int) -> Divided:
    """The best ways to spend the size of a pair on a table.

    matrix: [m, n] whose columns are the table's rows. shares: [n] how often each is read. found: what pairs lose.
    most: the highest rank of a pair. beside: numbers that further nodes take.
    """
    weights = shares**FLATTER
    own, order = spectrum(matrix, weights), np.argsort(-shares, kind="stable")
    ends = np.unique(np.geomspace(1, len(order), GROUPS).astype(np.int64))
    groups = np.searchsorted(ends, np.argsort(order), "right")
    energy = _energy(matrix, own.vectors, weights, np.minimum(groups, len(ends) - 1))
    lost, kept = own.lost.copy(), alike(own).kept
    for rank in range(1, most + 1):
        choices = _choices(rank, matrix.shape, len(lost) - 1, beside)
        losses = _lost(energy, np.concatenate([[0], ends]), choices)
        if len(losses) and losses.min() < lost[rank]:
            lost[rank], kept[rank] = losses.min(), choices[losses.argmin()]
    lost[1 : most + 1] = _convex(lost[1 : most + 1])
    return Divided(found.vectors, own.vectors, lost, kept, order)


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


def _energy(matrix: Array, vectors: Floats, weights: Floats, groups: Ints) -> Floats:
    """[groups + 1, k + 1] what the first groups of columns hold in the first directions, of all that they hold.

    matrix: [m, n]. weights: [n] of its columns, groups: [n] to which they belong.
    """
    (m, n), count = matrix.shape, int(groups.max()) + 1
    total, step = np.zeros((count + 1, vectors.shape[1] + 1)), max(1, PANEL // m)
    turned = vectors.T.astype(np.result_type(matrix.dtype, np.float32))
    for start in range(0, n, step):
        numbers, here = turned @ matrix[:, start : start + step], groups[start : start + step]
        spread = np.zeros((count + 1, len(here)), numbers.dtype)
        spread[here + 1, np.arange(len(here))] = weights[start : start + step]
        total[:, 1:] += spread @ (numbers * numbers).T
    found = total.cumsum(0).cumsum(1)
    return np.asarray(found / max(found[-1, -1], np.finfo(float).tiny))


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


def _lost(energy: Floats, ends: Ints, kept: Ints) -> Floats:
    """[c] the share that is lost where rows keep so much [c, 3] (see `Divided.kept`).

    energy: as of `_energy`. ends: [groups + 1] how many rows its groups hold.
    """
    high, rare, frequent = kept.T
    above = np.maximum(1, np.searchsorted(ends, frequent))
    part = (frequent - ends[above - 1]) / (ends[above] - ends[above - 1])

    def held(directions: Ints) -> Floats:
        low = energy[above - 1, directions]
        return np.asarray(low + part * (energy[above, directions] - low))

    return np.asarray(np.maximum(0.0, 1.0 - energy[-1, rare] - held(high) + held(rare)))
