"""Labels: which atom stands at which place of a tensor, and by which signal it got there.

Every output channel of every producer is an *atom*. A label packs an atom and the index of a signal into one integer,
so that data movement, run on labels, carries both. -1 is a place without an atom. An array of labels has the rank of
its tensor; each axis has length 1 (nothing varies along it) or the tensor's full length.
"""

from __future__ import annotations

import numpy as np

from onnx_condense.arrays import Ints, Labels

SIGNAL_BITS = 32


def pack(atoms: Ints, signals: Ints | int) -> Labels:
    """Labels from atoms and signal indices of one shape; places with atom -1 get -1."""
    return np.where(atoms < 0, -1, (atoms << SIGNAL_BITS) | signals)


def atoms_of(labels: Labels) -> Ints:
    """The atom at each place, -1 where there is none; the shape is that of the labels."""
    return labels >> SIGNAL_BITS


def signals_of(labels: Labels) -> Ints:
    """The index of the signal at each place; the shape is that of the labels."""
    return labels & ((1 << SIGNAL_BITS) - 1)


def varying(labels: Labels) -> tuple[int, ...]:
    """The axes along which something varies: those of labels of any shape that are longer than 1."""
    return tuple(axis for axis, size in enumerate(labels.shape) if size > 1)


def aligned(labels: Labels, rank: int) -> Labels:
    """Labels with leading axes added to their shape, for broadcasting to a higher rank."""
    return labels.reshape((1,) * (rank - labels.ndim) + labels.shape)


def occurrence(keys: Ints) -> Ints:
    """[n] -> [n]: for each place, how many earlier places hold the same key."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    result, again = np.zeros(len(keys), dtype=np.int64), ordered[1:] == ordered[:-1]
    if again.any():
        starts = np.flatnonzero(np.concatenate([[True], ~again]))
        result[order] = np.arange(len(keys)) - np.repeat(starts, np.diff(starts, append=len(keys)))
    return result


class UnionFind:
    """Disjoint sets of atoms; the root of a set is its lowest atom."""

    def __init__(self) -> None:
        self._parents = np.zeros(0, dtype=np.int64)
        self._count = 0

    @property
    def _parent(self) -> Ints:
        """[atoms] what lies above each atom, itself where it is a root."""
        return self._parents[: self._count]

    def grow(self, count: int) -> Ints:
        """Adds atoms and returns them, [count]."""
        atoms = np.arange(self._count, self._count + count, dtype=np.int64)
        self._count += count
        if self._count > len(self._parents):  # twice as many, so that all atoms are moved a few times only
            self._parents = np.concatenate([self._parents, np.zeros(self._count, dtype=np.int64)])
        self._parent[atoms] = atoms
        return atoms

    def roots(self) -> Ints:
        """[atoms] the root of every atom."""
        while True:
            above = self._parent[self._parent]
            if np.array_equal(above, self._parent):
                return above
            self._parent[:] = above

    def _find(self, atom: int) -> int:
        parent = self._parent
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = int(parent[atom])
        return atom

    def unite(self, left: Ints, right: Ints) -> None:
        """Unites left[i] with right[i]."""
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            if a != b:
                a, b = self._find(a), self._find(b)
                self._parent[max(a, b)] = min(a, b)
