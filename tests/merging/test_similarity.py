"""Cosines, ratios and the greedy groups against naive versions of the formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from onnx_condense.algebra.stages import Rule, Stage
from onnx_condense.algebra.vectors import Vectors
from onnx_condense.merging.similarity import condensation_groups, ratios, similarity

Doubles = NDArray[np.float64]


def stage(rows: NDArray[np.floating], bias: NDArray[np.floating], rule: Rule, key: int = 0) -> Stage:
    return Stage(Vectors.of(rows), bias, frozenset({key}), rule)


def vectors(seed: int, n: int = 11, p: int = 5, kind: type[np.floating] = np.float32) -> tuple[Doubles, Doubles]:
    """Rows with equal, scaled and opposite ones among them, and a zero row."""
    rng = np.random.default_rng(seed)
    rows, bias = rng.standard_normal((n, p)), rng.standard_normal((n, 1))
    for j, m, r in ((1, 0, 1.0), (3, 2, 2.5), (5, 4, -1.0), (6, 4, -0.3)):
        rows[j], bias[j] = r * rows[m], r * bias[m]
    rows[7] = bias[7] = 0
    return rows.astype(kind), bias.astype(kind)


def naive(u: Doubles, v: Doubles, rule: Rule) -> float:
    dot, uu, vv = float(u @ v), float(u @ u), float(v @ v)
    if rule in (Rule.ANY, Rule.POSITIVE):
        value = dot / np.sqrt(uu * vv) if uu * vv > 0 else 0.0
    else:
        value = 2 * dot / (uu + vv) if uu + vv > 0 else 0.0
    value = abs(value) if rule in (Rule.ANY, Rule.ODD) else value
    return float(np.clip(value, -1, 1))


def naive_matrix(stages: list[Stage]) -> Doubles:
    n = len(stages[0].bias)
    result = np.full((n, n), -1.0)
    for i in range(n):
        for j in range(n):
            if i != j:
                pairs = [
                    (np.hstack([f.vectors.array()[i], f.bias[i]]), np.hstack([f.vectors.array()[j], f.bias[j]]), f.rule)
                    for f in stages
                ]
                result[i, j] = min(naive(u.astype(float), v.astype(float), rule) for u, v, rule in pairs)
    return result


@pytest.mark.parametrize("block", [1, 3, 1024])
@pytest.mark.parametrize("rule", list(Rule))
def test_similarity(rule: Rule, block: int) -> None:
    stages = [stage(*vectors(1), rule)]
    found = similarity(stages, 11, block)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, naive_matrix(stages), atol=1e-12)


@pytest.mark.parametrize("rule", list(Rule))
def test_similarity_of_large_layers_is_in_single_precision(rule: Rule) -> None:
    stages = [stage(*vectors(2), rule)]
    found = similarity(stages, 11, block=4, small=0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, naive_matrix(stages), atol=2e-6)


@pytest.mark.parametrize("block", [2, 1024])
def test_similarity_of_stages_is_their_minimum(block: int) -> None:
    stages = [
        stage(*vectors(3), Rule.POSITIVE),
        stage(*vectors(4), Rule.EQUAL, 1),
        stage(*vectors(5), Rule.ODD, 2),
    ]
    np.testing.assert_allclose(similarity(stages, 11, block), naive_matrix(stages), atol=1e-12)


def test_similarity_is_clipped_and_symmetric() -> None:
    rows = np.full((6, 7), 0.1, dtype=np.float32) * np.arange(1, 7, dtype=np.float32)[:, None]
    found = similarity([stage(rows, np.zeros((6, 1)), Rule.POSITIVE)], 6)
    assert found.max() <= 1
    np.testing.assert_array_equal(found, found.T)
    assert (np.diag(found) == -1).all()


def test_without_stages_nothing_is_alike() -> None:
    assert (similarity([], 4) == -1).all()


@pytest.mark.parametrize("rule", list(Rule))
def test_ratios(rule: Rule) -> None:
    rows, bias = vectors(6, kind=np.float64)
    j, m = np.array([1, 3, 5, 6, 8, 7]), np.array([0, 2, 4, 4, 9, 8])
    found = ratios(stage(rows, bias, rule), j, m)
    full = np.hstack([rows, bias])
    for position, (a, b) in enumerate(zip(full[j], full[m], strict=True)):
        sign = -1.0 if a @ b < 0 else 1.0
        norm = np.linalg.norm(a) / np.linalg.norm(b)
        expected = {Rule.ANY: sign * norm, Rule.POSITIVE: norm, Rule.ODD: sign, Rule.EQUAL: 1.0}[rule]
        assert found[position] == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_a_zero_main_has_a_finite_ratio() -> None:
    rows = np.array([[1.0, 2.0], [0.0, 0.0]])
    for rule in Rule:
        assert np.isfinite(ratios(stage(rows, np.zeros((2, 1)), rule), np.array([0]), np.array([1]))).all()


def greedy(alike: Doubles, threshold: float) -> list[int]:
    """The paper's grouping, word for word."""
    n = len(alike)
    main = list(range(n))
    ungrouped = set(range(n))
    while ungrouped:
        counts = {i: sum(alike[i, j] > threshold for j in ungrouped if j != i) for i in ungrouped}
        best = min(i for i in ungrouped if counts[i] == max(counts.values()))
        members = {j for j in ungrouped if j != best and alike[best, j] > threshold}
        for j in members:
            main[j] = best
        ungrouped -= members | {best}
    return main


