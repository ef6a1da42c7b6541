"""Weights that are exactly of a low rank, which pairs of factors hold without loss."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onnx_condense.arrays import FLOAT32, FLOATS, Floats, Ints
from onnx_condense.errors import left_alone
from onnx_condense.factoring.spectrum import spectrum
from onnx_condense.factoring.weights import Factorable
from onnx_condense.merging.factors import Factor
from onnx_condense.merging.twin import Twin

BLOCK = 1024
"""Rows and columns of a weight, drawn at random, that show whether it may be of a low rank, at most."""

SINGULAR, SHORT = 2e5, 1e4
"""Conditions from which on such a block may be singular; of a short type, whose rounding hides more. A block of normal
numbers is above 1e4 now and then, and all of a weight would be looked at for nothing."""


def factor_exactly(twin: Twin, weights: Iterable[Factorable]) -> None:
    """Makes pairs of those weights of a twin that lose nothing by it and become smaller."""
    for weight in weights:
        found = None
        with left_alone(weight.layer):
            found = exact_factor(twin, weight)
        if found is not None:
            twin.factor(found)


def exact_factor(twin: Twin, weight: Factorable) -> Factor | None:
    """The pair that equals a weight of a twin to float rounding; None where there is none, or none that is smaller."""
    most = weight.pays(twin)
    if most < 1:
        return None
    rows, columns = weight.alive(twin)
    found = low_rank(weight.matrix(twin), (np.flatnonzero(rows), np.flatnonzero(columns)), most)
    if found is None:
        return None
    basis = np.zeros((len(rows), found.shape[1]))
    basis[rows] = found
    return weight.factor(twin, basis, None)


def low_rank(whole: Floats, alive: tuple[Ints, Ints], most: int) -> Floats | None:
    """[rows, rank] the basis in which what is alive of a matrix is what it was to float rounding, of most ranks."""
    kind = FLOATS.get(whole.dtype.name, FLOAT32)
    if not _may_be_low(whole, alive, most + 1, SHORT if kind.coarse else SINGULAR):
        return None
    matrix = whole[np.ix_(*alive)]
    if not matrix.any():
        return None
    vectors = spectrum(matrix, None).vectors
    rank = _rank(matrix, vectors, most, kind.rounding)
    return None if rank is None else vectors[:, :rank]


def _may_be_low(matrix: Floats, alive: tuple[Ints, Ints], size: int, condition: float) -> bool:
    """Whether a block of what is alive of a matrix, of so many rows and columns or of BLOCK, has such a condition."""
    generator, size = np.random.default_rng(0), min(size, BLOCK, *map(len, alive))
    places = [np.sort(generator.choice(there, size, replace=False)) for there in alive]
    block = matrix[np.ix_(*places)].astype(np.float64)
    probe = generator.standard_normal(size)
    try:
        found = np.linalg.solve(block, probe)
    except np.linalg.LinAlgError:
        return True
    return bool(np.linalg.norm(block) * np.linalg.norm(found) > condition * np.linalg.norm(probe))


def _rank(matrix: Floats, vectors: Floats, most: int, rounding: float) -> int | None:
    """The lowest rank, at most `most`, at which every row and every column is what it was to float rounding."""
    wide = matrix.astype(np.float64)
    inner = vectors[:, :most].T @ wide
    limits = [rounding * np.linalg.norm(wide, axis=axis) for axis in (0, 1)]

    def equals(rank: int) -> bool:
        gap = wide - vectors[:, :rank] @ inner[:rank]
        return all((np.linalg.norm(gap, axis=axis) <= limit).all() for axis, limit in enumerate(limits))

    if not equals(most):
        return None
    low, high = 0, most  # not equal at low, equal at high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if equals(middle) else (middle, high)
    return high
