"""Shapes and constant values, as they are and not as the file states them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import builders

from onnx_condense.model.surgeon import import_graph
from onnx_condense.operators.facts import Facts, Tried


def facts(model: onnx.ModelProto, **feed: tuple[int, ...]) -> Facts:
    """Facts on a feed of zeros with these shapes."""
    arrays = {name: np.zeros(shape, dtype=np.float32) for name, shape in feed.items()}
    return Facts(model, import_graph(model), arrays)


FLATTEN = builders.build(
    """g (float[N, 4, H, W] x) => (float[N, M] y) {
        s = Shape(x)
        n = Gather(s, zero)
        nn = Unsqueeze(n, zeros)
        shape = Concat<axis = 0>(nn, rest)
        z = Relu(x)
        y = Reshape(z, shape)
    }""",
    {"zero": np.int64(0), "zeros": np.zeros(1, np.int64), "rest": np.array([-1])},
)


def test_shapes_are_what_onnxruntime_computes() -> None:
    found = facts(FLATTEN, x=(2, 4, 3, 5))
    assert found.shapes["x"] == (2, 4, 3, 5)
    assert found.shapes["z"] == (2, 4, 3, 5)
    assert found.shapes["y"] == (2, 60)


def test_stated_shapes_are_not_believed() -> None:
    model = builders.mlp((8, 16, 3), batch="2")
    model.graph.value_info.append(helper.make_tensor_value_info("z0", TensorProto.FLOAT, [7, 7]))
    assert facts(model, x=(2, 8)).shapes["z0"] == (2, 16)


def test_what_follows_from_constants_is_static_and_from_shapes_derived() -> None:
    found = facts(FLATTEN, x=(2, 4, 3, 5))
    assert found.derived == {"s", "n", "nn", "shape"}
    assert {"zero", "zeros", "rest"} <= found.static
    assert not {"x", "y", "z"} & (found.static | found.derived)
    assert found.value_by_name("shape") is not None
    assert found.value_by_name("shape").tolist() == [2, -1]  # type: ignore[union-attr]
    assert found.value_by_name("z") is None


def test_derived_values_under_other_shapes() -> None:
    found = facts(FLATTEN, x=(2, 4, 3, 5))
    other = found.values_under({"x": (9, 2, 3, 5)})
    assert other["s"].tolist() == [9, 2, 3, 5]
    assert other["shape"].tolist() == [9, -1]
    assert found.value_by_name("shape").tolist() == [2, -1]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("attributes", "value"),
    [("", [2, 4, 3, 5]), ("<start = 1>", [4, 3, 5]), ("<start = -2>", [3, 5]), ("<end = -1>", [2, 4, 3])],
)
def test_slices_of_shapes(attributes: str, value: list[int]) -> None:
    text = f"g (float[N, 4, H, W] x) => (int64[K] y) {{ s = Shape{attributes}(x) y = Identity(s) }}"
    assert facts(builders.build(text, check=False), x=(2, 4, 3, 5)).value_by_name("s").tolist() == value  # type: ignore[union-attr]


def test_size_is_derived() -> None:
    text = "g (float[N, 4] x) => (int64 y) { s = Size(x) y = Identity(s) }"
    assert facts(builders.build(text), x=(3, 4)).value_by_name("s") == 12


def test_values_of_constants_and_of_what_they_make() -> None:
    text = """g (float[N, 4] x) => (float[N, 4] y) {
        c = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>()
        d = Mul(c, two)
        y = Add(x, d)
    }"""
    found = facts(builders.build(text, {"two": np.float32(2)}), x=(2, 4))
    assert found.value_by_name("d").tolist() == [2, 4, 6, 8]  # type: ignore[union-attr]
    assert {"c", "d", "two"} <= found.static
    assert not found.derived


def test_random_numbers_are_not_constant() -> None:
    text = "g (float[2, 4] x) => (float[2, 4] y) { r = RandomNormal<shape = [2, 4]>() y = Add(x, r) }"
    found = facts(builders.build(text), x=(2, 4))
    assert found.value_by_name("r") is None
    assert "r" not in found.static
    assert found.shapes["r"] == (2, 4)


def test_consumers() -> None:
    found = facts(builders.mlp((8, 16, 3)), x=(2, 8))
    gemm = [i for i, node in enumerate(found.nodes) if node.op == "Gemm"]
    assert found.consumers("h0") == [(gemm[1], 0)]
    assert found.consumers("w1") == [(gemm[1], 1)]
    assert found.consumers("y") == []
    assert found.opset == 17


def test_names_that_bodies_capture() -> None:
    body = helper.make_graph(
        [helper.make_node("Mul", ["h", "h"], ["inside"])],
        "body",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["outside"])],
        "other",
        [],
        [helper.make_tensor_value_info("outside", TensorProto.FLOAT, None)],
    )
    model = builders.build(
        "g (float[2, 4] x) => (float[2, 4] y) { h = Relu(x) }", {"condition": np.array(True)}, check=False
    )
    model.graph.node.append(helper.make_node("If", ["condition"], ["y"], then_branch=body, else_branch=other))
    found = facts(model, x=(2, 4))
    assert {"h", "x"} <= set(found.captured())
    assert "condition" not in found.captured()


def test_one_node_evaluated_on_numbers() -> None:
    text = "g (float[N, 4] x) => (float[N, 4] y) { z = Clip(x, low, high) y = Relu(z) }"
    found = facts(builders.build(text, {"low": np.float32(-1), "high": np.float32(6)}), x=(2, 4))
    assert found.evaluate(0, np.array([-5.0, 2.0, 9.0])).tolist() == [-1, 2, 6]
    assert found.evaluate(1, np.array([-5.0, 2.0])).tolist() == [0, 2]


# ------------------------------------------------------------------------------------- sizes that are unknown

VIEW = """g (float[N, T, 4] x, float[N, 4] z) => (float[M, 4] y, float[N, 4] v) {
    s = Shape(x)
    n = Slice(s, zero, one)
    t = Slice(s, one, two)
    small = Min(t, two)
    count = Mul(n, t)
    c = Shape<start = 2>(x)
    shape = Concat<axis = 0>(count, c)
    r = Reshape(x, shape)
    y = Relu(r)
    v = Relu(z)
}"""
NUMBERS = {name: np.array([i]) for i, name in enumerate(("zero", "one", "two"))}


@pytest.fixture
def stuck() -> Facts:
    """The length of x could not be varied."""
    model = builders.build(VIEW, NUMBERS)
    feed = {"x": np.zeros((2, 3, 4), np.float32), "z": np.zeros((2, 4), np.float32)}
    return Facts(model, import_graph(model), feed, tried=Tried([("x", 1)]))


def test_values_that_may_follow_an_unknown_size(stuck: Facts) -> None:
    assert {name for name in stuck.derived if stuck.may_follow(name)} == {"s", "t", "small", "count", "shape"}
    assert {name for name in stuck.derived if stuck.follows_inputs(name)} == {"s", "t", "small", "count", "shape"}
    assert stuck.changing("shape").tolist() == [True, False]
    assert stuck.changing("s").tolist() == [False, True, False]


def test_axes_that_may_follow_an_unknown_size(stuck: Facts) -> None:
    found = {(name, axis) for name, shape in stuck.shapes.items() for axis in range(len(shape))}
    assert {place for place in found if stuck.is_unknown(*place)} == {("x", 1), ("r", 0), ("y", 0)}
    assert {place for place in found if stuck.is_resized(*place)} == {("x", 1), ("r", 0), ("y", 0)}


def test_nothing_is_unknown_where_every_size_was_varied() -> None:
    model = builders.build(VIEW, NUMBERS)
    feeds = [{"x": np.zeros((2, t, 4), np.float32), "z": np.zeros((2, 4), np.float32)} for t in (3, 5)]
    found = Facts(model, import_graph(model), feeds[0], feeds[1:])
    assert not any(map(found.may_follow, found.derived))
    assert {name for name in found.derived if found.follows_inputs(name)} == {"s", "t", "small", "count", "shape"}
    assert found.is_resized("y", 0)
    assert not found.is_unknown("y", 0)


def test_the_weights_of_readers_say_sizes() -> None:
    text = "g (float[N, L] x) => (float[N, 2] y, float[N, L] z) { r = Relu(x) y = MatMul(r, w) z = Neg(x) }"
    model = builders.build(text, {"w": builders.random(16, 2)}, check=False)
    found = Facts(model, import_graph(model), {"x": np.zeros((2, 16), np.float32)}, tried=Tried([("x", 1)]))
    assert found.is_unknown("x", 1)
    assert not found.is_unknown("r", 1)
