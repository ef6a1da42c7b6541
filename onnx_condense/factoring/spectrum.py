"""The best bases of every rank for what a weight makes, and what each loses. Numpy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Floats

FLOOR = 1e-4
"""Share of the mean variance that what is read varies with at least in every direction."""

PANEL = 2**22
"""Numbers of a weight that are taken at once."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Orthogonal directions of what a weight makes, those along which it varies most first.

    vectors: [m, k] orthonormal columns. lost: [k + 1] the share of its variance that is lost at each rank, falling.
    """

    vectors: Floats
    lost: Floats


def spectrum(matrix: Floats, moments: Floats | None, read: Callable[[], object] = lambda: None) -> Spectrum:
    """The spectrum of W x for a weight [m, n] and second moments of x: [n, n], [n] where they are diagonal, or unknown.

    The best W' of rank r for E|W x - W' x|² is U Uᵀ W, U the first r directions. `read` is called when the weight has
    been, before what takes most memory.
    """
    m, n = matrix.shape
    if m <= n:
        gram = _gram(matrix, moments)
        read()
        values, vectors = np.linalg.eigh(gram)
    else:
        made = _spread(np.ascontiguousarray(matrix, dtype=np.float64), moments)
        read()
        values, right = np.linalg.eigh(made.T @ made)
        vectors, _ = np.linalg.qr(made @ right[:, ::-1])
        vectors = vectors[:, ::-1]
    values = np.maximum(values[::-1], 0.0)
    tails = np.concatenate([np.cumsum(values[::-1])[::-1], [0.0]])
    return Spectrum(vectors[:, ::-1], tails / tails[0] if tails[0] > 0 else np.zeros(len(tails)))


def _floored(moments: Floats) -> Floats:
    """Second moments [n, n], or [n], that no direction is without."""
    if moments.ndim == 1:
        return np.asarray(moments + FLOOR * moments.mean())
    size = len(moments)
    return np.asarray(moments + FLOOR * np.trace(moments) / size * np.eye(size) + np.finfo(float).tiny * np.eye(size))


def _spread(wide: Floats, moments: Floats | None) -> Floats:
    """[m, n] whose rows have as products the second moments of W x."""
    if moments is None:
        return wide
    floored = _floored(moments)
    return np.asarray(wide * np.sqrt(floored) if moments.ndim == 1 else wide @ np.linalg.cholesky(floored))


def _gram(matrix: Floats, moments: Floats | None) -> Floats:
    """[m, m] the second moments of W x."""
    m, n = matrix.shape
    if moments is not None and moments.ndim == 2:
        wide = np.ascontiguousarray(matrix, dtype=np.float64)
        return np.asarray(wide @ _floored(moments) @ wide.T)
    weights = None if moments is None else _floored(moments)
    result, step = np.zeros((m, m)), max(1, PANEL // m)
    for start in range(0, n, step):
        part = np.ascontiguousarray(matrix[:, start : start + step], dtype=np.float64)
        result += part @ (part if weights is None else part * weights[start : start + step]).T
    return result
