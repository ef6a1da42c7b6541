"""A weight as a pair of factors: what it makes is rebuilt from fewer numbers by a basis.

y = U Uᵀ (W x) + b: the layer makes r numbers, a linear map behind it makes y of them. U has orthonormal columns, so the
layer's new weight Uᵀ W follows from the product U Uᵀ W, which the expanded twin holds in the original shape.

Rows of a table that are read often may keep more numbers than the others: U Uᵀ W of them, V Vᵀ W of the others, V the
first columns of U.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_condense.arrays import Array, Floats, Ints
from onnx_condense.merging.entries import whole, word
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.long_arrays import AnyArray, put, row, take
from onnx_condense.model.held import ROOM_FROM, let_go, room

PANEL = 1 << 24
"""Numbers of a weight that are multiplied at once."""

ORTHONORMAL = 1e-4
"""How far products of a basis' columns may be from 0 and 1: it is stored in the type of the weight."""


@dataclass(frozen=True, eq=False)
class Bands:
    """Rows of a table that keep all numbers of a basis, where the others keep the first ones only.

    Attributes:
        frequent: [k] rows that keep all, ascending.
        rare: how many numbers the others keep.
    """

    frequent: Ints
    rare: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bands) and self.rare == other.rare and np.array_equal(self.frequent, other.frequent)

    def cut(self, numbers: Floats, rows: Ints) -> None:
        """Takes from numbers [rank, n] of some rows [n] of the table, in place, what these do not keep."""
        numbers[self.rare :, np.isin(rows, self.frequent, invert=True)] = 0

    def fit(self, rank: int, rows: int) -> bool:
        """Whether they are those of a table of so many rows in a basis of so many numbers."""
        named = np.flatnonzero(np.isin(np.arange(rows), self.frequent))
        return 0 < len(named) < rows and np.array_equal(named, self.frequent) and 0 < self.rare < rank


