"""A weight as a pair of factors: what it makes is rebuilt from fewer numbers by a basis.

y = U Uᵀ (W x) + b: the layer makes r numbers, a linear map behind it makes y of them. U has orthonormal columns, so the
layer's new weight Uᵀ W follows from the product U Uᵀ W, which the expanded twin holds in the original shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_condense.arrays import Array, Floats
from onnx_condense.merging.entries import whole, word
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.long_arrays import AnyArray, put, take
from onnx_condense.model.held import ROOM_FROM, let_go, room

PANEL = 1 << 24
"""Numbers of a weight that are multiplied at once."""

ORTHONORMAL = 1e-4
"""How far products of a basis' columns may be from 0 and 1: it is stored in the type of the weight."""


@dataclass(frozen=True, eq=False)
class Factor:
    """The basis in which what one weight makes is rebuilt.

    Attributes:
        node, input: index of the node in the graph, and of its weight among the node's inputs.
        layer: its name, for people.
        source: what says how its inputs vary; None where the weight is exactly of this rank.
        basis: [produced, rank], orthonormal columns.
    """

    node: int
    input: int
    layer: str
    source: Evidence | None
    basis: AnyArray

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Factor):
            return NotImplemented
        named = (self.node, self.input, self.layer, self.source) == (other.node, other.input, other.layer, other.source)
        return named and np.array_equal(self.basis, other.basis)

    @property
    def rank(self) -> int:
        """Numbers that the layer makes then."""
        return int(self.basis.shape[1])

    def product(self, weight: Array, axis: int) -> Array:
        """A weight of any shape as the pair multiplies, its produced axis given; of its type.

        Made in panels; that of a large table lies in a file.
        """
        result = room(weight.shape, weight.dtype)
        read, made = np.moveaxis(weight, axis, 0), np.moveaxis(result, axis, 0)
        step = max(1, PANEL * read.shape[1] // max(1, weight.size))
        for start in range(0, read.shape[1], step):
            panel = slice(start, start + step)
            made[:, panel] = rotated(self.basis, rotated(self.basis.T, read[:, panel], 0), 0)
            if weight.nbytes >= ROOM_FROM:
                let_go()
        return result

    def first(self, weight: Array, axis: int) -> Array:
        """A weight of any shape as its layer holds it, which makes `rank` numbers then; its produced axis given."""
        return paneled(self.basis.T, weight, axis)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; long arrays stand in it as they are."""
        return {
            "node": self.node,
            "input": self.input,
            "layer": self.layer,
            "source": self.source,
            "basis": put(self.basis),
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Factor:
        """The inverse of `to_json`. Raises ValueError for what no run gives."""
        basis, source = orthonormal(np.asarray(take(content["basis"]))), content["source"]
        evidence = None if source is None else Evidence(source)
        return Factor(whole(content["node"]), whole(content["input"]), word(content["layer"]), evidence, basis)


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
