"""Networks that calibration and budgets are tried on, and inputs for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

import onnx_condense as oc
from support.planted.net import Net

Data = np.ndarray[Any, Any]


def images(count: int, seed: int) -> Data:
    """Inputs of rank two in space and channels: far from what is assumed without data."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(77).standard_normal((6, 3 * 8 * 8))
    return (rng.standard_normal((count, 6)) @ basis).reshape(count, 3, 8, 8).astype(np.float32)


def residual(seed: int = 5) -> onnx.ModelProto:
    """A stem, two residual blocks with normalization, a head; the inner channels are noisy copies."""
    net = Net(seed=seed)
    stream = net.node("Relu", net.conv("stem", net.input("batch", 3, 8, 8), net.normal(6, 3, 3, 3), pads=[1] * 4))
    for name in ("a", "b"):
        mains = net.normal(8, 6, 3, 3)
        rows = np.concatenate([mains, mains + 0.4 * net.normal(8, 6, 3, 3)])
        inner = net.node("Relu", net.conv(f"{name}1", stream, rows, 0.5 * net.normal(16), pads=[1] * 4))
        branch = net.conv(f"{name}2", inner, 0.05 * net.normal(6, 16, 3, 3), pads=[1] * 4)
        branch = net.batchnorm(branch, np.ones(6), 0.1 * net.normal(6), net.normal(6), np.full(6, 2.0))
        stream = net.node("Relu", net.node("Add", branch, stream))
    head = net.node("Flatten", net.node("GlobalAveragePool", stream))
    return net.build(net.dense("head", head, net.normal(4, 6), net.normal(4)))


def error(model: onnx.ModelProto, result: oc.Result) -> float:
    return oc.verify(model, result.model, {"x": images(40, 99)}).outputs[0].relative_l2


def half_redundant(redundant: int = 12, seed: int = 4) -> onnx.ModelProto:
    """Two hidden convolutions; the first has `redundant` near copies among its 24 channels, the second none."""
    net = Net(seed=seed)
    mains = net.normal(24 - redundant, 3, 3, 3)
    rows = np.concatenate([mains, mains[:redundant] + 0.02 * net.normal(redundant, 3, 3, 3)])
    hidden = net.node("Relu", net.conv("first", net.input("batch", 3, 10, 10), rows, pads=[1] * 4))
    hidden = net.node("Relu", net.conv("second", hidden, net.normal(24, 24, 3, 3), net.normal(24)))
    hidden = net.node("Flatten", net.node("GlobalAveragePool", hidden))
    return net.build(net.dense("head", hidden, net.normal(5, 24), net.normal(5)))
