"""Weights that are exactly of a low rank become pairs of factors, and nothing else changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from support import builders
from support.models import weights

import onnx_condense as oc
from onnx_condense import Options
from onnx_condense.arrays import Array
from onnx_condense.model.protos import serialize

LOSSLESS = Options(lossless=True, align=1)


def low(*shape: int, rank: int, seed: int = 0, kind: type = np.float32) -> Array:
    """A weight of this shape whose first axis against the others has a rank."""
    generator = np.random.default_rng(seed)
    left, right = generator.standard_normal((shape[0], rank)), generator.standard_normal((rank, *shape[1:]))
    return np.tensordot(left, right, 1).astype(kind)


def network(nodes: str, inputs: str, outputs: str, **constants: Array) -> onnx.ModelProto:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {nodes} }}"""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in constants.items())
    return model


NETWORKS = {
    "table": network(
        "e = Gather(w, x) t = Tanh(e) h = LayerNormalization<axis = -1>(t, s) y = MatMul(h, v)",
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
    "double": network("y = MatMul(x, w)", "double[N, 40] x", "double[N, 30] y", w=low(40, 30, rank=5, kind=np.float64)),
}


def test_a_gemm_keeps_a_bias_where_it_must_have_one() -> None:
    """Before operator set 11."""
    model = onnx.ModelProto()
    model.CopyFrom(NETWORKS["gemm"])
    model.ir_version, model.opset_import[0].version = 4, 9
    result = oc.condense(model, LOSSLESS)
    onnx.checker.check_model(result.model, full_check=True)
    assert [pair.rank for pair in result.report.pairs] == [5]
    assert oc.verify(model, result.model).error < 1e-5


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


def noise(*shape: int) -> Array:
    return builders.random(*shape, seed=9, scale=1e-3)


def test_the_function_stays() -> None:
    for kind, model in NETWORKS.items():
        verification = oc.condense(model, LOSSLESS).report.verification
        assert verification is not None
        assert verification.approximation_error < 1e-5, kind


def test_thresholds_take_only_what_is_exact() -> None:
    model = NETWORKS["gemm"]
    assert [factor.rank for factor in oc.condense(model, Options(threshold=0.88)).plan.factors] == [5]
    builders.set_weight(noisy := onnx.ModelProto.FromString(serialize(model)), "w", low(30, 40, rank=5) + noise(30, 40))
    assert not oc.condense(noisy, Options(threshold=0.88)).changed
    assert not oc.condense(noisy, LOSSLESS).changed


def test_a_plan_with_pairs_replays(tmp_path: Path) -> None:
    model = NETWORKS["table"]
    result = oc.condense(model, LOSSLESS)
    result.plan.save(tmp_path / "p.json")
    loaded = oc.Plan.load(tmp_path / "p.json")
    assert loaded.factors == result.plan.factors
    assert json.loads((tmp_path / "p.json").read_text())["version"] == 3
    assert serialize(oc.rewrite(model, loaded)) == serialize(oc.condense(model, replay=loaded).model)
    assert serialize(oc.rewrite(model, loaded)) == serialize(result.model)


@pytest.mark.parametrize("change", ["stretched", "short", "elsewhere"])
def test_a_damaged_basis_is_noticed(tmp_path: Path, change: str) -> None:
    model = NETWORKS["gemm"]
    plan = oc.condense(model, LOSSLESS).plan
    (factor,) = plan.factors
    changed = {
        "stretched": replace(factor, basis=2 * factor.basis),
        "short": replace(factor, basis=np.eye(7, 2, dtype=np.float32)),
        "elsewhere": replace(factor, node=1),
    }
    replace(plan, factors=(changed[change],)).save(tmp_path / "p.json")
    with pytest.raises(oc.PlanError):
        oc.rewrite(model, oc.Plan.load(tmp_path / "p.json"))


SHARED = "a = MatMul(x, w) b = MatMul(z, w) y = Softmax(a) u = Softmax(b)"

STAYING = {
    "shared": network(
        SHARED, "float[N, 40] x, float[N, 40] z", "float[N, 30] y, float[N, 30] u", w=low(40, 30, rank=5)
    ),
    "tiny": network("y = MatMul(x, w)", "float[N, 4] x", "float[N, 3] y", w=low(4, 3, rank=1)),
    "no smaller": network("y = MatMul(x, w)", "float[N, 40] x", "float[N, 30] y", w=low(40, 30, rank=18)),
}


@pytest.mark.parametrize("kind", STAYING)
def test_what_cannot_or_need_not_be_a_pair_stays(kind: str) -> None:
    assert not oc.condense(STAYING[kind], LOSSLESS).changed


WHOLE = {
    "window": network("y = Conv(x, w)", "float[N, 40, 6] x", "float[N, 30, 4] y", w=low(30, 40, 3, rank=5)),
    "groups": network("y = Conv<group = 2>(x, w)", "float[N, 40, 6] x", "float[N, 30, 6] y", w=low(30, 20, 1, rank=5)),
    "short": network(
        "y = MatMul(x, w)", "float16[N, 40] x", "float16[N, 30] y", w=low(40, 30, rank=5, kind=np.float16)
    ),
    "tiny": STAYING["tiny"],
    "shared": STAYING["shared"],
}


def test_a_weight_that_stays_whole_has_a_reason() -> None:
    found = {kind: [reason.reason for reason in oc.analyze(model).whole] for kind, model in WHOLE.items()}
    assert found == {
        "window": ["has kernels of several places"],
        "groups": ["is a convolution in groups"],
        "short": ["holds integers, or floats of 16 bits"],
        "tiny": ["is no smaller as a pair"],
        "shared": ["uses its weight for something else too"],
    }
    assert not oc.analyze(NETWORKS["gemm"]).whole


def test_pairs_and_merges_together() -> None:
    model = network(
        "h = Gemm<transB = 1>(x, w, b) r = Relu(h) s = Gemm<transB = 1>(r, v, c) y = Softmax(s)",
        "float[N, 40] x",
        "float[N, 30] y",
        w=builders.clustered(24, 40, 12),
        b=np.zeros(24, np.float32),
        v=low(30, 24, rank=3),
        c=builders.random(30),
    )
    result = oc.condense(model, LOSSLESS)
    assert [len(group.keep) for group in result.plan.groups] == [12]
    assert [factor.rank for factor in result.plan.factors] == [3]
    assert {value.shape for value in weights(result.model).values()} >= {(3, 12), (3, 30)}


def test_excluded_weights_stay() -> None:
    model = NETWORKS["gemm"]
    assert not oc.condense(model, replace(LOSSLESS, exclude=("w",))).changed


def test_pairs_are_compared_where_outputs_tell_nothing() -> None:
    model = network(
        "h = MatMul(x, w) y = ArgMax<axis = 1, keepdims = 0>(h)", "float[N, 40] x", "int64[N] y", w=low(40, 30, rank=5)
    )
    verification = oc.condense(model, LOSSLESS).report.verification
    assert verification is not None
    assert 0 < verification.inner_error < 1e-5
