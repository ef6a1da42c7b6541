"""Ranges of inputs: what a scale at the input says, and what a caller says of them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.planted.net import Net

from onnx_condense import Options, UsageError
from onnx_condense.operators.ranges import range_stated
from onnx_condense.prepare import open_model


def scaled(*steps: tuple[str, float]) -> onnx.ModelProto:
    """A dense layer behind operations with numbers."""
    net = Net()
    data = net.input("batch", 8)
    for op, number in steps:
        data = net.node(op, data, net.constant(np.float32(number)))
    hidden = net.node("Relu", net.dense("first", data, net.normal(6, 8), net.normal(6)))
    return net.build(net.dense("second", hidden, net.normal(3, 6)))


@pytest.mark.parametrize(
    ("steps", "span"),
    [
        ([("Div", 255.0)], (0.0, 255.0)),
        ([("Mul", 1 / 255)], (0.0, 255.0)),
        ([("Sub", 127.5), ("Div", 127.5)], (0.0, 255.0)),
        ([("Add", -120.0), ("Mul", 1 / 50)], (20.0, 220.0)),
        ([("Div", 2.0)], None),
        ([("Mul", 3.0)], None),
        ([("Sub", 0.5), ("Div", 0.2)], None),
        ([("Pow", 255.0)], None),
        ([], None),
    ],
)
def test_a_scale_at_the_input_states_a_range(steps: list[tuple[str, float]], span: tuple[float, float] | None) -> None:
    assert range_stated(scaled(*steps)) == (None if span is None else pytest.approx(span, rel=1e-5))


def test_generated_inputs_lie_in_the_range() -> None:
    for model, options in ((scaled(("Div", 255.0)), Options()), (scaled(), Options(input_range=(0, 255)))):
        opened = open_model(model, options)
        data = np.concatenate([feed["x"] for feed in opened.feeds])
        assert opened.span == (0, 255)
        assert 0 <= data.min() < 20 < 230 < data.max() <= 255
    data = open_model(scaled(("Div", 255.0)), Options(input_range=(-1, 1))).feeds[0]["x"]
    assert -1 <= data.min() < 0 < data.max() <= 1


@pytest.mark.parametrize("given", [(1, 0), (0, 0), (0, float("nan")), (0, 1, 2), 3, ("a", "b")])
def test_a_range_is_two_numbers(given: object) -> None:
    with pytest.raises(UsageError, match=r"input.range"):
        Options(**{"input_range": given})


def test_a_constant_whose_size_overflows_states_nothing() -> None:
    model = scaled(("Mul", 1 / 255))
    constant = next(t for t in model.graph.initializer if t.name in model.graph.node[0].input)
    constant.dims[:] = [2**62, 2, 2]
    assert range_stated(model) is None
