"""What exporters of mobile networks write: slopes that an Expand makes, channels of zeros before a residual sum."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.lossless import condensed
from support.planted.cases import (
    EXACT,
    FULL,
    copies,
    planted_columns,
    planted_rows,
)
from support.planted.net import Net

from onnx_condense import Options, condense


def batch_and(net: Net, *sizes: int) -> str:
    """A shape that begins with the batch of the input."""
    batch = net.node("Slice", net.node("Shape", "x"), net.ints(0), net.ints(1), net.ints(0))
    return net.node("Concat", batch, net.ints(*sizes), axis=0)


SHAPES = {
    "numbers": lambda net, data: net.ints(FULL, 6, 6),
    "its own": lambda net, data: net.node("Slice", net.node("Shape", data), net.ints(1), net.ints(4)),
    "whole": lambda net, data: net.node("Shape", data),
    "of the batch": lambda net, data: batch_and(net, FULL, 6, 6),
}


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_slopes_that_are_expanded(shape: str, per_channel: bool) -> None:
    net = Net()
    data = net.conv("producer", net.input("batch", 3, 8, 8), *planted_rows(net, "equal", 3, 3, 3))
    slopes = copies("equal", net.normal(FULL)).reshape(-1, 1, 1) if per_channel else np.full((1, 1, 1), 0.2)
    hidden = net.node("PRelu", data, net.node("Expand", net.constant(slopes), SHAPES[shape](net, data)))
    model = net.build(net.conv("consumer", hidden, planted_columns(net, "equal", 4, 1, 1)))
    small = condensed(model, {"producer": EXACT})
    assert "Expand" not in {node.op_type for node in small.graph.node}


def test_slopes_that_others_read_stay_expanded() -> None:
    net = Net()
    data = net.conv("producer", net.input("batch", 3, 8, 8), *planted_rows(net, "equal", 3, 3, 3))
    slopes = net.node("Expand", net.constant(net.normal(1, 1, 1)), net.ints(4, 6, 6))
    hidden = net.conv("consumer", net.node("Relu", data), planted_columns(net, "equal", 4, 1, 1))
    small = condensed(net.build(net.node("Add", net.node("PRelu", hidden, slopes), slopes)), {"producer": EXACT})
    assert [node.op_type for node in small.graph.node].count("Expand") == 1


def widened(block: str) -> onnx.ModelProto:
    """Five channels, and zeros beside them, are added to eight others, of which the last three hold a copy."""
    net = Net()
    data = net.input("batch", 3, 8, 8)
    rows, bias = planted_rows(net, "equal", 3, 1, 1)
    narrow = net.node("Relu", net.conv("narrow", data, rows[:5], bias[:5]))
    zeros = {
        "filled": lambda: net.node("ConstantOfShape", batch_and(net, 3, 8, 8)),
        "expanded": lambda: net.node("Expand", net.constant(np.zeros((1, 1, 1, 1))), batch_and(net, 3, 8, 8)),
        "by channel": lambda: net.node("Expand", net.constant(np.zeros((3, 1, 1))), batch_and(net, 3, 8, 8)),
        "like": lambda: net.node("ConstantOfShape", net.node("Shape", net.conv("other", data, net.normal(3, 3, 1, 1)))),
    }
    if block == "padded":
        wide = net.node("Pad", narrow, net.ints(0, 0, 0, 0, 0, 3, 0, 0))
    else:
        wide = net.node("Concat", narrow, zeros[block](), axis=1)
    total = net.node("Add", net.conv("wide", data, copies("equal", net.normal(FULL, 3, 1, 1))), wide)
    return net.build(net.conv("consumer", net.node("Relu", total), planted_columns(net, "equal", 4, 1, 1)))


@pytest.mark.parametrize("block", ["filled", "expanded", "by channel", "padded"])
def test_channels_of_zeros_before_a_sum(block: str) -> None:
    """Pairs among the five merge, and the copy that meets zeros alone."""
    condensed(widened(block), {"narrow": 3, "wide": EXACT})


@pytest.mark.parametrize("block", ["filled", "by channel", "like"])
def test_channels_of_zeros_when_others_go(block: str) -> None:
    model = widened(block)
    options = Options(merge="delete", budget=("params", 0.6), align=1)
    result = condense(model, options)
    assert result.plan.groups
    onnx.checker.check_model(result.model, full_check=True)


def test_zeros_that_follow_the_channels_are_right() -> None:
    """As many zeros as channels: those go together, or none."""
    net = Net()
    data = net.input("batch", 3, 8, 8)
    narrow = net.node("Relu", net.conv("narrow", data, *planted_rows(net, "equal", 3, 1, 1)))
    zeros = net.node("ConstantOfShape", net.node("Shape", narrow))
    both = net.node("Add", net.node("Concat", narrow, zeros, axis=1), net.conv("wide", data, net.normal(16, 3, 1, 1)))
    model = net.build(net.conv("consumer", net.node("Relu", both), net.normal(4, 16, 1, 1)))
    condensed(model)
