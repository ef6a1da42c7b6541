"""The vectors of channels, as pieces side by side: what is joined of others shares their numbers with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from onnx_condense.arrays import Bools, Floats

LONG = 256
"""Numbers per channel, for each of the channels, from which on vectors are written with as few as tell their products.

What is added up over hundreds of layers would take time and memory by the square of their number.
"""


class Piece(NamedTuple):
    """values [n, p], times the scales [n, 1] one after the other."""

    values: Floats
    scales: tuple[Floats, ...] = ()

    def array(self) -> Floats:
        """[n, p]."""
        result = self.values
        for scale in self.scales:
            result = result * scale
        return result


@dataclass(frozen=True, eq=False)
class Vectors:
    """A vector of each of n channels; only their products with each other count.

    blank: [n] the channels whose vectors, all zeros, count as all ones.
    """

    pieces: tuple[Piece, ...]
    blank: Bools | None = None

    @staticmethod
    def of(values: Floats) -> Vectors:
        """Of an array [n, p]."""
        return Vectors((Piece(values),))

    @property
    def shape(self) -> tuple[int, int]:
        """Channels, and numbers of each."""
        return len(self.pieces[0].values), sum(piece.values.shape[1] for piece in self.pieces)

    @property
    def dtype(self) -> np.dtype[np.floating[Any]]:
        """The type of their numbers."""
        return np.result_type(*(array.dtype for piece in self.pieces for array in (piece.values, *piece.scales)))

    def array(self) -> Floats:
        """[n, p]."""
        arrays = [piece.array() for piece in self.pieces]
        result = arrays[0] if len(arrays) == 1 else np.hstack(arrays)
        return result if self.blank is None else np.where(self.blank[:, None], 1, result)

    def any(self) -> Bools:
        """[n]: where a vector is not all zeros."""
        return np.asarray(np.any([piece.array().any(axis=1) for piece in self.pieces], axis=0))

    def filled(self, blank: Bools) -> Vectors:
        """With ones for the vectors of channels [n], which are zeros."""
        return Vectors(self.pieces, blank) if blank.any() else self

    def scaled(self, scales: Floats) -> Vectors:
        """Side by side, the vectors times each column of scales [n, q]."""
        columns = [scales[:, [i]] for i in range(scales.shape[1])]
        return _short([Piece(p.values, (*p.scales, column)) for column in columns for p in self.pieces])

    def beside(self, *others: Vectors) -> Vectors:
        """Longer ones: these, then others."""
        return _short([piece for vectors in (self, *others) for piece in vectors.pieces])


def _short(pieces: list[Piece]) -> Vectors:
    """Vectors of pieces; where they are long, others with the same products, as many numbers as there are channels."""
    result = Vectors(tuple(pieces))
    channels, numbers = result.shape
    if numbers <= LONG * channels or len(pieces) == 1:
        return result
    triangle: Floats = np.asarray(np.linalg.qr(result.array().T.astype(np.float64), mode="r"))
    return Vectors.of(triangle.T)
