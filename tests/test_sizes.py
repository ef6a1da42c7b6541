"""What is condensed on one size of input must be right on every other: batch, height and width alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from planted import EXACT, FULL, Net, assert_close, planted_columns, planted_rows, widths

from onnx_condense import Options, condense
from onnx_condense.runtime import run, session

Build = Callable[[Net, str], str]


def image(build: Build, batch: int | str = "n") -> onnx.ModelProto:
    """Conv with planted channels, what is built, and a 1x1 Conv."""
    net = Net()
    hidden = net.conv("producer", net.input(batch, 3, "h", "w"), *planted_rows(net, "equal", 3, 3, 3))
    columns = planted_columns(net, "equal", 4, 1, 1)
    return net.build(net.conv("consumer", build(net, net.node("Relu", hidden)), columns))


def dimension(net: Net, data: str, axis: int) -> str:
    """One size of a tensor, computed in the graph, as a vector of one number."""
    return net.node("Gather", net.node("Shape", data), net.ints(axis))


def same_everywhere(model: onnx.ModelProto, batch: int | None = None) -> onnx.ModelProto:
    """Condenses, and compares both models on sizes that the tool has not seen."""
    small = condense(model, Options(lossless=True, align=1)).model
    one, other = session(model), session(small)
    generator = np.random.default_rng(1)
    for shape in ((3, 14, 9), (5, 12, 22), (2, 31, 17)):
        feed = {"x": generator.standard_normal((batch or shape[0], 3, *shape[1:])).astype(np.float32)}
        (a,), (b,) = run(one, None, feed), run(other, None, feed)
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    return small


def rows_and_back(net: Net, data: str) -> str:
    """view(B, 8, H * W) and back, with computed sizes."""
    batch, height, width = (dimension(net, data, axis) for axis in (0, 2, 3))
    flat = net.node("Concat", batch, net.ints(8), net.node("Mul", height, width), axis=0)
    back = net.node("Concat", batch, net.ints(8), height, width, axis=0)
    return net.node("Reshape", net.node("Reshape", data, flat), back)


def split_over(axis: int) -> Build:
    def build(net: Net, data: str) -> str:
        doubled = net.node("Concat", data, data, axis=axis)
        left, right = net.multiple("Split", doubled, outputs=2, axis=axis)
        return net.node("Add", left, right)

    return build


def all_but_one(axis: int) -> Build:
    def build(net: Net, data: str) -> str:
        end = net.node("Sub", dimension(net, data, axis), net.ints(1))
        return net.node("Slice", data, net.ints(0), end, net.ints(axis))

    return build


@pytest.mark.parametrize(
    "build",
    [split_over(0), split_over(2), all_but_one(0), all_but_one(2), all_but_one(3)],
    ids=["split batch", "split height", "slice batch", "slice height", "slice width"],
)
def test_movements_along_axes_of_any_size(build: Build) -> None:
    small = same_everywhere(image(build))
    assert widths(small)["producer"] == EXACT


def test_a_view_with_computed_sizes() -> None:
    same_everywhere(image(rows_and_back))


@pytest.mark.parametrize("batch", ["n", 1])
def test_numbers_that_follow_the_size_are_not_written_down(batch: int | str) -> None:
    """x / Size(x) counts the channels too: no constant is right at every size, so the channels stay."""

    def divided(net: Net, data: str) -> str:
        return net.node("Div", data, net.node("Cast", net.node("Size", data), to=1))

    small = same_everywhere(image(divided, batch), None if batch == "n" else 1)
    assert widths(small)["producer"] == FULL


def test_a_number_that_follows_only_the_channels_is_written_down() -> None:
    """x / sqrt(C) keeps the original's C."""

    def scaled(net: Net, data: str) -> str:
        return net.node("Div", data, net.node("Sqrt", net.node("Cast", dimension(net, data, 1), to=1)))

    model = image(scaled)
    small = same_everywhere(model)
    assert widths(small)["producer"] == EXACT
    assert_close(image(scaled, 2), condense(image(scaled, 2), Options(lossless=True, align=1)).model, 1e-5)
