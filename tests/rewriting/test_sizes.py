"""What is condensed on one size of input must be right on every other: batch, height and width alike.

Every case says what becomes of its producer: how many channels stay, or why all do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx
import pytest
from support.lossless import LOSSLESS
from support.planted.cases import (
    EXACT,
    FULL,
    planted_columns,
    planted_rows,
)
from support.planted.net import Net, assert_close, widths

from onnx_condense import Result, condense
from onnx_condense.model.runtime import run, session

Build = Callable[[Net, str], str]

UNEVEN = "cannot be removed evenly"


def image(build: Build, batch: int | str = "n") -> onnx.ModelProto:
    """Conv with planted channels, what is built, and a 1x1 Conv."""
    net = Net()
    hidden = net.conv("producer", net.input(batch, 3, "h", "w"), *planted_rows(net, "equal", 3, 3, 3))
    columns = planted_columns(net, "equal", 4, 1, 1)
    return net.build(net.conv("consumer", build(net, net.node("Relu", hidden)), columns))


def dimension(net: Net, data: str, axis: int) -> str:
    """One size of a tensor, computed in the graph, as a vector of one number."""
    return net.node("Gather", net.node("Shape", data), net.ints(axis))


def assert_same(result: Result, model: onnx.ModelProto, shapes: Iterable[tuple[int, ...]]) -> None:
    """Both models give the same, up to the rounding of float32, on inputs of these shapes."""
    one, other = session(model), session(result.model)
    generator = np.random.default_rng(1)
    for shape in shapes:
        feed = {"x": generator.standard_normal(shape).astype(np.float32)}
        (a,), (b,) = run(one, None, feed), run(other, None, feed)
        assert a.shape == b.shape
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6 * np.abs(a).max())


def same_everywhere(model: onnx.ModelProto, batch: int | None = None) -> Result:
    """Condenses, and compares both models on sizes that the tool has not seen."""
    result = condense(model, LOSSLESS)
    shapes = ((3, 14, 9), (5, 12, 22), (2, 31, 17))
    assert_same(result, model, ((batch or shape[0], 3, *shape[1:]) for shape in shapes))
    return result


def width(result: Result) -> int:
    """How many channels of the producer stay."""
    return widths(result.model)["producer"]


def why(result: Result) -> str:
    """Why the producer stays as it is; empty where no rule forbids that it shrinks."""
    reasons = [refusal.reason for refusal in result.report.refusals if "producer" in refusal.layers]
    return "; ".join([*reasons, *result.report.warnings])


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
    assert width(same_everywhere(image(build))) == EXACT


def test_a_view_with_computed_sizes_keeps_its_channels() -> None:
    """The view states the number of channels among sizes that follow the input."""
    result = same_everywhere(image(rows_and_back))
    assert width(result) == FULL
    assert UNEVEN in why(result)


@pytest.mark.parametrize("batch", ["n", 1])
def test_numbers_that_follow_the_size_are_not_written_down(batch: int | str) -> None:
    """x / Size(x) counts the channels too: no constant is right at every size, so the channels stay."""

    def divided(net: Net, data: str) -> str:
        return net.node("Div", data, net.node("Cast", net.node("Size", data), to=1))

    result = same_everywhere(image(divided, batch), None if batch == "n" else 1)
    assert width(result) == FULL
    assert UNEVEN in why(result)


def test_a_number_that_follows_only_the_channels_is_written_down() -> None:
    """x / sqrt(C) keeps the original's C."""

    def scaled(net: Net, data: str) -> str:
        return net.node("Div", data, net.node("Sqrt", net.node("Cast", dimension(net, data, 1), to=1)))

    assert width(same_everywhere(image(scaled))) == EXACT
    assert_close(image(scaled, 2), condense(image(scaled, 2), LOSSLESS).model, 1e-5)


# ------------------------------------------------------------------------ sequences of any length, down to one


def sequence(build: Build, relation: str) -> Result:
    """MatMul with planted channels over [n, t, 6], what is built, and a MatMul; compared at lengths not seen."""
    net = Net(opset=18)
    rows, bias = planted_rows(net, relation, 6)
    rows[7], bias[7] = 0.0, 0.8  # a constant channel besides
    hidden = net.node("Relu", net.matmul("producer", net.input("n", "t", 6), rows, bias))
    model = net.build(net.matmul("consumer", build(net, hidden), planted_columns(net, relation, 4), net.normal(4)))
    result = condense(model, LOSSLESS)
    assert_same(result, model, ((2, length, 6) for length in (64, 65, 11, 2, 1)))
    return result


