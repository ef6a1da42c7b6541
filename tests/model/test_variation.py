"""Other sizes of the inputs, and ties between them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from support import builders

from onnx_condense.model.inputs import input_specs, make_feeds
from onnx_condense.model.variation import other_feeds, symbolic_axes

Shapes = Mapping[str, tuple[int, ...]]


def sizes(model: onnx.ModelProto, shapes: Shapes | None = None) -> dict[str, list[tuple[int, ...]]]:
    """Input -> its shapes in the first feed and in the others."""
    specs = input_specs(model)
    data = {name: np.ones(shape, dtype=np.float32) for name, shape in shapes.items()} if shapes else None
    feed = make_feeds(model, specs, data, {}, 0)[0]
    feeds = [feed, *other_feeds(model, specs, feed, 0)]
    return {name: [f[name].shape for f in feeds] for name in feed}


def test_a_model_without_symbols_has_no_other_sizes() -> None:
    assert sizes(builders.mlp((8, 16, 3), batch="2")) == {"x": [(2, 8)] * 1}


def test_three_sizes_of_every_axis() -> None:
    found = sizes(builders.build("g (float[N, H, W] x) => (float[N, H, W] y) { y = Relu(x) }"))["x"]
    assert len(found) == 3
    assert all(len(set(axis)) == 3 for axis in zip(*found, strict=True))
    ratios = {shape[2] / shape[1] for shape in found}
    assert len(ratios) > 1, "symbols are changed in different ways"


SUM = "g (float[N, T] x, float[N, P] p, float[N, K] m) => (float[N, S] y) { c = Concat<axis = 1>(p, x) y = Add(c, m) }"


@pytest.mark.parametrize("total", ["K", "P + T"])
@pytest.mark.parametrize("given", [None, {"x": (4, 6), "p": (4, 3), "m": (4, 9)}])
def test_a_sum(total: str, given: Shapes | None) -> None:
    model = builders.build(SUM)
    model.graph.input[2].type.tensor_type.shape.dim[1].dim_param = total
    found = sizes(model, given)
    assert all(m[1] == p[1] + x[1] for x, p, m in zip(found["x"], found["p"], found["m"], strict=True))
    assert all(len({shape[1] for shape in shapes}) >= 3 for shapes in found.values())


@pytest.mark.parametrize("layers", [1, 12])
def test_caches_of_many_layers_whose_sizes_have_names_of_their_own(layers: int) -> None:
    """All pasts are as long, the mask is as long as one of them and what is new."""
    numbers = range(layers)
    pasts = "".join(f", float[N, P{i}] p{i}" for i in numbers)
    body = "".join(f"c{i} = Concat<axis = 1>(p{i}, x) y{i} = Add(c{i}, m) " for i in numbers)
    outputs = ", ".join(f"float[N, S{i}] y{i}" for i in numbers)
    found = sizes(builders.build(f"g (float[N, T] x, float[N, K] m{pasts}) => ({outputs}) {{ {body}}}"))
    assert all(len(set(shapes)) >= 3 for shapes in found.values())


def test_a_product() -> None:
    """Only 256 places fit."""
    text = "g (float[N, H, W] x) => (float[N, 2] y) { f = Flatten(x) y = MatMul(f, w) }"
    found = sizes(builders.build(text, {"w": builders.random(256, 2)}, check=False))["x"]
    assert {height * width for _, height, width in found} == {256}
    assert len({height for _, height, _ in found}) > 1


def test_axes_that_cannot_be_varied() -> None:
    text = "g (float[N, L] x, float[A, 3] p) => (float[N, 2] y, float[A, 3] z) { y = MatMul(x, w) z = Relu(p) }"
    model = builders.build(text, {"w": builders.random(16, 2)}, check=False)
    specs = input_specs(model)
    feed = make_feeds(model, specs, None, {}, 0)[0]
    axes = symbolic_axes(specs, [feed, *other_feeds(model, specs, feed, 0)])
    assert [(axis.input, axis.axis, axis.name, axis.varied) for axis in axes] == [
        ("x", 0, "N", True),
        ("x", 1, "L", False),
        ("p", 0, "A", True),
    ]
    assert set(axes[1].sizes) == {16}


def test_sizes_that_are_not_changed_are_not_other_sizes() -> None:
    """Half of one is one."""
    model = builders.build("g (float[N, 3] x) => (float[1, 3] y) { y = Reshape(x, s) }", {"s": np.array([1, 3])})
    assert sizes(model)["x"] == [(1, 3)]


def test_one_name_for_two_sizes() -> None:
    model = builders.build("g (float[N, N] x) => (float[N, N] y) { y = Relu(x) }")
    found = sizes(model, {"x": (8, 5)})["x"]
    assert all(len(set(axis)) == 3 for axis in zip(*found, strict=True))