@dataclass(frozen=True, eq=False)
class Factor:
    """The basis in which what one weight makes is rebuilt.

    Attributes:
        node, input: index of the node in the graph, and of its weight among the node's inputs.
        layer: its name, for people.
        source: what says how its inputs vary; None where the weight is exactly of this rank.
        basis: [produced, rank], orthonormal columns.
        bands: of a table whose rows do not all keep as many numbers; None where they do, and of other weights.
    """

    node: int
    input: int
    layer: str
    source: Evidence | None
    basis: AnyArray
    bands: Bands | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Factor):
            return NotImplemented
        named = (self.node, self.input, self.layer, self.source) == (other.node, other.input, other.layer, other.source)
        return named and self.bands == other.bands and np.array_equal(self.basis, other.basis)

    @property
    def rank(self) -> int:
        """Numbers that the layer makes then, of a frequent row of a table."""
        return int(self.basis.shape[1])

    @property
    def first_rank(self) -> int:
        """Numbers that the layer's own weight makes: those that all rows of a table keep."""
        return self.rank if self.bands is None else self.bands.rare

    @property
    def ranks(self) -> tuple[int, ...]:
        """What tells pairs of one weight apart by their sizes."""
        return ranks_of(self.basis, self.bands)

    def product(self, weight: Array, axis: int) -> Array:
        """A weight of any shape as the pair multiplies, its produced axis given; of its type.

        Made in panels; that of a large table lies in a file.
        """
        result = room(weight.shape, weight.dtype)
        read, made = np.moveaxis(weight, axis, 0), np.moveaxis(result, axis, 0)
        step = max(1, PANEL * read.shape[1] // max(1, weight.size))
        for start in range(0, read.shape[1], step):
            panel = slice(start, start + step)
            numbers = rotated(self.basis.T, read[:, panel], 0)
            if self.bands is not None:
                self.bands.cut(numbers, np.arange(start, start + numbers.shape[1]))
            made[:, panel] = rotated(self.basis, numbers, 0)
            if weight.nbytes >= ROOM_FROM:
                let_go()
        return result

    def first(self, weight: Array, axis: int) -> Array:
        """A weight of any shape as its layer holds it, which makes `first_rank` numbers; its produced axis given."""
        return paneled(self.basis[:, : self.first_rank].T, weight, axis)

    def further(self, table: Array) -> tuple[Array, Array] | None:
        """What frequent rows of a table [n, produced] keep beyond that, [1 + k, further numbers], the first row zeros.

        And [n] which of these rows belongs to each row of the table. None where all rows keep as many numbers.
        """
        if self.bands is None:
            return None
        frequent = self.bands.frequent
        kept = rotated(self.basis[:, self.bands.rare :].T, table[frequent], 1).astype(table.dtype, copy=False)
        places: Array = np.zeros(len(table), dtype=np.int32)
        places[frequent] = np.arange(1, len(frequent) + 1)
        return np.concatenate([np.zeros_like(kept[:1]), kept]), places

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; long arrays stand in it as they are."""
        return {
            "node": self.node,
            "input": self.input,
            "layer": self.layer,
            "source": self.source,
            "basis": put(self.basis),
        } | ({} if self.bands is None else {"frequent": put(self.bands.frequent), "rare": self.bands.rare})

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Factor:
        """The inverse of `to_json`. Raises ValueError for what no run gives."""
        basis, source = orthonormal(np.asarray(take(content["basis"]))), content["source"]
        evidence = None if source is None else Evidence(source)
        bands = None
        if "frequent" in content:
            bands = Bands(np.array(row(content["frequent"])), whole(content["rare"]))
        return Factor(whole(content["node"]), whole(content["input"]), word(content["layer"]), evidence, basis, bands)


def ranks_of(basis: AnyArray, bands: Bands | None) -> tuple[int, ...]:
    """What tells pairs of one weight, of which this is a basis [produced, rank], apart by their sizes."""
    rank = int(basis.shape[1])
    return (rank,) if bands is None else (rank, bands.rare, len(bands.frequent))


def orthonormal(basis: AnyArray) -> AnyArray:
    """A basis [n, rank] that is one. Raises ValueError where it is none."""
    if basis.ndim != 2 or not 0 < basis.shape[1] <= basis.shape[0] or basis.dtype.kind != "f":
        raise ValueError("a basis is no matrix")
    wide = basis.astype(np.float64)
    gram = wide.T @ wide
    if not np.abs(gram - np.eye(len(gram))).max() <= ORTHONORMAL:
        raise ValueError("the columns of a basis are not orthonormal")
    return basis


def paneled(matrix: AnyArray, weight: Array, axis: int) -> Array:
    """A matrix [k, m] times a weight of any shape along its axis of size m, of its type; of a large one in panels."""
    if weight.nbytes < ROOM_FROM:
        return rotated(matrix, weight, axis).astype(weight.dtype, copy=False)
    result = room([len(matrix) if a == axis else n for a, n in enumerate(weight.shape)], weight.dtype)
    read, made = np.moveaxis(weight, axis, 0), np.moveaxis(result, axis, 0)
    step = max(1, PANEL * read.shape[1] // weight.size)
    for start in range(0, read.shape[1], step):
        made[:, start : start + step] = rotated(matrix, read[:, start : start + step], 0)
        let_go()
    return result


def rotated(matrix: AnyArray, weight: Array, axis: int) -> Floats:
    """A matrix [k, m] times a weight of any shape along its axis of size m, in its type, in float32 at least."""
    kind = np.result_type(weight.dtype, np.float32)
    moved = np.moveaxis(weight, axis, 0)
    rows = moved.reshape(len(moved), -1).astype(kind, copy=False)
    found = (matrix.astype(kind, copy=False) @ rows).reshape(len(matrix), *moved.shape[1:])
    return np.moveaxis(found, 0, axis)
