"""Channels that are constant by interval facts: found, folded into the consumer's bias, never across a
padded border.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.lossless import LOSSLESS, condensed
from support.models import node, weights
from support.planted.net import Net, widths

from onnx_condense import condense


def bias_of(model: onnx.ModelProto, name: str) -> np.ndarray:
    return weights(model)[node(model, name).input[2]]


def dead_relu(middle: str, *, positive_bias: bool = False) -> onnx.ModelProto:
    """Gemm, a function, Gemm with 2 of 6 rows of non-positive weights and bias, Relu, Gemm."""
    net = Net(seed=4)
    hidden = net.node(middle, net.dense("first", net.input("batch", 5), net.normal(7, 5), net.normal(7)))
    rows, bias = net.normal(6, 7), net.normal(6)
    rows[[1, 4]], bias[[1, 4]] = -np.abs(rows[[1, 4]]), (0.5 if positive_bias else -0.1)
    hidden = net.node("Relu", net.dense("second", hidden, rows, bias))
    return net.build(net.dense("third", hidden, net.normal(3, 6), net.normal(3)))


@pytest.mark.parametrize("middle", ["Relu", "Sigmoid", "Abs", "Softplus", "Exp", "HardSigmoid"])
def test_dead_relu_on_non_negative_inputs(middle: str) -> None:
    assert widths(condensed(dead_relu(middle)))["second"] == 4


@pytest.mark.parametrize("middle", ["Identity", "Tanh", "LeakyRelu", "Elu"])
def test_no_dead_relu_on_signed_inputs(middle: str) -> None:
    assert widths(condensed(dead_relu(middle)))["second"] == 6


def test_a_positive_bias_keeps_a_channel() -> None:
    assert widths(condensed(dead_relu("Relu", positive_bias=True)))["second"] == 6


def test_saturated_channels_of_a_clip() -> None:
    """Rows of 0.1 on inputs within [-1, 1] with a bias of 9: Clip(0, 6) always gives 6."""
    net = Net(seed=1)
    hidden = net.node("Tanh", net.dense("first", net.input("batch", 5), net.normal(4, 5)))
    rows, bias = net.normal(6, 4), net.normal(6)
    rows[[0, 5]], bias[[0, 5]] = 0.1 * np.sign(rows[[0, 5]]), 9
    hidden = net.node("Clip", net.dense("second", hidden, rows, bias), net.constant(0.0), net.constant(6.0))
    columns, last = net.normal(3, 6), net.normal(3)
    small = condensed(net.build(net.dense("third", hidden, columns, last)))
    assert widths(small)["second"] == 4
    np.testing.assert_allclose(bias_of(small, "third"), last + 6 * columns[:, [0, 5]].sum(1), rtol=1e-5)


def zero_rows(pads: int, bias: float, function: str = "Relu", bias_at_consumer: bool = True) -> onnx.ModelProto:
    """Conv with 2 of 6 zero kernels of a common bias, a function, a 3x3 Conv."""
    net = Net(seed=2)
    kernels, offsets = net.normal(6, 3, 3, 3), net.normal(6)
    kernels[[2, 3]], offsets[[2, 3]] = 0, bias
    hidden = net.node(function, net.conv("first", net.input("batch", 3, 8, 8), kernels, offsets))
    last = net.normal(4) if bias_at_consumer else None
    return net.build(net.conv("second", hidden, net.normal(4, 6, 3, 3), last, pads=[pads] * 4))


@pytest.mark.parametrize("pads", [0, 1])
def test_zero_channels_vanish(pads: int) -> None:
    assert widths(condensed(zero_rows(pads, 0.0)))["first"] == 4
    assert widths(condensed(zero_rows(pads, -1.0)))["first"] == 4


def test_constants_go_into_the_bias_where_nothing_is_padded() -> None:
    model = zero_rows(0, 1.5)
    small = condensed(model)
    assert widths(small)["first"] == 4
    assert not np.allclose(bias_of(small, "second"), bias_of(model, "second"))


def test_constants_never_cross_a_padded_border() -> None:
    """Two equal constants may still merge with one another: the border sees the same for both."""
    assert widths(condensed(zero_rows(1, 1.5)))["first"] == 5


@pytest.mark.parametrize("pads", [0, 1])
def test_a_function_that_does_not_keep_zero(pads: int) -> None:
    assert widths(condensed(zero_rows(pads, 0.0, "Sigmoid")))["first"] == (5 if pads else 4)


def test_a_consumer_without_bias_gets_one() -> None:
    small = condensed(zero_rows(0, 1.5, bias_at_consumer=False))
    assert widths(small)["first"] == 4
    assert bias_of(small, "second").shape == (4,)


def test_auto_pad_counts_as_a_border() -> None:
    model = zero_rows(0, 1.5)
    conv = next(n for n in model.graph.node if n.name == "second")
    del conv.attribute[:]
    conv.attribute.append(onnx.helper.make_attribute("auto_pad", "SAME_UPPER"))
    for dimension in model.graph.output[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = 6
    assert widths(condensed(model))["first"] == 5


def test_all_channels_constant_leaves_one() -> None:
    net = Net()
    data = net.input("batch", 5)
    hidden = net.node("Relu", net.dense("first", data, np.zeros((6, 5)), net.normal(6)))
    beside = net.dense("beside", data, net.normal(3, 5), net.normal(3))
    small = condensed(net.build(net.node("Add", net.dense("second", hidden, net.normal(3, 6), net.normal(3)), beside)))
    assert widths(small)["first"] == 1


def test_zeros_of_a_padded_convolution_are_in_the_bounds() -> None:
    """Inputs of at least 2 with a bias of -1 never go below zero inside, but the border's zeros give -1."""
    net = Net(seed=3)
    hidden = net.node("Sigmoid", net.conv("first", net.input("batch", 2, 6, 6), net.normal(4, 2, 1, 1)))
    hidden = net.node("Add", hidden, net.constant(2.0))
    kernels = -net.normal(5, 4, 3, 3)
    kernels[[0, 1]], bias = -np.abs(kernels[[0, 1]]), net.normal(5)
    bias[0], bias[1] = 3.0, -1.0  # channel 0 is dead inside and 3 at the border, channel 1 dead everywhere
    kernels[0] -= 1
    hidden = net.node("Relu", net.conv("second", hidden, kernels, bias, pads=[3, 3, 3, 3]))
    small = condensed(net.build(net.conv("third", hidden, net.normal(3, 5, 1, 1), net.normal(3))))
    assert widths(small)["second"] == 4


