"""Rows of the operator table: the reasons that they give, and what they must not take for a constant."""

from __future__ import annotations

from support.planted.net import Net, traced
from support.traces import grouped, reasons

from onnx_condense import analyze
from onnx_condense.operators.reasons import Because, Reason


def chain() -> tuple[Net, str]:
    """A Conv that makes [batch, 6, height, 6]."""
    net = Net()
    return net, net.conv("first", net.input("batch", 3, "height", 8), net.normal(6, 3, 3, 3))


def test_a_normalization_spelled_out_says_so() -> None:
    net, hidden = chain()
    square = net.node("ReduceMean", net.node("Mul", hidden, hidden), axes=[1])
    hidden = net.node("Div", hidden, net.node("Sqrt", square))
    trace = traced(net.build(net.conv("second", hidden, net.normal(4, 6, 1, 1))))
    assert grouped(trace) == []
    assert reasons(trace)["first"] == Because(Reason.READ, "a ReduceMean", Because(Reason.NORMALIZES_TOGETHER))


def test_a_mean_of_channels_says_so() -> None:
    net, hidden = chain()
    trace = traced(net.build(net.node("ReduceMean", hidden, axes=[1])))
    assert reasons(trace)["first"] == Because(Reason.READ, "a ReduceMean", Because(Reason.REDUCES))


def test_rows_of_the_input_beside_the_channels_pin_them() -> None:
    net, hidden = chain()
    cache = net.input("batch", 6, 2, 6, name="cache")
    hidden = net.node("Concat", cache, hidden, axis=2)
    trace = traced(net.build(net.conv("second", hidden, net.normal(4, 6, 3, 1))))
    assert reasons(trace)["first"] == Because(Reason.READ_BESIDE, "a Conv")


def test_a_number_that_follows_the_size_of_the_input_is_no_constant() -> None:
    net, hidden = chain()
    height = net.node("Cast", net.node("Slice", net.node("Shape", "x"), net.ints(2), net.ints(3)), to=1)
    shape = net.node(
        "Concat", net.node("Slice", net.node("Shape", hidden), net.ints(0), net.ints(2)), net.ints(1, 6), axis=0
    )
    hidden = net.node("Concat", net.node("Expand", height, shape), hidden, axis=2)
    model = net.build(net.conv("second", hidden, net.normal(4, 6, 3, 1)))
    beside = str(Because(Reason.READ_BESIDE, "a Concat"))
    assert [r.layers for r in analyze(model).refusals if r.reason == beside] == [("first",)]
