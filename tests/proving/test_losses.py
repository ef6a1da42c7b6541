"""What outputs lose: squared relative errors, labels that differ, and what distributions over classes lose."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import rel_entr, softmax
from support.planted.net import Net

from onnx_condense.proving.losses import lost, scores_in


def rows(seed: int, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((40, 5))).astype(np.float32)


def divergence(a: np.ndarray, b: np.ndarray) -> float:
    """Of softmax of scores: the least over what the second may be multiplied by."""

    def at(scale: float) -> float:
        return float(rel_entr(softmax(a.astype(float), 1), softmax(scale * b.astype(float), 1)).sum(1).mean())

    return min(at(1.0), float(minimize_scalar(at, bounds=(0.5, 2.0), method="bounded").fun))


def test_numbers_lose_their_squared_relative_error() -> None:
    a = rows(0)
    assert lost([{"y": a}], [{"y": 1.1 * a}]) == pytest.approx(0.01, rel=1e-4)
    assert lost([{"y": a}], [{"y": a}]) == 0
    assert lost([{"y": a}], [{"y": a[:, :3]}]) == np.inf


def test_labels_lose_the_share_that_differs() -> None:
    a = np.arange(10)
    assert lost([{"y": a}], [{"y": np.where(a < 3, 99, a)}]) == pytest.approx(0.3)


def test_scores_lose_what_their_distributions_lose() -> None:
    a, b = rows(0, 2), rows(1, 2)
    squared = float(((a - b) ** 2).sum() / (a**2).sum())
    assert lost([{"y": a}], [{"y": b}], {"y"}) == pytest.approx((squared + divergence(a, b)) / 2, rel=1e-4)


def test_shares_are_taken_as_they_are() -> None:
    a, b = (softmax(rows(seed, 2).astype(float), 1) for seed in (0, 1))
    squared = float(((a - b) ** 2).sum() / (a**2).sum())
    wanted = divergence(np.log(a), np.log(b))
    assert lost([{"y": a}], [{"y": b}], {"y"}) == pytest.approx((squared + wanted) / 2, rel=1e-4)


@pytest.mark.parametrize("scale", [0.6, 1.5])
def test_a_scale_of_all_scores_costs_their_distributions_nothing(scale: float) -> None:
    """It names the same classes."""
    a = rows(0, 2)
    assert lost([{"y": a}], [{"y": a * np.float32(scale)}], {"y"}) == pytest.approx((1 - scale) ** 2 / 2, rel=1e-3)


def test_a_distribution_is_not_scaled_without_end() -> None:
    a = rows(0, 9)
    assert lost([{"y": a}], [{"y": a / 1000}], {"y"}) > 0.9


def test_an_attenuated_score_loses_less_than_another_class() -> None:
    """Half of every score is a larger error in numbers, and names the same classes."""
    a = rows(0, 6)
    other = a.copy()
    other[:, [0, 1]] = a[:, [1, 0]]
    half, swapped = [{"y": a / 2}], [{"y": (2 * a + 3 * other) / 5}]
    assert lost([{"y": a}], half) > lost([{"y": a}], swapped)
    assert lost([{"y": a}], half, {"y"}) < lost([{"y": a}], swapped, {"y"})


@pytest.mark.parametrize(
    ("scale", "name", "found"),
    [(9.0, "y", True), (0.1, "y", False), (0.1, "logits", True)],
    ids=["classes that lead by far", "numbers that do not", "a name"],
)
def test_what_scores_are(scale: float, name: str, found: bool) -> None:
    net = Net()
    model = net.build(net.node("Identity", net.input("batch", 5)))
    model.graph.node[-1].output[0] = model.graph.output[0].name = name
    assert scores_in(model, [{name: rows(0, scale)}]) == (frozenset([name]) if found else frozenset())


def test_one_class_for_all_rows_is_none() -> None:
    net = Net()
    model = net.build(net.node("Identity", net.input("batch", 5)))
    name = model.graph.output[0].name
    assert not scores_in(model, [{name: rows(0) + np.float32([0, 0, 90, 0, 0])}])