@pytest.mark.parametrize("function", ["Log", "Reciprocal"])
def test_constants_that_are_not_finite_stay(function: str) -> None:
    """The logarithm of a dead channel is -inf: no bias can hold it, and that is no reason to fail."""
    net = Net()
    rows, bias = 0.01 * net.normal(6, 5), np.full(6, 2.0)
    rows[2] = bias[2] = 0
    hidden = net.node(function, net.dense("first", net.input("batch", 5), rows, bias))
    model = net.build(net.dense("second", hidden, net.normal(3, 6), net.normal(3)))
    assert widths(condense(model, LOSSLESS).model)["first"] == 6


@pytest.mark.parametrize(("pads", "width"), [(0, 4), (1, 6)])
def test_constants_behind_a_padded_depthwise_convolution_vary(pads: int, width: int) -> None:
    """What is constant before its kernels is smaller at the border behind them."""
    net = Net(seed=6)
    rows, bias = net.normal(6, 3, 1, 1), net.normal(6)
    rows[[2, 3]], bias[[2, 3]] = 0, 1.5
    hidden = net.node("Relu", net.conv("first", net.input("batch", 3, 6, 6), rows, bias))
    taps, offsets = np.abs(net.normal(6, 1, 3, 3)), np.ones(6)
    hidden = net.node("Relu", net.conv("depthwise", hidden, taps, offsets, group=6, pads=[pads] * 4))
    model = net.build(net.conv("second", hidden, net.normal(4, 6, 1, 1), net.normal(4)))
    assert widths(condensed(model))["first"] == width
