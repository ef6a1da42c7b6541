"""Fused operators: planted nets as onnxruntime's optimizer writes them condense as the original ones do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from support.cases import CASES
from support.lossless import LOSSLESS
from support.planted.cases import planted_columns, planted_rows
from support.planted.net import (
    Net,
    assert_close,
    run,
    signed_feed,
    widths,
)

from onnx_condense import analyze, condense
from onnx_condense.forms.fused import DOMAIN, PARTS, unfuse

NET = {case.name: case.build for case in CASES}

FUSED = (
    "Relu-conv",
    "LeakyRelu-conv",
    "LeakyRelu",
    "Tanh",
    "Sigmoid",
    "Elu",
    "Selu",
    "Softplus",
    "Softsign",
    "Mul-silu",
)

LEVELS = ort.GraphOptimizationLevel


def optimized(model: onnx.ModelProto, folder: Path, level: LEVELS = LEVELS.ORT_ENABLE_EXTENDED) -> onnx.ModelProto:
    """What onnxruntime makes of a model."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


def fused_operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node if node.domain == DOMAIN}


@pytest.mark.parametrize("name", FUSED)
def test_an_optimized_file_condenses_to_the_same_size(name: str, tmp_path: Path) -> None:
    model = NET[name]("equal")
    fused = optimized(model, tmp_path)
    assert fused_operators(fused)
    small = condense(fused, LOSSLESS).model
    assert sorted(widths(small).values()) == sorted(widths(condense(model, LOSSLESS).model).values())
    assert not fused_operators(small) & set(PARTS)
    assert_close(fused, small, 2e-5)


ACTIVATIONS: dict[str, list[float]] = {
    "Relu": [],
    "Sigmoid": [],
    "Tanh": [],
    "LeakyRelu": [0.2],
    "HardSigmoid": [0.3, 0.4],
    "Clip": [-0.2, 0.7],
}


@pytest.mark.parametrize("opset", [10, 17])
@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_convolution_comes_apart_exactly(activation: str, summed: bool, opset: int) -> None:
    net = Net(opset)
    inputs = [net.input("batch", 3, 6, 6), net.constant(net.normal(4, 3, 3, 3)), net.constant(net.normal(4))]
    inputs += [net.input("batch", 4, 4, 4, name="z")] if summed else []
    how: dict[str, Any] = {"activation": activation, "domain": DOMAIN}
    if ACTIVATIONS[activation]:
        how["activation_params"] = ACTIVATIONS[activation]
    same(net.build(net.node("FusedConv", *inputs, **how)))


@pytest.mark.parametrize("activation", ["Relu", "LeakyRelu", "Elu", "Softplus", "HardSigmoid", "ThresholdedRelu"])
def test_a_gemm_comes_apart_exactly(activation: str) -> None:
    net = Net()
    inputs = net.input("batch", 3), net.constant(net.normal(4, 3)), net.constant(net.normal(4))
    how = {"activation": activation, "activation_alpha": 0.3, "activation_beta": 0.6, "domain": DOMAIN}
    same(net.build(net.node("FusedGemm", *inputs, alpha=0.7, beta=1.5, transB=1, **how)))


@pytest.mark.parametrize("op", ["BiasGelu", "FastGelu"])
def test_a_biased_function_comes_apart_exactly(op: str) -> None:
    net = Net()
    same(net.build(net.node(op, net.input("batch", 5), net.constant(net.normal(5)), domain=DOMAIN)))


def same(model: onnx.ModelProto) -> None:
    """Taken apart, a model gives the same outputs, under the same names."""
    apart = unfuse(model)
    assert len(apart.graph.node) > len(model.graph.node)
    assert [o.name for o in apart.graph.output] == [o.name for o in model.graph.output]
    feed = signed_feed(model)
    np.testing.assert_allclose(run(model, feed)[0], run(apart, feed)[0], rtol=1e-5, atol=1e-6)


def test_other_models_are_left_alone() -> None:
    model = NET["Relu"]("equal")
    assert unfuse(model) is model
    net = Net()
    alone = net.build(net.node("FastGelu", net.input("batch", 5), domain=DOMAIN))
    assert unfuse(alone) is alone


def test_nothing_to_condense_leaves_a_fused_file_as_it_is() -> None:
    net = Net()
    inputs = net.input("batch", 3), net.constant(net.normal(4, 3)), net.constant(net.normal(4))
    model = net.build(net.node("FusedGemm", *inputs, transB=1, activation="Relu", domain=DOMAIN))
    assert condense(model, LOSSLESS).model is model


def test_a_file_for_one_machine_says_so(tmp_path: Path) -> None:
    net = Net()
    rows, bias = planted_rows(net, "equal", 3, 3, 3)
    wide = np.concatenate([rows] * 4), np.concatenate([bias] * 4)
    hidden = net.node("Relu", net.conv("producer", net.input(1, 3, 8, 8), *wide))
    columns = np.concatenate([planted_columns(net, "equal", 32, 3, 3)] * 4, axis=1)
    model = net.build(net.conv("consumer", hidden, columns))
    blocked = optimized(model, tmp_path, LEVELS.ORT_ENABLE_ALL)
    if {n.domain for n in blocked.graph.node} != {"com.microsoft.nchwc"}:
        pytest.skip("onnxruntime has no blocked layout on this machine")
    found = analyze(blocked)
    assert found.share == 0
    assert all("another machine" in refusal.reason for refusal in found.refusals)
    assert condense(blocked, LOSSLESS).model is blocked
