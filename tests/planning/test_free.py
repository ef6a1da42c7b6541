"""Under a budget, what goes exactly goes first and loses nothing: constants, integer copies, copies that ties read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from support.builders import random
from support.planted.net import Net

import onnx_condense as oc


def constants() -> onnx.ModelProto:
    """Three channels of eight are constants: no variance is lost with them, and no refit makes up for any."""
    net = Net(seed=1)
    rows = net.normal(8, 5)
    rows[:3] = 0
    first = net.dense("first", net.input("batch", 5), rows, net.normal(8))
    x = net.node("Cos", net.dense("second", first, net.normal(6, 8), net.normal(6)))
    return net.build(net.dense("head", x, net.normal(3, 6), net.normal(3)))


def integers() -> onnx.ModelProto:
    """Rows that are stored as integers, two of them twice."""
    net = Net(seed=2)
    rows = net.rng.integers(-100, 100, (8, 5)).astype(np.int8)
    rows[1], rows[3] = rows[0], rows[2]
    grid = net.constant(np.array(0.01)), net.constant(np.array(0, dtype=np.int8))
    weight = net.node("DequantizeLinear", net.constant(rows.T), *grid)
    x = net.node("Relu", net.node("MatMul", net.input("batch", 5), weight, name="first"))
    x = net.node("Relu", net.dense("second", x, net.normal(6, 8), net.normal(6)))
    return net.build(net.dense("head", x, net.normal(3, 6), net.normal(3)))


def tied() -> onnx.ModelProto:
    """Two layers of one weight read channels in two scales: what is no copy cannot be folded into both."""
    net = Net(seed=3)
    rows, bias, scale = net.normal(8, 5), net.normal(8), np.linspace(0.5, 2, 8)
    for numbers in (rows, bias, scale):
        numbers[1], numbers[4] = numbers[0], numbers[5]
    x = net.node("Relu", net.dense("first", net.input("batch", 5), rows, bias))
    weight = net.constant(net.normal(8, 6))
    left = net.node("MatMul", x, weight, name="left")
    right = net.node("MatMul", net.node("Mul", x, net.constant(scale)), weight, name="right")
    gated = net.node("Mul", left, net.node("Sigmoid", right))
    return net.build(net.dense("head", gated, net.normal(3, 6), net.normal(3)))


def cancelling() -> onnx.ModelProto:
    """Two copies that are read with opposite weights: neither is read only after one has merged into the other."""
    net = Net(seed=1)
    rows, bias, weight = net.normal(10, 5), net.normal(10), net.normal(6, 10)
    rows[5], bias[5], weight[:, 5] = rows[2], bias[2], -weight[:, 2]
    x = net.node("Relu", net.dense("first", net.input("batch", 5), rows, bias))
    x = net.node("Tanh", net.dense("second", x, weight, net.normal(6)))
    return net.build(net.dense("head", x, net.normal(3, 6), net.normal(3)))


@pytest.mark.parametrize(("share", "width"), [(0.95, 9), (0.91, 8)])
def test_what_goes_exactly_after_something_else_goes_after_it(share: float, width: int) -> None:
    report = oc.condense(cancelling(), oc.Options(budget=("params", share), align=1)).report
    assert report.groups[0].width_after == width
    assert report.verification is not None
    assert report.verification.approximation_error < 1e-5


@pytest.mark.parametrize("samples", [0, 60])
@pytest.mark.parametrize("made", [constants, integers, tied])
def test_what_goes_exactly_goes_first_and_loses_nothing(made: Callable[[], onnx.ModelProto], samples: int) -> None:
    model = made()
    exact = oc.condense(model, oc.Options(lossless=True, widths_only=True, align=1)).report
    assert exact.output is not None
    share = exact.output.parameters / exact.input.parameters
    inputs = {"x": random(samples, 5)} if samples else None
    report = oc.condense(model, oc.Options(budget=("params", share + 1e-9), align=1, calibration=inputs)).report
    assert report.output is not None
    assert report.verification is not None
    assert report.output.parameters == exact.output.parameters < exact.input.parameters
    assert report.verification.approximation_error < 1e-5
