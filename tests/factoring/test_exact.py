"""Weights that are exactly of a low rank become pairs of factors, and nothing else changes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support import builders
from support.models import weights

import onnx_condense as oc
from onnx_condense import Options
from onnx_condense.arrays import Array

LOSSLESS = Options(lossless=True, align=1)


def low(*shape: int, rank: int, seed: int = 0) -> Array:
    """A weight of this shape whose first axis against the others has a rank."""
    generator = np.random.default_rng(seed)
    left, right = generator.standard_normal((shape[0], rank)), generator.standard_normal((rank, *shape[1:]))
    return np.tensordot(left, right, 1).astype(np.float32)


def network(nodes: str, inputs: str, outputs: str, **constants: Array) -> onnx.ModelProto:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {nodes} }}"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in constants.items())
    return model


NETWORKS = {
    "table": network(
        "e = Gather(w, x) h = LayerNormalization<axis = -1>(e, s) y = MatMul(h, v)",
        "int64[N, 5] x",
        "float[N, 5, 3] y",
        w=low(90, 24, rank=4),
        s=builders.random(24) + 2,
        v=builders.random(24, 3, seed=1),
    ),
    "gemm": network(
        "h = Gemm<transB = 1, beta = 0.5>(x, w, b) y = Softmax(h)",
        "float[N, 40] x",
        "float[N, 30] y",
        w=low(30, 40, rank=5),
        b=builders.random(30),
    ),
    "no bias": network(
        "h = MatMul(x, w) y = Softmax(h)", "float[N, 2, 40] x", "float[N, 2, 30] y", w=low(40, 30, rank=5)
    ),
    "left": network(
        "h = MatMul(w, x) y = Softmax<axis = 1>(h)", "float[N, 40, 6] x", "float[N, 30, 6] y", w=low(30, 40, rank=5)
    ),
    "kernel": network(
        "h = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w, b) y = Softmax<axis = 1>(h)",
        "float[N, 40, 6, 6] x",
        "float[N, 30, 4, 4] y",
        w=low(30, 40, 1, 1, rank=5),
        b=builders.random(30),
    ),
    "one axis": network(
        "h = Conv(x, w, b) y = Softmax<axis = 1>(h)",
        "float[N, 40, 6] x",
        "float[N, 30, 6] y",
        w=low(30, 40, 1, rank=5),
        b=builders.random(30),
    ),
    "double": network(
        "y = MatMul(x, w)", "double[N, 40] x", "double[N, 30] y", w=low(40, 30, rank=5).astype(np.float64)
    ),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_low_rank_becomes_a_pair(kind: str) -> None:
    model = NETWORKS[kind]
    result = oc.condense(model, LOSSLESS)
    rank = 4 if kind == "table" else 5
    assert [factor.rank for factor in result.plan.factors] == [rank]
    before, after = weights(model)["w"], weights(result.model)
    shapes = [value.shape for value in after.values() if rank in value.shape]
    assert len(shapes) == 2
    small, large = result.report.output, result.report.input
    assert small is not None
    m, n = [size for size in before.shape if size > 1]
    assert large.parameters - small.parameters == m * n - rank * (m + n)
