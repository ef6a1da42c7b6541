"""What onnxruntime fuses, before and after."""

from __future__ import annotations

from onnx import helper
from support import builders

from onnx_condense.timing.fusions import Fusion, lost, optimized


def test_a_fusion_that_something_stands_in_the_way_of_is_told() -> None:
    """MatMul and Add are one Gemm, unless a user sees what lies between them."""
    weights = {"w": builders.random(4, 3), "b": builders.random(3)}
    model = builders.build("g (float[2, 4] x) => (float[2, 3] y) { h = MatMul(x, w) y = Add(h, b) }", weights)
    before = optimized(model)
    assert before == {"Gemm": 1}
    model.graph.output.append(helper.make_tensor_value_info("h", 1, (2, 3)))
    after = optimized(model)
    assert lost(before, after) == (Fusion("Add", 0, 1), Fusion("Gemm", 1, 0), Fusion("MatMul", 0, 1))


def test_nodes_that_are_gone_are_no_loss() -> None:
    assert lost({"Gemm": 2, "Relu": 1}, {"Gemm": 2}) == ()
    assert lost({"Gemm": 2}, {"Gemm": 2}) == ()
    assert lost({}, {"Gemm": 2}) == ()
