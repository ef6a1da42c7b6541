"""Vectors as pieces: the array that they stand for, and long ones with the same products."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_condense.algebra.vectors import LONG, Vectors

RNG = np.random.default_rng(0)


def rows(numbers: int, channels: int = 3) -> np.ndarray:
    return RNG.standard_normal((channels, numbers)).astype(np.float32)


def test_pieces_side_by_side_times_scales() -> None:
    one, other, scales = rows(4), rows(2), RNG.standard_normal((3, 2))
    made = Vectors.of(one).beside(Vectors.of(other)).scaled(scales)
    whole = np.hstack([one, other])
    np.testing.assert_array_equal(made.array(), np.hstack([whole * scales[:, :1], whole * scales[:, 1:]]))
    assert made.shape == made.array().shape
    assert made.dtype == made.array().dtype == np.float64


def test_what_vectors_are_made_of_is_shared() -> None:
    one = rows(4)
    made = Vectors.of(one).beside(Vectors.of(rows(2)))
    assert any(piece.values is one for piece in made.pieces)


@pytest.mark.parametrize("blank", [np.array([False, True, False]), np.zeros(3, dtype=bool)])
def test_blank_vectors_are_ones(blank: np.ndarray) -> None:
    values = rows(4)
    values[1] = 0
    made = Vectors.of(values)
    np.testing.assert_array_equal(made.any(), [True, False, True])
    np.testing.assert_array_equal(made.filled(blank).array(), np.where(blank[:, None], 1, values))


def test_long_vectors_are_written_with_as_many_numbers_as_channels() -> None:
    """Copies and zeros among them: all products are as before."""
    values = rows(LONG * 3)
    values[1], values[2] = 2 * values[0], 0
    made = Vectors.of(values).beside(Vectors.of(np.zeros((3, 1), dtype=np.float32)))
    assert made.shape == (3, 3)
    whole = values.astype(np.float64)
    np.testing.assert_allclose(made.array() @ made.array().T, whole @ whole.T, atol=1e-9)
    np.testing.assert_array_equal(made.any(), [True, True, False])
