"""--fold-batchnorm: BatchNormalization becomes part of the weights in the file, where nothing else reads
between.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from support.builders import build, clustered, random
from support.models import operators
from support.planted.net import Net, assert_close, widths

from onnx_condense import Options, condense
from onnx_condense.forms.batchnorm import fold_batchnorm


def statistics(net: Net, n: int) -> tuple[np.ndarray, ...]:
    return net.rng.uniform(0.5, 2, n), net.normal(n), net.normal(n), net.rng.uniform(0.5, 2, n)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layer", ["conv", "gemm", "gemm, transB=0", "depthwise"])
def test_fold(layer: str, bias: bool) -> None:
    net = Net()
    if layer in ("conv", "depthwise"):
        group = 6 if layer == "depthwise" else 1
        data = net.input("batch", 6, 5, 5)
        kernels = net.normal(6, 6 // group, 3, 3)
        hidden = net.conv("first", data, kernels, net.normal(6) if bias else None, group=group, pads=[1] * 4)
    else:
        data = net.input("batch", 5)
        hidden = net.dense("first", data, net.normal(6, 5), net.normal(6) if bias else None, layer == "gemm")
    model = net.build(net.node("Relu", net.batchnorm(hidden, *statistics(net, 6))))
    folded = fold_batchnorm(model)
    onnx.checker.check_model(folded)
    assert operators(folded) == [operators(model)[0], "Relu"]
    assert [o.name for o in folded.graph.output] == [o.name for o in model.graph.output]
    assert_close(model, folded, 1e-5)


def test_a_producer_that_others_read_is_not_folded() -> None:
    net = Net()
    hidden = net.conv("first", net.input("batch", 3, 5, 5), net.normal(6, 3, 3, 3))
    model = net.build(net.batchnorm(hidden, *statistics(net, 6)), net.node("Relu", hidden))
    assert operators(fold_batchnorm(model)) == operators(model)


def test_a_producer_that_is_an_output_is_not_folded() -> None:
    net = Net()
    hidden = net.conv("first", net.input("batch", 3, 5, 5), net.normal(6, 3, 3, 3))
    model = net.build(net.batchnorm(hidden, *statistics(net, 6)), hidden)
    assert operators(fold_batchnorm(model)) == operators(model)


@pytest.mark.parametrize("scaled", [{"alpha": 2.0}, {"beta": 0.5}])
def test_a_scaled_gemm_is_right(scaled: dict[str, Any]) -> None:
    net = Net()
    inputs = [net.input("batch", 5), net.constant(net.normal(5, 6)), net.constant(net.normal(6))]
    model = net.build(net.batchnorm(net.node("Gemm", *inputs, **scaled), *statistics(net, 6)))
    assert_close(model, fold_batchnorm(model), 1e-5)


def test_an_activation_between_is_not_folded() -> None:
    net = Net()
    hidden = net.node("Relu", net.conv("first", net.input("batch", 3, 5, 5), net.normal(6, 3, 3, 3)))
    model = net.build(net.batchnorm(hidden, *statistics(net, 6)))
    assert operators(fold_batchnorm(model)) == operators(model)


def test_shared_weights_are_folded_apart() -> None:
    """One kernel, two Convs, two BatchNormalizations."""
    net = Net()
    data, kernel = net.input("batch", 3, 5, 5), net.constant(net.normal(6, 3, 3, 3))
    made = [net.batchnorm(net.node("Conv", data, kernel), *statistics(net, 6)) for _ in range(2)]
    model = net.build(*made)
    folded = fold_batchnorm(model)
    assert operators(folded) == ["Conv", "Conv"]
    assert_close(model, folded, 1e-5)


def test_a_tensor_that_has_the_name_of_a_folded_weight_already() -> None:
    weights = {
        "kernels": clustered(6, 12, 5).reshape(6, 3, 2, 2),
        "h_folded_weight": random(4, 6, 1, 1),
        "h_folded_bias": random(4, seed=1),
    }
    weights |= {name: np.ones(6, dtype=np.float32) for name in ("scale", "var")}
    weights |= {name: np.zeros(6, dtype=np.float32) for name in ("shift", "mean")}
    model = build(
        """g (float[N, 3, 6, 6] x) => (float[N, 4, 5, 5] y) {
            [first] h = Conv(x, kernels)
            even = BatchNormalization(h, scale, shift, mean, var)
            bent = Relu(even)
            [second] y = Conv(bent, h_folded_weight, h_folded_bias)
        }""",
        weights,
    )
    result = condense(model, Options(lossless=True, align=1, fold_batchnorm=True))
    assert widths(result.model)["first"] == 5
    assert_close(model, result.model, 2e-5)


def test_condense_folds_on_request_and_keeps_it_otherwise() -> None:
    net = Net()
    rows = net.normal(6, 3, 3, 3)
    rows[4] = 3 * rows[1]
    scale, shift, mean, var = statistics(net, 6)
    shift[:], mean[:] = 0, 0
    hidden = net.batchnorm(net.conv("first", net.input("batch", 3, 5, 5), rows), scale, shift, mean, var)
    model = net.build(net.conv("second", net.node("Relu", hidden), net.normal(4, 6, 1, 1)))
    for fold in (False, True):
        result = condense(model, Options(lossless=True, align=1, fold_batchnorm=fold))
        assert ("BatchNormalization" in operators(result.model)) is not fold
        assert widths(result.model)["first"] == 5
        assert_close(model, result.model, 2e-5)
