"""Sizes of inputs that are tied to each other, or cannot be varied: right at every size, or left alone with the reason.

A key-value cache is the usual case: its mask is as long as what is old and what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx
import pytest
from support.lossless import LOSSLESS
from support.planted.cases import EXACT, FULL, planted_rows
from support.planted.net import Net, widths

from onnx_condense import Result, condense
from onnx_condense.model.runtime import run, session
from onnx_condense.options import Options

Sizes = Mapping[str, int]
View = Callable[[Net, str, str], str]
"""From hidden channels [batch, length, 8], and the input, to what the consumer reads."""

UNKNOWN = "maybe follows a size of the inputs that could not be varied"
BY_SIZE = "regroups channels and places in a way that follows the sizes of the inputs"


def dimension(net: Net, data: str, axis: int) -> str:
    return net.node("Gather", net.node("Shape", data), net.ints(axis))


def rows(net: Net, hidden: str, data: str) -> str:
    """view(B * T, 8): what is written down for T at one size is wrong at every other."""
    count = net.node("Mul", dimension(net, data, 0), dimension(net, data, 1))
    return net.node("Reshape", hidden, net.node("Concat", count, net.ints(FULL), axis=0))


def heads(net: Net, hidden: str, data: str) -> str:
    """view(B, 2 T, 4)."""
    double = net.node("Mul", dimension(net, data, 1), net.ints(2))
    return net.node("Reshape", hidden, net.node("Concat", dimension(net, data, 0), double, net.ints(4), axis=0))


def scrambled(net: Net, hidden: str, data: str) -> str:
    """view(B, T, 8) of channels in front of places: which channel a place holds depends on T."""
    return net.node("Reshape", net.node("Transpose", hidden, perm=[0, 2, 1]), net.ints(0, -1, FULL))


def first_row(net: Net, hidden: str, data: str) -> str:
    return net.node("Gather", scrambled(net, hidden, data), net.ints(0), axis=1)


def as_it_is(net: Net, hidden: str, data: str) -> str:
    return hidden


def perceptron(net: Net, hidden: str, view: View, data: str) -> onnx.ModelProto:
    """A producer of planted channels, a view, and a consumer."""
    weights, bias = planted_rows(net, "equal", 6)
    if view is heads:
        weights, bias = net.normal(FULL, 6), net.normal(FULL)
        weights[[2, 6]], bias[[2, 6]] = weights[[0, 4]], bias[[0, 4]]  # one copy in each head
    made = net.node("Relu", net.matmul("producer", hidden, weights, bias))
    columns = net.normal(3, 4 if view is heads else FULL)
    return net.build(net.matmul("consumer", view(net, made, data), columns))


def attended(net: Net, data: str, past: str, mask: str, padding: int = 0) -> str:
    """Attention of what is new to what is old and new; the mask is as long as both, and what is padded."""
    present = net.node("Concat", past, data, axis=1)
    if padding:
        present = net.node("Pad", present, net.ints(0, padding, 0, 0, 0, 0))
    scores = net.node("Add", net.node("MatMul", data, net.node("Transpose", present, perm=[0, 2, 1])), mask)
    return net.node("MatMul", net.node("Softmax", scores), present)


def decoder(view: View, total: int | str = "total", padding: int = 0) -> onnx.ModelProto:
    net = Net()
    data, past = net.input("batch", "new", 6), net.input("batch", "past", 6, name="past")
    mask = net.input("batch", 1, total, name="mask")
    return perceptron(net, attended(net, data, past, mask, padding), view, data)


def feed_of(model: onnx.ModelProto, sizes: Sizes) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    rng = np.random.default_rng(3)
    feed = {}
    for value in model.graph.input:
        shape = [d.dim_value or sizes[d.dim_param] for d in value.type.tensor_type.shape.dim]
        feed[value.name] = rng.standard_normal(shape).astype(np.float32)
    return feed


def checked(model: onnx.ModelProto, sizes: Iterable[Sizes], options: Options = LOSSLESS) -> Result:
    """Condenses, and compares both models on sizes that the tool may not have seen."""
    result = condense(model, options)
    one, other = session(model), session(result.model)
    for chosen in sizes:
        feed = feed_of(model, chosen)
        (a,), (b,) = run(one, None, feed), run(other, None, feed)
        assert a.shape == b.shape
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6 * np.abs(a).max())
    return result


def width(result: Result) -> int:
    """How many channels of the producer stay."""
    return widths(result.model)["producer"]


def why(result: Result) -> str:
    return "; ".join(r.reason for r in result.report.refusals if "producer" in r.layers)


def unvaried(result: Result) -> list[str]:
    return [axis.name for axis in result.report.axes if not axis.varied]


CACHES = [
    {"batch": b, "new": t, "past": p, "total": t + p, "past + new": t + p}
    for b, t, p in ((2, 1, 1), (3, 3, 5), (1, 4, 2), (2, 7, 1))
]


@pytest.mark.parametrize("total", ["total", "past + new"])
@pytest.mark.parametrize(("view", "left"), [(rows, EXACT), (heads, FULL - 2), (scrambled, FULL), (first_row, FULL)])
def test_a_cache_whose_mask_is_as_long_as_both(view: View, left: int, total: str) -> None:
    result = checked(decoder(view, total), CACHES)
    assert width(result) == left
    assert unvaried(result) == []
    assert (BY_SIZE in why(result)) == (view in (scrambled, first_row))


@pytest.mark.parametrize(("view", "left"), [(rows, EXACT), (scrambled, FULL), (first_row, FULL)])
@pytest.mark.parametrize("padding", [0, 1])
def test_a_cache_with_data_of_one_size(view: View, left: int, padding: int) -> None:
    model = decoder(view, padding=padding)
    data = feed_of(model, {"batch": 8, "new": 4, "past": 4, "total": 8 + padding})
    sizes = [{**size, "total": size["total"] + padding} for size in CACHES]
    result = checked(model, sizes, Options(lossless=True, align=1, data=data))
    assert width(result) == left
    assert unvaried(result) == []


@pytest.mark.parametrize(("view", "left"), [(rows, EXACT), (heads, FULL - 2), (scrambled, FULL)])
def test_a_batch_with_two_names(view: View, left: int) -> None:
    net = Net()
    data, other = net.input("n", "t", 6), net.input("m", "t", 6, name="other")
    weights = net.node("MatMul", data, net.node("Transpose", other, perm=[0, 2, 1]))
    model = perceptron(net, net.node("MatMul", weights, other), view, data)
    result = checked(model, [{"n": n, "m": n, "t": t} for n, t in ((1, 1), (2, 5), (5, 3))])
    assert width(result) == left
    assert unvaried(result) == []


@pytest.mark.parametrize(("view", "left"), [(rows, FULL), (as_it_is, EXACT), (heads, FULL), (scrambled, FULL)])
def test_a_batch_that_can_only_be_one(view: View, left: int) -> None:
    """The length is varied alone; what the batch may lead to stays."""
    net = Net()
    data = net.input("b", "t", 6)
    single = net.node("Unsqueeze", net.node("Squeeze", data, net.ints(0)), net.ints(0))
    result = checked(perceptron(net, single, view, data), [{"b": 1, "t": t} for t in (1, 2, 5, 12)])
    assert width(result) == left
    assert unvaried(result) == ["b"]
    assert (UNKNOWN in why(result)) == (view in (rows, heads))
    assert (BY_SIZE in why(result)) == (view is scrambled)


def squared(view: View, square: str) -> onnx.ModelProto:
    """A matrix of weights for each pair of places comes as one row of numbers."""
    net = Net()
    data, flat = net.input("b", "t", 6), net.input("b", square, name="weights")
    length = dimension(net, data, 1)
    shape = net.node("Concat", dimension(net, data, 0), length, length, axis=0)
    return perceptron(net, net.node("MatMul", net.node("Reshape", flat, shape), data), view, data)


SQUARES = [{"b": b, "t": t, "s": t * t, "t * t": t * t} for b, t in ((2, 1), (1, 3), (3, 5), (2, 8))]


@pytest.mark.parametrize(("view", "left"), [(rows, EXACT), (as_it_is, EXACT), (heads, FULL - 2), (scrambled, FULL)])
def test_a_size_whose_name_is_a_product(view: View, left: int) -> None:
    result = checked(squared(view, "t * t"), SQUARES)
    assert width(result) == left
    assert unvaried(result) == []


@pytest.mark.parametrize(("view", "left"), [(rows, FULL), (as_it_is, EXACT), (heads, FULL), (scrambled, FULL)])
def test_a_tie_that_is_not_found(view: View, left: int) -> None:
    """What may follow it stays, with that reason; the rest is condensed."""
    result = checked(squared(view, "s"), SQUARES)
    assert width(result) == left
    assert unvaried(result) == ["t", "s"]
    assert (UNKNOWN in why(result)) == (view is not as_it_is)


def test_numbers_that_follow_an_unknown_size_are_not_written_down() -> None:
    """x / Size(x) counts the channels and the length."""

    def divided(net: Net, hidden: str, data: str) -> str:
        return net.node("Div", hidden, net.node("Cast", net.node("Size", hidden), to=1))

    result = checked(squared(divided, "s"), SQUARES)
    assert width(result) == FULL
    assert UNKNOWN in why(result)


def test_a_shape_that_is_an_input_is_not_written_down() -> None:
    net = Net()
    data = net.input("b", "t", 6)
    net.inputs.append(onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [3]))
    model = perceptron(net, data, lambda net, hidden, data: net.node("Reshape", hidden, "shape"), data)
    rng = np.random.default_rng(0)
    feed = {"x": rng.standard_normal((2, 4, 6)).astype(np.float32), "shape": np.array([2, 4, FULL])}
    batches = {name: value[None] for name, value in feed.items()}
    result = condense(model, Options(lossless=True, align=1, data=batches))
    assert width(result) == FULL
    assert "moves data by amounts that are computed from data" in why(result)


# ------------------------------------------------------------------------ sizes that weights allow once


def flattened(places: tuple[int | str, ...], count: int, flatten: bool) -> onnx.ModelProto:
    """A convolution with planted channels, all its places in a row, and a linear map of so many numbers."""
    net = Net()
    kernel = (3,) * len(places)
    weights = planted_rows(net, "equal", 3, *kernel)
    hidden = net.conv("producer", net.input("n", 3, *places), *weights, pads=[1, 1] * len(places))
    row = net.node("Flatten", hidden) if flatten else net.node("Reshape", hidden, net.ints(-1, count))
    return net.build(net.dense("consumer", row, net.normal(3, count)))


@pytest.mark.parametrize(
    ("places", "count", "stuck"),
    [(("l",), 16, ["l"]), (("h", 12), 48, ["h"]), ((12, "w"), 48, ["w"]), (("h", "w"), 256, [])],
)
def test_a_flattened_image_that_only_fits_once(places: tuple[int | str, ...], count: int, stuck: list[str]) -> None:
    """What a Gemm takes says how many places each channel has."""
    sizes = [{"n": n, "l": 16, "h": 4 if stuck else 16, "w": 4 if stuck else 16} for n in (1, 3)]
    sizes += [] if stuck else [{"n": 2, "h": 8, "w": 32}, {"n": 2, "h": 128, "w": 2}]
    result = checked(flattened(places, FULL * count, True), sizes)
    assert width(result) == EXACT
    assert unvaried(result) == stuck


def test_places_that_become_rows() -> None:
    """Twice as many places are twice as many rows, in which channels lie otherwise."""
    model = flattened(("l",), FULL * 16, False)
    result = checked(model, [{"n": n, "l": length} for n, length in ((1, 16), (2, 64), (3, 32), (2, 24))])
    assert width(result) == FULL
    assert BY_SIZE in why(result)
