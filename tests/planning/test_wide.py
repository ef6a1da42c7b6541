"""What costs nothing goes first, whatever reads it: wide consumers, tied ones and several."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from support.planted.net import Net

import onnx_condense as oc
from onnx_condense.arrays import Floats
from onnx_condense.refitting.consumer import FEATURES, repeats

WIDTH, SIDE = 48, 7
"""Channels, half of which are copies, and the side of their images: 2,352 features behind a Flatten."""


def twice(rows: Floats) -> Floats:
    """Every second row is a copy of the one before, of another size."""
    return np.repeat(rows, 2, axis=0) * np.tile([1.0, 1.7], len(rows)).reshape(-1, *[1] * (rows.ndim - 1))


def images(net: Net, name: str) -> str:
    return net.node("Relu", net.conv(name, "x", twice(net.normal(WIDTH // 2, 3, 3, 3)).astype(np.float32)))


def read(net: Net, features: str, name: str = "head") -> str:
    return net.dense(name, features, net.normal(5, WIDTH * SIDE * SIDE))


def channels_first(net: Net) -> str:
    return read(net, net.node("Flatten", images(net, "first")))


def channels_last(net: Net) -> str:
    return read(net, net.node("Flatten", net.node("Transpose", images(net, "first"), perm=[0, 2, 3, 1])))


def several(net: Net) -> str:
    features = net.node("Flatten", images(net, "first"))
    pooled = net.node("Flatten", net.node("GlobalAveragePool", net.nodes[-2].output[0]))
    return net.node("Add", read(net, features), net.dense("other", pooled, net.normal(5, WIDTH)))


def tied(net: Net) -> str:
    """The same weights on the inputs and on their opposites."""
    kernels = net.constant(twice(net.normal(WIDTH // 2, 3, 3, 3)).astype(np.float32), "kernels")
    weight = net.constant(net.normal(WIDTH * SIDE * SIDE, 5), "shared")
    made = [net.node("Relu", net.node("Conv", data, kernels)) for data in ("x", net.node("Neg", "x"))]
    return net.node("Sub", *(net.node("MatMul", net.node("Flatten", each), weight) for each in made))


def dense(net: Net) -> str:
    rows = twice(net.normal(FEATURES // 2 + 48, 3)).astype(np.float32)
    pooled = net.node("Flatten", net.node("GlobalAveragePool", "x"))
    return net.dense("head", net.node("Relu", net.dense("first", pooled, rows)), net.normal(5, len(rows)))


def model_of(build: Callable[[Net], str]) -> onnx.ModelProto:
    net = Net(seed=5)
    net.input("batch", 3, SIDE + 2, SIDE + 2)
    return net.build(build(net))


@pytest.mark.parametrize("unit", ["params", "macs"])
@pytest.mark.parametrize("build", [channels_first, channels_last, several, tied, dense])
def test_copies_go_at_no_cost(build: Callable[[Net], str], unit: str) -> None:
    report = oc.condense(model_of(build), oc.Options(budget=(unit, 0.55), align=1)).report
    assert report.verification is not None
    assert report.verification.approximation_error < 1e-5
    assert all(group.width_after >= group.width_before // 2 for group in report.groups)


def test_a_search_takes_all_copies() -> None:
    report = oc.condense(model_of(channels_first), oc.Options(budget=("error", 1e-5), align=1)).report
    assert report.groups[0].width_after == WIDTH // 2


@pytest.mark.parametrize("build", [channels_first, channels_last])
def test_wide_consumers_are_refitted_by_channel(build: Callable[[Net], str]) -> None:
    """A quarter of the channels beyond the copies: what is left makes up for them as far as it can."""
    model = model_of(build)
    errors = {}
    for merge in ("ratio", "moments"):
        result = oc.condense(model, oc.Options(budget=("params", 0.375), align=1, merge=merge))
        assert result.report.verification is not None
        errors[merge] = result.report.verification.approximation_error
        assert bool(result.plan.refits) == (merge == "moments")
    assert errors["moments"] < errors["ratio"]


@pytest.mark.parametrize("last", [False, True])
def test_wide_consumers_become_pairs_of_factors(last: bool) -> None:
    """What their places vary is known by channel, in the order in which places lie."""
    net = Net(seed=5)
    net.input("batch", 3, SIDE + 2, SIDE + 2)
    made = images(net, "first")
    features = net.node("Flatten", net.node("Transpose", made, perm=[0, 2, 3, 1]) if last else made)
    low = net.normal(30, 3) @ net.normal(3, WIDTH * SIDE * SIDE) / WIDTH
    low += 1e-4 * net.normal(*low.shape)
    model = net.build(net.dense("end", net.node("Tanh", net.dense("head", features, low)), net.normal(4, 30)))
    report = oc.condense(model, oc.Options(budget=("params", 0.12), align=1)).report
    assert [pair.layer for pair in report.pairs] == ["head"]


def test_places_of_channels_lie_in_lines() -> None:
    assert repeats(np.repeat([3, 1, 4], 4)) == (1, 4)
    assert repeats(np.tile([3, 1, 4], 5)) == (5, 1)
    assert repeats(np.tile(np.repeat([3, 1], 2), 3)) == (3, 2)
    assert repeats(np.arange(6)) == (1, 1)
    assert repeats(np.array([3, 3, 3, 1, 1, 1, 1])) == (1, 1)
