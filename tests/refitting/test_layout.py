"""Weights as matrices: there and back, and constants of rows as a bias."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_condense.refitting.layout import Layout

FLOAT = np.dtype(np.float32)
LAYOUTS = {
    "dense": Layout((5, 7), FLOAT, 1, 0, alpha=0.5),
    "transposed": Layout((7, 5), FLOAT, 0, 1),
    "kernels": Layout((5, 7, 3, 2), FLOAT, 1, 0, kernels=True, alpha=2.0),
    "channels": Layout((5, 7, 3, 2), FLOAT, 1, 0),
    "scattered": Layout((7, 5, 2, 2), FLOAT, 0, 1, scattered=4),
    "reader": Layout((2, 6, 7), FLOAT, 2, None),
}


def weight_of(layout: Layout) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(layout.shape).astype(np.float32)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_there_and_back(kind: str) -> None:
    layout = LAYOUTS[kind]
    weight = weight_of(layout)
    matrix = layout.matrix(weight)
    assert matrix.shape[1] == 7 * layout.taps
    back = layout.weight(matrix)
    assert back.dtype == FLOAT
    np.testing.assert_array_equal(back, weight)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_kept_features_are_those_of_kept_places(kind: str) -> None:
    layout, places = LAYOUTS[kind], np.array([0, 3, 4])
    weight = weight_of(layout)
    found = layout.columns(weight, layout.features(places))
    np.testing.assert_array_equal(layout.weight(found), weight.take(places, layout.contracted))


def test_a_row_of_kernels_makes_an_output() -> None:
    layout = LAYOUTS["kernels"]
    weight = weight_of(layout)
    window = np.random.default_rng(1).standard_normal((7, 3, 2))
    expected = layout.alpha * np.einsum("ocij,cij->o", weight.astype(float), window)
    np.testing.assert_allclose(layout.matrix(weight) @ window.reshape(-1), expected)


@pytest.mark.parametrize("kind", ["dense", "transposed", "channels", "scattered"])
def test_constants_of_rows_bring_a_shift(kind: str) -> None:
    layout, shift = LAYOUTS[kind], np.arange(5.0)
    constants = layout.constants(shift)
    assert len(constants) == len(layout.matrix(weight_of(layout)))
    np.testing.assert_allclose(layout.bias(constants), shift)
    assert not layout.constants(np.zeros(0)).any()


def test_constants_of_kernels_are_the_bias() -> None:
    np.testing.assert_array_equal(LAYOUTS["kernels"].bias(np.arange(5.0)), np.arange(5.0))


def test_a_weight_without_outputs_of_its_own_has_no_bias() -> None:
    layout = LAYOUTS["reader"]
    assert layout.bias(np.ones(12)).size == 0
    np.testing.assert_array_equal(layout.constants(np.ones(5)), np.zeros(12))
