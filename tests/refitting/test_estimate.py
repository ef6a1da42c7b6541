"""How much moments are trusted: the fewer samples they are of, the stronger the ridge."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from support.planted.net import Net

from onnx_condense import Options
from onnx_condense.operators.answers import Role
from onnx_condense.prepare import Opened, open_model
from onnx_condense.refitting.consumer import Consumer, consumer_of
from onnx_condense.refitting.estimate import STRENGTH, STRONGEST, Estimate
from onnx_condense.refitting.moments import Sums
from onnx_condense.refitting.reading import Source

CHANNELS = 24


@pytest.fixture(scope="module")
def opened() -> Opened:
    net = Net(seed=1)
    hidden = net.node("Relu", net.conv("first", net.input("batch", 3, 4, 4), net.normal(CHANNELS, 3, 1, 1)))
    return open_model(net.build(net.conv("second", hidden, net.normal(5, CHANNELS, 1, 1))), Options(threshold=0.9))


def second(opened: Opened) -> Consumer:
    (slot,) = (slot for slot in opened.trace.slots if slot.role is Role.CONTRACTED)
    found = consumer_of(opened.trace, slot)
    assert found is not None
    return found


def strength(opened: Opened, samples: int, positions: int) -> float:
    """That of sums over so many samples, whose rows are as many as positions."""
    rng, consumer = np.random.default_rng(0), second(opened)

    def real(asked: Sequence[Source]) -> list[Sums | None]:
        sums = Sums(CHANNELS, 0)
        sums.add(rng.standard_normal((samples * positions, CHANNELS)), np.zeros((samples * positions, 0)))
        sums.samples = samples
        return [sums for _ in asked]

    estimate = Estimate(opened.trace, opened.feeds[0], 0, real)
    estimate.moments([consumer])
    return estimate.strength([consumer])


def test_rows_of_one_sample_tell_less_than_those_of_several(opened: Opened) -> None:
    found = [strength(opened, samples, 16) for samples in (1, 8, 64, 4096)]
    assert found == sorted(found, reverse=True)
    assert found[0] == STRONGEST
    assert found[-1] < 2 * STRENGTH
    assert strength(opened, 64, 1) == STRENGTH


def test_without_data_nothing_is_in_doubt(opened: Opened) -> None:
    estimate = Estimate(opened.trace, opened.feeds[0], 0)
    estimate.moments([second(opened)])
    assert estimate.strength([second(opened)]) == STRENGTH


@pytest.mark.parametrize("rows", [6, 2 * CHANNELS])
def test_a_prior_of_few_rows_says_nothing_of_directions_that_neither_fills(rows: int) -> None:
    """Behind the pooling of large images few are made up; a classifier would be cut down to what they fill."""
    net = Net(seed=1)
    hidden = net.node("Relu", net.conv("first", net.input("batch", 3, 256, 256), net.normal(CHANNELS, 3, 1, 1)))
    pooled = net.node("Flatten", net.node("GlobalAveragePool", hidden))
    opened = open_model(net.build(net.dense("second", pooled, net.normal(5, CHANNELS))), Options(threshold=0.9))
    sums = Sums(CHANNELS, 0)
    sums.add(np.random.default_rng(0).standard_normal((rows, CHANNELS)), np.zeros((rows, 0)))

    def real(asked: Sequence[Source]) -> list[Sums | None]:
        return [sums for _ in asked]

    prior = Estimate(opened.trace, opened.feeds[0], 0)
    (alone,), (known,) = (e.moments([second(opened)]) for e in (prior, Estimate(opened.trace, {}, 0, real, prior)))
    assert alone is not None
    assert known is not None
    filled, rest = (np.linalg.eigvalsh(one.xx)[0] / (np.trace(one.xx) / CHANNELS) for one in (alone, known))
    assert filled < 1e-6
    if rows < CHANNELS:
        assert rest > 0.3
    else:
        np.testing.assert_array_equal(known.xx, sums.moments().shrunk(alone, 1 / 3).xx)
