"""Races on a clock that the test turns: order, warm-up, when they end, and whether the intervals are honest."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from onnx_condense.timing import race as latency
from onnx_condense.timing.race import BLOCKS, ENOUGH, FEWEST, NARROW, MedianInterval, Race, Runner, interval, race


@dataclass
class Track:
    """Models whose latencies are known, on a clock of their own.

    noise: the factor of a run at a time. lasting: the factor of a session, drawn when it is loaded. cold: the factor
    of a session's first two runs.
    """

    latencies: tuple[float, ...]
    load: float = 0.0
    noise: Callable[[float], float] = lambda now: 1.0
    lasting: Callable[[], float] = lambda: 1.0
    cold: float = 1.0
    now: float = 0.0
    runs: list[tuple[int, int]] = field(default_factory=list)
    loaded: list[int] = field(default_factory=list)

    def loader(self, model: int) -> Callable[[], Runner]:
        def make() -> Runner:
            self.now += self.load
            self.loaded.append(model)
            factor, count = self.lasting(), 0

            def run(number: int) -> None:
                nonlocal count
                count += 1
                self.runs.append((number, model))
                first = self.cold if count <= 2 else 1.0
                self.now += self.latencies[model] * factor * first * self.noise(self.now)

            return run

        return make

    def race(self, limit: float = 10.0, seed: int = 0, told: Any = None) -> Race:
        loaders = [self.loader(model) for model in range(len(self.latencies))]
        return race(loaders, limit, seed=seed, clock=lambda: self.now, told=told)


def noisy(seed: int, size: float, lasting: float = 0.0) -> dict[str, Callable[..., float]]:
    """Noise as on a shared machine: skewed, and bursts that slow everything down for a quarter of a second."""
    generator = np.random.default_rng(seed)
    bursts = 1 + 2 * (generator.random(4000) < 0.2)
    return {
        "noise": lambda now: float((1 + size * generator.exponential()) * bursts[int(4 * now) % 4000]),
        "lasting": lambda: float(np.exp(lasting * generator.standard_normal())),
    }


@pytest.mark.parametrize(("limit", "load"), [(1.0, 0.0), (20.0, 3.0), (0.01, 0.5)])
def test_a_race_says_how_far_it_is(limit: float, load: float) -> None:
    said: list[tuple[int, int]] = []
    found = Track((0.01, 0.01), **noisy(0, 0.1), load=load).race(limit, told=lambda *block: said.append(block))
    blocks = found.medians.shape[1]
    assert [number for number, _ in said] == list(range(1, blocks + 1))
    assert all(number <= most <= BLOCKS for number, most in said)
    assert [most for _, most in said] == sorted((most for _, most in said), reverse=True)


def test_every_model_runs_in_every_round_in_shuffled_order() -> None:
    track = Track((0.02, 0.03, 0.04), load=100.0)
    track.race()
    rounds: dict[int, list[int]] = {}
    for number, model in track.runs:
        rounds.setdefault(number, []).append(model)
    orders = [tuple(order) for number, order in rounds.items() if number]
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert len(set(orders)) == 6


def test_the_order_is_the_seeds() -> None:
    def order(seed: int) -> list[tuple[int, int]]:
        track = Track((0.02, 0.03))
        track.race(seed=seed)
        return track.runs

    assert order(1) == order(1) != order(2)


def test_short_runs_come_several_at_a_time_and_the_first_does_not_count() -> None:
    """Else every run would find the caches full of the other model."""
    track = Track((0.0012, 0.002), load=100.0)
    found = track.race(limit=1.0)
    counted = [sum(1 for _, model in track.runs if model == m) for m in (0, 1)]
    assert [len(seconds) for seconds in found.seconds] < counted
    first = [model for number, model in track.runs if number == 7]
    assert sorted(first) == [0] * 6 + [1] * 4, "5 and 3 runs within 5 ms, and one more each"


@pytest.mark.parametrize("load", [0.0, 100.0])
def test_cold_runs_do_not_count(load: float) -> None:
    found = Track((0.02, 0.02), cold=5.0, load=load).race()
    assert max(seconds.max() for seconds in found.seconds) == pytest.approx(0.02)


def test_a_steady_race_ends_early() -> None:
    track = Track((0.01, 0.012))
    found = track.race(limit=1000.0)
    assert found.ratios.shape == (2, ENOUGH)
    assert track.now < 600
    assert found.ratio(1) == MedianInterval(pytest.approx(1.2), pytest.approx(1.2), pytest.approx(1.2))


def test_a_restless_race_ends_when_time_is_up() -> None:
    track = Track((0.01, 0.01), **noisy(0, 0.1, lasting=0.1))
    found = track.race(limit=20.0)
    assert 20.0 <= track.now <= 20.5
    assert found.widest > NARROW
    assert ENOUGH < found.ratios.shape[1] <= BLOCKS + 1


def test_slow_models_get_a_few_rounds_in_any_case() -> None:
    track = Track((5.0, 6.0))
    found = track.race(limit=1.0)
    assert found.ratios.shape == (2, FEWEST)
    assert found.ratio(1).verdict == "slower"


def test_sessions_are_fresh_in_every_block_unless_loading_is_dear() -> None:
    cheap, dear = Track((0.01, 0.01), load=0.05), Track((0.01, 0.01), load=2.0)
    blocks = cheap.race().ratios.shape[1]
    assert len(cheap.loaded) == 2 * blocks
    dear.race()
    assert len(dear.loaded) == 2
    assert dear.now < 15


def test_loading_takes_at_most_about_half_of_the_time() -> None:
    track = Track((0.01, 0.01), load=0.25, **noisy(0, 0.1, lasting=0.2))
    track.race()
    assert len(track.loaded) * 0.25 <= 0.65 * track.now


def test_one_model_has_a_latency_and_no_opponent() -> None:
    found = Track((0.01,)).race()
    assert found.latency(0).value == pytest.approx(0.01)
    assert found.widest == found.latency(0).width


def test_the_garbage_collector_is_off_only_while_it_counts() -> None:
    states = []
    track = Track((0.05,))

    def watched() -> Runner:
        runner = track.loader(0)()

        def run(number: int) -> None:
            states.append(gc.isenabled())
            runner(number)

        return run

    race([watched], 5.0, clock=lambda: track.now)
    assert gc.isenabled()
    assert set(states) == {True, False}


# ---------------------------------------------------------------------- honest intervals


def trials(ratio: float, count: int = 20, **settings: float) -> list[str]:
    """Verdicts of simulated races between a model and one that takes `ratio` times as long."""
    return [
        Track((0.01, 0.01 * ratio), **noisy(seed, **settings)).race(seed=seed).ratio(1).verdict for seed in range(count)
    ]


@pytest.mark.parametrize("settings", [{"size": 0.1}, {"size": 0.5}, {"size": 0.1, "lasting": 0.04}], ids=str)
def test_a_model_and_its_copy_are_no_different(settings: dict[str, float]) -> None:
    assert trials(1.0, **settings).count("no measurable difference") >= 19


@pytest.mark.parametrize(("ratio", "verdict"), [(1.1, "slower"), (1 / 1.1, "faster")])
@pytest.mark.parametrize("settings", [{"size": 0.1}, {"size": 0.2}, {"size": 0.1, "lasting": 0.04}], ids=str)
def test_ten_percent_are_found(ratio: float, verdict: str, settings: dict[str, float]) -> None:
    assert trials(ratio, **settings).count(verdict) >= 19


def test_sessions_that_differ_for_good_are_no_result_where_they_are_never_loaded_again() -> None:
    """What fresh sessions are for: an unlucky pair of sessions looks like two different models."""

    def verdict(load: float, seed: int) -> str:
        track = Track((0.01, 0.01), load=load, **noisy(seed, 0.05, lasting=0.1))
        return track.race(seed=seed).ratio(1).verdict

    fresh = [verdict(0.0, seed) for seed in range(20)]
    stale = [verdict(2.0, seed) for seed in range(20)]
    assert fresh.count("no measurable difference") >= 19 > stale.count("no measurable difference")


@pytest.mark.parametrize("blocks", [6, 12, 24])
def test_intervals_cover_the_median_as_often_as_they_say(blocks: int) -> None:
    generator = np.random.default_rng(0)
    found = [interval(np.exp(0.1 * generator.standard_t(3, blocks))) for _ in range(200)]
    covered = np.mean([f.low <= 1 <= f.high for f in found])
    assert 0.91 <= covered <= 0.99


def test_one_value_has_no_bounds() -> None:
    found = interval(np.array([1.5]))
    assert (found.value, found.low, found.high) == (1.5, 0.0, math.inf)
    assert found.verdict == "no measurable difference"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.5, 0.979, "faster"),
        (0.5, 0.98, "no measurable difference"),
        (0.97, 1.03, "no measurable difference"),
        (1.02, 1.5, "no measurable difference"),
        (1.021, 1.5, "slower"),
    ],
)
def test_a_verdict_needs_the_whole_interval_outside(low: float, high: float, verdict: str) -> None:
    assert latency.MARGIN == 0.02
    assert MedianInterval((low + high) / 2, low, high).verdict == verdict
