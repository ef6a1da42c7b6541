"""Channels that lie on other axes than a convolution reads its channels from."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from support.lossless import LOSSLESS
from support.planted.cases import (
    EXACT,
    FULL,
    planted_columns,
    planted_rows,
)
from support.planted.net import (
    Net,
    assert_close,
    run,
    signed_feed,
    traced,
    widths,
)

from onnx_condense import analyze, condense

Middle = Callable[[Net, str], str]

MIDDLES: dict[str, Middle] = {
    "window": lambda net, data: net.conv("middle", data, net.normal(6, FULL, 3, 3), net.normal(6), pads=[1] * 4),
    "places": lambda net, data: net.conv("middle", data, net.normal(6, FULL, 1, 1), net.normal(6)),
    "blocks": lambda net, data: net.conv("middle", data, net.normal(6, FULL // 2, 1, 1), group=2),
    "line": lambda net, data: net.conv("middle", data, net.normal(6, FULL, 1, 3), net.normal(6), pads=[0, 1, 0, 1]),
    "strided": lambda net, data: net.conv("middle", data, net.normal(6, FULL, 1, 1), strides=[2, 2]),
    "padded": lambda net, data: net.conv("middle", data, net.normal(6, FULL, 1, 1), pads=[1, 1, 1, 1]),
    "scattered": lambda net, data: net.node("ConvTranspose", data, net.constant(net.normal(FULL, 6, 1, 1))),
    "spread": lambda net, data: net.node(
        "ConvTranspose", data, net.constant(net.normal(FULL, 6, 2, 2)), strides=[2, 2]
    ),
}

BATCH, CHANNELS, ROWS, COLUMNS = range(4)


def moved(middle: Middle, order: tuple[int, ...]) -> onnx.ModelProto:
    """A Conv whose channels, some of them copies, a Transpose brings somewhere before something in the middle."""
    net = Net()
    data = net.input(FULL, 3, FULL, FULL)
    hidden = net.node("Relu", net.conv("producer", data, *planted_rows(net, "equal", 3, 1, 1)))
    hidden = net.node("Relu", middle(net, net.node("Transpose", hidden, perm=list(order))))
    flat = net.node("Reshape", hidden, net.ints(1, -1))
    size = run(net.build(flat), signed_feed(net.build(flat)))[0].size
    return net.build(net.matmul("consumer", flat, net.normal(3, size)))


def order_to(axis: int) -> tuple[int, ...]:
    """The order that exchanges the axis of channels with another one."""
    order = list(range(4))
    order[CHANNELS], order[axis] = order[axis], order[CHANNELS]
    return tuple(order)


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        *((name, BATCH) for name in ("window", "places", "blocks", "line", "strided", "padded", "scattered", "spread")),
        *((name, axis) for name in ("places", "blocks", "scattered") for axis in (ROWS, COLUMNS)),
        ("line", ROWS),
    ],
)
def test_channels_that_a_convolution_maps_one_by_one_are_condensed(name: str, axis: int) -> None:
    """Along the batch, and along axes on which its kernel is a single place."""
    model = moved(MIDDLES[name], order_to(axis))
    assert_close(model, small := condense(model, LOSSLESS).model, 2e-5)
    assert widths(small)["producer"] == EXACT


@pytest.mark.parametrize(
    ("name", "axis"),
    [(name, axis) for name in ("window", "strided", "padded", "spread") for axis in (ROWS, COLUMNS)]
    + [("line", COLUMNS)],
)
def test_channels_that_a_window_mixes_stay_with_that_reason(name: str, axis: int) -> None:
    model = moved(MIDDLES[name], order_to(axis))
    assert_close(model, small := condense(model, LOSSLESS).model, 2e-5)
    assert widths(small)["producer"] == FULL
    operator = "ConvTranspose" if name == "spread" else "Conv"
    refused = {layer: r.reason for r in analyze(model, LOSSLESS).refusals for layer in r.layers}
    assert refused["producer"] == f"varies in space at a {operator}"


@pytest.mark.parametrize("order", [(0, 1, 3, 2), (0, 2, 3, 1)])
def test_exchanged_axes_of_an_image_are_no_hindrance(order: tuple[int, ...]) -> None:
    net = Net()
    hidden = net.conv("producer", net.input("batch", 3, FULL, FULL), *planted_rows(net, "scaled", 3, 3, 3))
    hidden = net.node("Transpose", net.node("Relu", hidden), perm=list(order))
    if order[1] != CHANNELS:
        hidden = net.node("Transpose", hidden, perm=[0, 3, 2, 1])
    model = net.build(net.conv("consumer", hidden, planted_columns(net, "scaled", 4, 3, 3)))
    assert_close(model, small := condense(model, LOSSLESS).model, 2e-5)
    assert widths(small)["producer"] == EXACT


def test_channels_that_become_an_image() -> None:
    """As a spectrogram that is computed in the graph: what makes it stays, what reads it is condensed."""
    net = Net()
    made = net.node("Relu", net.matmul("made", net.input("batch", 5), net.normal(16, 5)))
    image = net.node("Reshape", made, net.ints(-1, 1, 4, 4))
    hidden = net.node("Relu", net.conv("producer", image, *planted_rows(net, "scaled", 1, 3, 3), pads=[1] * 4))
    model = net.build(net.conv("consumer", hidden, planted_columns(net, "scaled", 4, 1, 1)))
    assert_close(model, small := condense(model, LOSSLESS).model, 2e-5)
    assert widths(small) | {"consumer": 4} == {"made": 16, "producer": EXACT, "consumer": 4}


def yolo_head(net: Net, scales: list[str], bins: int) -> str:
    """The head of YOLOv8: boxes as the means of distributions (DFL), classes beside them."""
    levels, places = [], 0
    for number, data in enumerate(scales):
        parts = []
        for kind, outputs in (("box", 4 * bins), ("class", 3)):
            hidden = net.conv(f"{kind}{number}", data, *planted_rows(net, "equal", 6, 3, 3), pads=[1] * 4)
            hidden = net.node("Mul", hidden, net.node("Sigmoid", hidden))
            columns = planted_columns(net, "equal", outputs, 1, 1)
            parts.append(net.conv(f"{kind}{number}_out", hidden, columns, net.normal(outputs)))
        side = 8 >> number
        places += side * side
        levels.append(net.node("Reshape", net.node("Concat", *parts, axis=1), net.ints(0, 4 * bins + 3, side * side)))
    boxes, classes = net.multiple(
        "Split", net.node("Concat", *levels, axis=2), net.ints(4 * bins, 3), outputs=2, axis=1
    )
    spread = net.node("Transpose", net.node("Reshape", boxes, net.ints(0, 4, bins, places)), perm=[0, 2, 1, 3])
    weights = net.constant([[[[float(bin_)]] for bin_ in range(bins)]], "dfl.weight")
    means = net.node("Conv", net.node("Softmax", spread, axis=1), weights, name="dfl")
    sides = net.node("Reshape", means, net.ints(0, 4, places))
    near, far = net.multiple("Split", sides, net.ints(2, 2), outputs=2, axis=1)
    anchors = net.constant(net.normal(1, 2, places))
    low, high = net.node("Sub", anchors, near), net.node("Add", anchors, far)
    centre = net.node("Div", net.node("Add", low, high), net.constant(2.0))
    box = net.node("Concat", centre, net.node("Sub", high, low), axis=1)
    return net.node("Concat", box, net.node("Sigmoid", classes), axis=1)


def test_the_head_of_a_detector_costs_itself_only() -> None:
    net = Net()
    first = net.node("Relu", net.conv("stem", net.input("batch", 3, 8, 8), *planted_rows(net, "equal", 3, 1, 1)))
    fine = net.conv("fine", first, planted_columns(net, "equal", 6, 3, 3), pads=[1] * 4)
    coarse = net.node("MaxPool", fine, kernel_shape=[2, 2], strides=[2, 2])
    model = net.build(yolo_head(net, [fine, coarse], bins=16))
    assert "varies in space at a Conv" not in {str(refusal.reason) for refusal in traced(model).refusals}
    assert_close(model, small := condense(model, LOSSLESS).model, 2e-5)
    found = widths(small)
    assert {name: found[name] for name in ("stem", "box0", "class0", "box1", "class1")} == dict.fromkeys(
        ("stem", "box0", "class0", "box1", "class1"), EXACT
    )
    assert (found["box0_out"], found["class0_out"], found["dfl"]) == (64, 3, 1)
