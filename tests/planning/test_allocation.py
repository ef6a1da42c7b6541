"""Which channels go first: those that cost least for what they save, never more than are asked for."""

from __future__ import annotations

import numpy as np

from onnx_condense.planning.allocation import Curve, PricedPair, PricedWeight, allocate, cost


def test_allocation_takes_the_cheapest_saving() -> None:
    """Two groups in a chain: removing one channel of either saves what the other's width makes of it."""
    parts = [PricedWeight(1.0, (10, 4), ((0, 0, 1),)), PricedWeight(1.0, (10, 10), ((0, 1, 1), (1, 0, 1)))]
    assert cost(parts, {0: 2, 1: 5}) == 8 * 4 + 5 * 8
    steps = np.arange(1, 10)
    cheap, dear = (Curve(np.arange(9), scale * steps.astype(float) ** 2, steps) for scale in (1.0, 100.0))
    removed = allocate({0: dear, 1: cheap}, parts, 80.0)
    assert removed[1] > removed[0]
    assert cost(parts, removed) <= 80
    everything = allocate({0: dear, 1: cheap}, parts, 0.0)
    assert everything == {0: 9, 1: 9}
    coarse = Curve(np.arange(9), steps.astype(float), np.array([4, 8]))
    assert allocate({1: coarse}, parts, 130.0)[1] == 4


def test_what_the_last_step_saves_too_much_goes_back() -> None:
    """The last step saves 10 where 6 are wanted; the other group gets four of its channels back."""
    parts = [PricedWeight(1.0, (10, 10), ((0, 0, 1),)), PricedWeight(1.0, (50, 1), ((0, 1, 1),))]
    coarse, fine = (
        Curve(np.arange(n), loss * np.arange(1.0, n + 1), np.arange(1, n + 1)) for n, loss in ((9, 15), (49, 1))
    )
    removed = allocate({0: coarse, 1: fine}, parts, 95.0)
    assert removed == {0: 1, 1: 45}
    assert cost(parts, removed) == 95
    unneeded = Curve(fine.order, 0 * fine.losses, fine.steps)
    assert allocate({0: coarse, 1: unneeded}, parts, 95.0) == {0: 1, 1: 49}


def test_a_last_step_that_saves_too_much_is_replaced() -> None:
    """A channel of the cheap group saves 10 where 5 are wanted."""
    parts = [PricedWeight(1.0, (10, 10), ((0, 0, 1),)), PricedWeight(1.0, (50, 1), ((0, 1, 1),))]
    cheap, dear = (
        Curve(np.arange(n), loss * np.arange(1.0, n + 1), np.arange(1, n + 1)) for n, loss in ((9, 1), (49, 1))
    )
    assert allocate({0: cheap, 1: dear}, parts, 145.0) == {0: 1, 1: 0}
    assert allocate({0: cheap, 1: dear}, parts, 145.0, slack=2.0) == {0: 0, 1: 5}
    assert allocate({0: cheap}, parts, 145.0, slack=2.0) == {0: 1}
    assert allocate({0: cheap, 1: dear}, parts, 12.0, slack=0.5) == {0: 9, 1: 48}
    free = Curve(cheap.order, 0 * cheap.losses, cheap.steps)
    assert allocate({0: free, 1: dear}, parts, 145.0, slack=2.0) == {0: 1, 1: 0}
    ruinous = Curve(dear.order, 3 * dear.losses, dear.steps)
    assert allocate({0: cheap, 1: ruinous}, parts, 145.0, slack=2.0) == {0: 1, 1: 0}, "15 times as much would be lost"


def test_a_pair_without_which_the_limit_is_missed_stays_among_what_may_go() -> None:
    """The last step is a pair's only one, which by rounding loses more per unit than itself."""
    pair = PricedWeight(4.0, (9, 6), (), PricedPair(1, 6, -2, 1.0))
    parts = [pair, PricedWeight(1.0, (7, 38), ((0, 0, 1),))]
    free, paired = (Curve(np.arange(1), np.array([lost]), np.array([1])) for lost in (0.0, 0.05061568201816080))
    assert allocate({0: free, 1: paired}, parts, 408.0, slack=14.0) == {0: 1, 1: 1}


def test_steps_are_those_that_lose_least_per_unit_by_then() -> None:
    """A stream that five groups read saves less with each of their steps; what is saved too much goes back."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        parts = [PricedWeight(1.0, (6, 5), ((0, 0, 1), (1, group, 1))) for group in range(1, 6)]
        sizes = {0: 6, **dict.fromkeys(range(1, 6), 5)}
        curves = {g: Curve(np.arange(n), np.cumsum(generator.random(n)), np.arange(1, n)) for g, n in sizes.items()}
        gone = dict.fromkeys(curves, 0)
        while (now := cost(parts, gone)) > 75:
            steps = [(g, n) for g in gone for n in curves[g].steps[gone[g] : gone[g] + 2].tolist()]
            prices = [
                (curves[g].lost(n) - curves[g].lost(gone[g])) / (now - cost(parts, gone | {g: n})) for g, n in steps
            ]
            gone |= [steps[int(np.argmin(prices))]]
        found = allocate(curves, parts, 75.0)
        assert cost(parts, found) <= 75
        assert all(found[g] <= gone[g] for g in gone)
        assert sum(found[g] < gone[g] for g in gone) <= 2