@given(st.integers(1, 14), st.data())
@settings(max_examples=200, derandomize=True)
def test_condensation_groups(n: int, data: st.DataObject) -> None:
    """Few distinct values, so that ties are common and values equal to the threshold occur."""
    values = data.draw(arrays.arrays(np.float64, (n, n), elements=st.sampled_from([-1.0, 0.25, 0.5, 0.75, 1.0])))
    alike = np.maximum(values, values.T)
    np.fill_diagonal(alike, -1)
    threshold = data.draw(st.sampled_from([0.25, 0.5, 0.6, 0.75, 1.0]))
    assert condensation_groups(alike, threshold).tolist() == greedy(alike, threshold)


def test_condensation_groups_in_blocks() -> None:
    rng = np.random.default_rng(7)
    alike = rng.uniform(-1, 1, (30, 30))
    alike = np.maximum(alike, alike.T)
    np.fill_diagonal(alike, -1)
    for threshold in (0.1, 0.7, 0.95):
        assert condensation_groups(alike, threshold, block=2).tolist() == greedy(alike, threshold)


def test_condensation_groups_do_not_chain() -> None:
    """0 is like 1, 1 like 2, 2 like 3, no others: connected components would make one group of all four."""
    alike = np.full((4, 4), -1.0)
    for i in range(3):
        alike[i, i + 1] = alike[i + 1, i] = 0.9
    assert condensation_groups(alike, 0.88).tolist() == [1, 1, 1, 3]


def test_threshold_is_exclusive() -> None:
    alike = np.array([[-1.0, 0.88], [0.88, -1.0]])
    assert condensation_groups(alike, 0.88).tolist() == [0, 1]
    assert condensation_groups(alike, np.nextafter(0.88, 0)).tolist() == [0, 0]
    assert condensation_groups(np.array([[-1.0, 1.0], [1.0, -1.0]]), 1.0).tolist() == [0, 1]


def test_confirm_turns_members_away() -> None:
    """Who is turned away remains ungrouped, and may be a main neuron or a member later."""
    alike = np.full((4, 4), 0.9)
    np.fill_diagonal(alike, -1)
    parity = condensation_groups(alike, 0.5, lambda members, main: members % 2 == main % 2)
    assert parity.tolist() == [0, 1, 0, 1]
    nobody = condensation_groups(alike, 0.5, lambda members, main: np.zeros(len(members), dtype=bool))
    assert nobody.tolist() == [0, 1, 2, 3]