def at_least(net: Net, data: str, length: int) -> str:
    """max(0, length - T)."""
    return net.node("Max", net.node("Sub", net.ints(length), dimension(net, data, 1)), net.ints(0))


def padded_to_length(net: Net, data: str) -> str:
    pads = net.node("Concat", net.ints(0, 0, 0, 0), at_least(net, data, 12), net.ints(0), axis=0)
    return net.node("Pad", data, pads)


def padded_with_numbers(net: Net, data: str) -> str:
    pads = net.node("Concat", net.ints(0, 0, 0, 0), at_least(net, data, 12), net.ints(0), axis=0)
    return net.node("Pad", data, pads, net.constant(0.5))


def history(net: Net, *length: int) -> str:
    return net.constant(net.normal(1, *length, FULL))


def window_over_history(net: Net, data: str) -> str:
    """The last three of what was before and what is now."""
    batch = net.node("Concat", dimension(net, data, 0), net.ints(1, 1), axis=0)
    before = net.node("Expand", history(net, 5), batch)
    whole = net.node("Concat", before, data, axis=1)
    return net.node("Slice", whole, net.ints(-3), net.ints(99), net.ints(1))


def last_of_two(net: Net, data: str) -> str:
    """Behind a tensor whose channels are others: which of both is read depends on the length."""
    whole = net.node("Concat", net.node("Tanh", data), data, axis=1)
    return net.node("Slice", whole, net.ints(-50), net.ints(999), net.ints(1))


def fixed_place(net: Net, data: str) -> str:
    whole = net.node("Concat", data, net.node("Tanh", data), axis=1)
    return net.node("Gather", whole, net.ints(1), axis=1)


def sometimes_empty(net: Net, data: str) -> str:
    """Zeros up to a length of 50, none where it is longer."""
    shape = net.node("Concat", dimension(net, data, 0), at_least(net, data, 50), net.ints(FULL), axis=0)
    return net.node("Concat", data, net.node("Expand", net.constant(np.ones((1, 1, 1))), shape), axis=1)


def channels_by_length(net: Net, data: str) -> str:
    """Channels from min(T, 3) on, and as many before them."""
    start = net.node("Min", dimension(net, data, 1), net.ints(3))
    taken = net.node("Slice", data, start, net.node("Add", start, net.ints(4)), net.ints(2))
    return net.node("Concat", taken, taken, axis=2)


def clipped_by_length(net: Net, data: str) -> str:
    length = net.node("Squeeze", net.node("Cast", dimension(net, data, 1), to=1), net.ints(0))
    return net.node("Clip", data, net.constant(-1.0), length)


@pytest.mark.parametrize(
    ("build", "relation"),
    [
        (padded_to_length, "scaled"),
        (padded_to_length, "equal"),
        (padded_with_numbers, "equal"),
        (last_of_two, "equal"),
        (fixed_place, "equal"),
        (clipped_by_length, "equal"),
    ],
)
def test_sequences_of_any_length(build: Build, relation: str) -> None:
    """Two copies go; the constant channel is no constant behind any of these, at some length."""
    assert width(sequence(build, relation)) == FULL - 2


@pytest.mark.parametrize("build", [padded_with_numbers, last_of_two, fixed_place, clipped_by_length])
def test_scaled_channels_stay_where_a_length_makes_them_differ(build: Build) -> None:
    """Nothing forbids that these channels shrink (equal ones do), but none is a multiple of another at every length."""
    result = sequence(build, "scaled")
    assert width(result) == FULL
    assert not why(result)


@pytest.mark.parametrize("relation", ["scaled", "equal"])
@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (window_over_history, "a Concat beside a tensor whose channels cannot be removed"),
        (sometimes_empty, "a Concat, which appends what is empty here, and maybe not at other sizes"),
        (channels_by_length, "a Slice, which takes channels by numbers that follow the sizes of the inputs"),
    ],
)
def test_sequences_whose_channels_stay(build: Build, reason: str, relation: str) -> None:
    result = sequence(build, relation)
    assert width(result) == FULL
    assert reason in why(result)


def test_padding_to_a_multiple() -> None:
    """No zeros are added at the traced size, but at others."""

    def padded(net: Net, data: str) -> str:
        lacking = [net.node("Mod", net.node("Neg", dimension(net, data, axis)), net.ints(32)) for axis in (2, 3)]
        return net.node("Pad", data, net.node("Concat", net.ints(0, 0, 0, 0, 0, 0), *lacking, axis=0))

    assert width(same_everywhere(image(padded))) == EXACT
