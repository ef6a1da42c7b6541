"""The search for thresholds under a bound, on twins whose error is known."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnx_condense.planning.planned import Aside, Planned
from onnx_condense.planning.tolerance import STEPS, smallest_within
from onnx_condense.rewriting.kept import Disagreement


class Costs:
    """Group i, all the way towards its threshold, costs costs[i]; in between in proportion."""

    def __init__(self, *costs: float) -> None:
        self.costs = costs
        self.builds: list[Mapping[int, float]] = []

    def build(self, towards: float | Mapping[int, float], aside: Aside) -> Planned:
        every = range(len(self.costs))
        shares = dict.fromkeys(every, towards) if isinstance(towards, float) else dict(towards)
        self.builds.append(shares)
        groups = [SimpleNamespace(index=index) for index in every]
        plans = {index: "plan" for index, share in shares.items() if share > 0}
        twin: Any = SimpleNamespace(shares=shares, plans=plans, trace=SimpleNamespace(groups=groups))
        return Planned(twin, {}, aside.with_groups([len(self.builds)], Disagreement(np.array([0]), "tensor")))

    def unchanged(self, aside: Aside) -> Planned:
        twin: Any = SimpleNamespace(plans={})
        return Planned(twin, {}, aside)

    def error(self, twin: Any) -> float:
        shares: dict[int, float] = twin.shares
        return sum(self.costs[index] * share for index, share in shares.items())

    def within(self, tolerance: float) -> Any:
        return smallest_within(self, self.error, tolerance).twin


def test_a_bound_that_is_met_costs_nothing() -> None:
    costs = Costs(1.0, 2.0)
    assert costs.within(3.0).shares == {0: 1.0, 1: 1.0}
    assert len(costs.builds) == 1


def test_eight_bisections_find_one_share_for_all() -> None:
    assert STEPS == 8
    shares = Costs(1.0, 1.0, 1.0).within(1.0).shares
    assert len(set(shares.values())) == 1
    assert 1 / 3 - 2**-8 < shares[0] <= 1 / 3


def test_cheap_groups_get_their_own_threshold_back() -> None:
    shares = Costs(0.001, 10.0, 0.001).within(1.0).shares
    assert shares[0] == shares[2] == 1.0
    assert 0.1 - 2**-8 < shares[1] < 0.1


def test_the_cheapest_group_comes_first() -> None:
    """After the bisection there is room for one of the two cheap groups only."""
    costs = Costs(0.03, 0.02, 10.0)
    base = costs.within(1.0).shares
    assert base[1] == 1.0
    assert base[0] < 1.0
    assert base[2] < 1.0


@pytest.mark.parametrize("tolerance", [0.0, 0.01, 0.3, 1.7, 4.0, 100.0])
def test_the_bound_always_holds_and_the_search_is_short(tolerance: float) -> None:
    costs = Costs(0.4, 3.0, 0.05, 1.0)
    assert costs.error(costs.within(tolerance)) <= tolerance
    assert len(costs.builds) <= 2 + STEPS + 2 * len(costs.costs)


def test_nothing_is_merged_for_a_bound_of_zero() -> None:
    assert Costs(1.0, 2.0).within(0.0).plans == {}


@pytest.mark.parametrize("tolerance", [0.0, 1.0, 10.0])
def test_what_is_set_aside_once_stays_aside(tolerance: float) -> None:
    costs = Costs(0.4, 3.0)
    found = smallest_within(costs, costs.error, tolerance)
    assert found.aside.groups == set(range(1, len(costs.builds) + 1))
