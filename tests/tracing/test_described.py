"""Weights that the file only describes (ConstantOfShape): they are sliced, and the file never grows."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.lossless import LOSSLESS
from support.planted.cases import planted_columns, planted_rows
from support.planted.net import (
    Net,
    assert_close,
    traced,
    widths,
)

from onnx_condense import condense


def described(net: Net, value: float, *shape: int) -> str:
    fill = numpy_helper.from_array(np.array([value], dtype=np.float32))
    return net.node("ConstantOfShape", net.ints(*shape), value=fill)


def uniform(width: int = 400) -> onnx.ModelProto:
    """Two layers of equal weights: all channels are one."""
    net = Net()
    hidden = net.node("Gemm", net.input("batch", 5), described(net, 0.02, 5, width), name="first")
    return net.build(net.node("Gemm", net.node("Relu", hidden), described(net, 0.3, width, 30), name="second"))


def held(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == 1)


def test_uniform_weights_stay_described() -> None:
    model = uniform()
    assert traced(model).reached() == 1
    result = condense(model, LOSSLESS)
    assert [(g.width_before, g.width_after) for g in result.report.groups] == [(400, 1)]
    assert held(result.model) == 0
    assert result.model.ByteSize() < model.ByteSize() + 500  # what it says about its making
    assert_close(model, result.model, 2e-5)
    assert not any("larger" in warning for warning in result.report.warnings)


def test_stated_shapes_follow() -> None:
    model = onnx.shape_inference.infer_shapes(uniform(), data_prop=True)
    result = condense(model, LOSSLESS)
    onnx.shape_inference.infer_shapes(result.model, strict_mode=True, data_prop=True)
    assert [g.width_after for g in result.report.groups] == [1]


def test_a_layer_that_would_make_the_file_larger_stays() -> None:
    """Half of the channels are copies: the consumer's columns would differ, and they are many."""
    net = Net()
    rows, bias = planted_rows(net, "equal", 5)
    hidden = net.node("Relu", net.dense("first", net.input("batch", 5), rows, bias))
    model = net.build(net.node("Gemm", hidden, described(net, 0.3, 8, 4000), name="second"))
    result = condense(model, LOSSLESS)
    assert result.model is model
    (warning,) = result.report.warnings
    assert "larger" in warning
    assert "constantofshape" in warning


def test_a_layer_that_is_written_down_in_less_room_is_condensed() -> None:
    net = Net()
    rows, bias = planted_rows(net, "equal", 200)
    hidden = net.node("Relu", net.dense("first", net.input("batch", 200), rows, bias))
    model = net.build(net.node("Gemm", hidden, described(net, 0.3, 8, 4), name="second"))
    small = condense(model, LOSSLESS).model
    assert widths(small)["first"] == 5
    assert small.ByteSize() < model.ByteSize()
    assert_close(model, small, 2e-5)


@pytest.mark.parametrize("expanded", [False, True])
def test_a_weight_described_otherwise(expanded: bool) -> None:
    """By another operator than ConstantOfShape, or by a shape that describes a second one too."""
    net = Net()
    data = net.input("batch", 8)
    shape, fill = net.ints(300, 8), numpy_helper.from_array(np.array([0.3], dtype=np.float32))
    wide = (
        net.node("Expand", described(net, 0.3, 1, 8), shape)
        if expanded
        else net.node("ConstantOfShape", shape, value=fill)
    )
    hidden = net.node("Relu", net.node("Gemm", data, wide, name="first", transB=1))
    made = net.node("Gemm", hidden, described(net, 0.1, 300, 3), name="second")
    total = net.node("ReduceSum", net.node("ConstantOfShape", shape, value=fill), keepdims=0)
    model = net.build(net.node("Add", made, total))
    result = condense(model, LOSSLESS)
    assert [(g.width_before, g.width_after) for g in result.report.groups] == [(300, 1)]
    assert held(result.model) == 0
    assert_close(model, result.model, 2e-5)


def test_planted_columns_of_a_described_layer_keep_their_function() -> None:
    net = Net()
    hidden = net.node("Gemm", net.input("batch", 5), described(net, 0.02, 5, 8), name="first")
    model = net.build(net.dense("second", hidden, planted_columns(net, "equal", 4)))
    small = condense(model, LOSSLESS).model
    assert widths(small)["second"] == 4
    assert_close(model, small, 2e-5)
