"""Least squares from sums: exact priors stay, noise is not fitted, samples stream."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_condense.refitting.moments import STRENGTHS, Care, Sums, least_squares
from onnx_condense.refitting.rows import EACH, FEWEST, rows_for

RNG = np.random.default_rng

RIDGE_FELT = 1e-7
"""What a ridge of 1e-12 changes of the smallest numbers of a solution, at most."""


def summed(x: np.ndarray, y: np.ndarray, folds: int = 4) -> list[Sums]:
    parts = [Sums(x.shape[1], y.shape[1]) for _ in range(folds)]
    for number, part in enumerate(parts):
        part.add(x[number::folds], y[number::folds])
    return parts


def test_sums_stream_and_join() -> None:
    x, y = RNG(0).standard_normal((60, 4)) + 3, RNG(1).standard_normal((60, 2))
    moments = Sums.joined(summed(x, y)).moments()
    np.testing.assert_allclose(moments.x, x.mean(0))
    np.testing.assert_allclose(moments.xx, np.cov(x.T, bias=True), rtol=1e-9)
    np.testing.assert_allclose(Sums.joined(summed(x, y)).moments(centred=False).yx, y.T @ x / 60)


def test_the_loss_is_the_mean_square_and_the_ridge_its_minimum() -> None:
    x = RNG(0).standard_normal((500, 5)) @ RNG(1).standard_normal((5, 5)) + 2
    y = x @ RNG(2).standard_normal((5, 3)) + RNG(3).standard_normal((500, 3)) - 1
    moments = Sums.joined(summed(x, y)).moments()
    weight = moments.ridge(np.zeros((3, 5)), 1e-12)
    rest = y - x @ weight.T - moments.constant(weight)
    assert moments.loss(weight) == pytest.approx(float((rest**2).sum(1).mean()), rel=1e-6)
    wanted = np.linalg.lstsq(np.c_[x, np.ones(500)], y, rcond=None)[0]
    np.testing.assert_allclose(weight, wanted[:5].T, rtol=RIDGE_FELT)


def test_an_exact_prior_stays_and_dead_features_keep_their_column() -> None:
    x, prior = RNG(0).standard_normal((80, 4)), RNG(1).standard_normal((3, 4))
    x[:, 2] = 0
    moments = Sums.joined(summed(x, x @ prior.T)).moments()
    np.testing.assert_allclose(moments.ridge(prior, 1e-3), prior, atol=1e-12)
    other = moments.ridge(prior + 1, 1e-9)
    np.testing.assert_allclose(other[:, [0, 1, 3]], prior[:, [0, 1, 3]], rtol=1e-4)
    np.testing.assert_array_equal(other[:, 2], prior[:, 2] + 1)
    found = least_squares(summed(x, x @ prior.T + 5), prior, np.full(3, 5.0), True, care=Care(1e-9))
    assert found.weight is prior
    assert found.strength == np.inf


@pytest.mark.parametrize(("features", "rows"), [(9, FEWEST), (200, 200 * EACH), (9000, 2**16)])
def test_wide_layers_ask_for_more_rows(features: int, rows: int) -> None:
    assert rows_for(features, 2**16) == rows


@pytest.mark.parametrize(("samples", "strengths"), [(8, {np.inf, 1.0}), (4000, {1e-3, 1e-4})])
def test_held_back_samples_choose_the_strength(samples: int, strengths: set[float]) -> None:
    """A good prior and much noise: few samples leave it nearly alone, many correct it."""
    x, truth = RNG(0).standard_normal((samples, 6)), RNG(1).standard_normal((2, 6))
    y = x @ truth.T + (4.0 if samples == 8 else 0.1) * RNG(2).standard_normal((samples, 2))
    prior = truth + 0.05
    found = least_squares(summed(x, y), prior, np.zeros(2), True)
    assert found.strength in strengths
    assert set(STRENGTHS) >= strengths - {np.inf}


def test_one_sample_is_none() -> None:
    part = Sums(3, 1)
    part.add(np.ones((5, 3)), np.ones((5, 1)))
    prior = np.zeros((1, 3))
    assert least_squares([part, Sums(3, 1)], prior, np.zeros(1), True).weight is prior


def test_targets_through_a_weight() -> None:
    x, weight = RNG(0).standard_normal((200, 5)), RNG(1).standard_normal((3, 5))
    direct = least_squares(summed(x[:, :3], x @ weight.T), np.zeros((3, 3)), np.zeros(3), True)
    through = least_squares(summed(x[:, :3], x), np.zeros((3, 3)), np.zeros(3), True, through=weight)
    np.testing.assert_allclose(direct.weight, through.weight, atol=1e-10)


def test_covariances_take_in_others_at_their_own_size() -> None:
    x, other = RNG(0).standard_normal((12, 5)), RNG(1).standard_normal((900, 5)) * np.array([30, 10, 10, 10, 10])
    known = [Sums(5, 0), Sums(5, 0)]
    for sums, rows in zip(known, (x, other), strict=True):
        sums.add(rows, rows[:, :0])
    few, many = (sums.moments() for sums in known)
    mixed = few.shrunk(many, 0.25)
    assert np.trace(mixed.xx) == pytest.approx(np.trace(few.xx))
    np.testing.assert_allclose(few.shrunk(many, 0).xx, few.xx)
    whole = few.shrunk(many, 1).xx
    np.testing.assert_allclose(whole / np.trace(whole), many.xx / np.trace(many.xx))
    np.testing.assert_allclose(mixed.xx, 0.75 * few.xx + 0.25 * whole)
    nothing = Sums(5, 0)
    nothing.add(np.zeros((3, 5)), np.zeros((3, 0)))
    np.testing.assert_allclose(few.shrunk(nothing.moments(), 0.5).xx, few.xx / 2)


def test_mixes_of_many_targets_choose_the_strength_that_these_choose() -> None:
    x, weight = RNG(0).standard_normal((120, 20)), RNG(1).standard_normal((150, 20))
    parts = summed(x, x @ weight.T + 3 * RNG(2).standard_normal((120, 150)))
    prior, constant = np.zeros((150, 20)), np.zeros(150)
    whole = least_squares(parts, prior, constant, True)
    mixed = least_squares(parts, prior, constant, True, care=Care(mixes=64))
    assert STRENGTHS[0] > whole.strength == mixed.strength
    np.testing.assert_array_equal(mixed.weight, whole.weight)
    through, plain = (
        least_squares(summed(x, x), prior, constant, True, through=weight, care=care) for care in (Care(mixes=64), None)
    )
    np.testing.assert_array_equal(through.weight, plain.weight)
    varied = np.cov(x.T, bias=True)
    ridge = varied + through.strength * np.trace(varied) / len(varied) * np.eye(len(varied))
    assert through.strength == STRENGTHS[-1]
    wanted = np.linalg.solve(ridge, varied @ weight.T).T  # the formula of `Moments.ridge`, of rows and not of sums
    rounding = len(x) * np.finfo(float).eps * np.linalg.cond(ridge)
    assert rounding < 1.5e-13
    np.testing.assert_allclose(through.weight, wanted, rtol=0, atol=rounding)
    assert np.abs(through.weight - weight).max() < 5.3e-4  # no more than this ridge takes off the truth


def test_a_share_of_the_variance_may_be_apart() -> None:
    x = RNG(0).standard_normal((12, 4)) * np.array([3, 2, 1, 0])
    sums = Sums(4, 0)
    sums.add(x, x[:, :0])
    known = sums.moments()
    assert known.apart(0) is known
    apart = known.apart(1).xx
    assert np.trace(apart) == pytest.approx(np.trace(known.xx))
    np.testing.assert_allclose(np.diag(apart), np.trace(known.xx) / 3 * np.array([1, 1, 1, 0]))
    assert (apart == np.diag(np.diag(apart))).all()
