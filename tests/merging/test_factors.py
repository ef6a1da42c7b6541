"""A weight as a pair of factors, of any shape and along any axis."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import onnx_condense.merging.factors
from onnx_condense.merging.factors import Factor
from onnx_condense.model import held

ROUNDING = 1e-6
"""Of products of six numbers near one in float32."""


def pair(width: int, rank: int) -> Factor:
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((width, rank)))[0]
    return Factor(0, 1, "layer", None, basis)


@pytest.mark.parametrize(("shape", "axis"), [((50, 6), 1), ((6, 50), 0), ((6, 5, 3, 3), 0), ((5, 6, 3, 3), 1)])
def test_a_product_in_panels_is_the_product(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], axis: int) -> None:
    weight, factor = np.random.default_rng(1).standard_normal(shape).astype(np.float32), pair(6, 2)
    whole = factor.product(weight, axis)
    moved = np.tensordot(factor.basis @ factor.basis.T, weight, (1, axis))
    np.testing.assert_allclose(whole, np.moveaxis(moved, 0, axis), rtol=0, atol=ROUNDING)
    monkeypatch.setattr(onnx_condense.merging.factors, "PANEL", 20)
    panels = factor.product(weight, axis)
    assert panels.dtype == np.float32
    np.testing.assert_allclose(panels, whole, rtol=0, atol=ROUNDING)


def test_a_product_takes_little_more_than_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_condense.merging.factors, "PANEL", 1000)
    table, factor = np.ones((20_000, 8), np.float32), pair(8, 7)
    tracemalloc.start()
    try:
        made = factor.product(table, 1)
        assert tracemalloc.get_traced_memory()[1] < 1.2 * made.nbytes
    finally:
        tracemalloc.stop()


def test_large_weights_are_multiplied_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    table, factor = np.random.default_rng(0).standard_normal((20_000, 8)).astype(np.float32), pair(8, 7)
    expected = [factor.product(table, 1), factor.first(table, 1)]
    for module in (held, onnx_condense.merging.factors):
        monkeypatch.setattr(module, "ROOM_FROM", 1000)
    monkeypatch.setattr(onnx_condense.merging.factors, "PANEL", 1000)
    tracemalloc.start()
    try:
        found = [factor.product(table, 1), factor.first(table, 1)]
        assert tracemalloc.get_traced_memory()[1] < 0.2 * table.nbytes
    finally:
        tracemalloc.stop()
    held.let_go()
    for made, whole in zip(found, expected, strict=True):
        assert made.flags.c_contiguous
        np.testing.assert_allclose(made, whole, rtol=0, atol=ROUNDING)
