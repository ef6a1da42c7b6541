"""Which channels go first: those that cost least for what they save, never more than are asked for."""

from __future__ import annotations

import numpy as np

from onnx_condense.planning.allocation import Curve, PricedWeight, allocate, cost


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
