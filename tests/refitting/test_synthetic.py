"""Refitted consumers without data: what is exact stays exact, what is not loses less than by deletion and by ratios."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.planted.cases import planted_columns, planted_rows
from support.planted.net import Net

import onnx_condense as oc
from onnx_condense.model.protos import serialize
from onnx_condense.refitting.synthetic import synthetic


def noisy_conv(normalized: bool, noise: float = 0.3, seed: int = 5) -> onnx.ModelProto:
    """Two convolutions; of 24 channels 12 are noisy scaled copies of others."""
    net = Net(seed=seed)
    mains = net.normal(12, 3, 3, 3)
    scales = net.rng.uniform(0.5, 2, (12, 1, 1, 1)).astype(np.float32)
    rows = np.concatenate([mains, scales * (mains + noise * net.normal(12, 3, 3, 3))])
    hidden = net.conv("first", net.input("batch", 3, 12, 12), rows, None if normalized else np.zeros(24), pads=[1] * 4)
    if normalized:
        size = np.linalg.norm(rows.reshape(24, -1), axis=1)
        hidden = net.batchnorm(hidden, net.rng.uniform(0.5, 1.5, 24), net.normal(24) * 0.3, np.zeros(24), size**2)
    hidden = net.node("Relu", hidden)
    hidden = net.conv("second", hidden, net.normal(6, 24, 3, 3), net.normal(6), pads=[1] * 4)
    return net.build(hidden)


def test_a_fixed_batch_gets_as_many_samples() -> None:
    model = noisy_conv(True)
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    plans = [oc.condense(m, oc.Options(threshold=0.85, align=1)).plan for m in (model, fixed)]
    np.testing.assert_allclose(plans[0].refits[0].weight, plans[1].refits[0].weight, rtol=1e-4, atol=1e-5)


def test_a_reshape_to_a_stated_batch_keeps_samples_apart() -> None:
    """[1, -1] makes one sample of as many as are fed; what the layer behind it reads is still one sample's."""

    def network(stated: int) -> onnx.ModelProto:
        net = Net(seed=3)
        hidden = net.node("Relu", net.dense("first", net.input("batch", 10), net.normal(24, 10), net.normal(24)))
        hidden = net.node("Reshape", hidden, net.constant(np.array([stated, -1 if stated > 0 else 24])))
        return net.build(net.dense("head", hidden, net.normal(5, 24), net.normal(5)))

    model = network(1)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    options = oc.Options(threshold=0.5, align=1, merge="moments")
    (refit,), (same,) = (oc.condense(m, options).plan.refits for m in (model, network(-1)))
    np.testing.assert_allclose(refit.weight, same.weight, rtol=1e-4, atol=1e-5)


def test_tensors_may_have_any_name() -> None:
    """Also one that a model which takes the statistics of its batch would give to a tensor of its own."""
    model = noisy_conv(True)
    expected = oc.condense(model, oc.Options(threshold=0.85, align=1)).plan.refits
    for index in range(len(model.graph.node)):
        for name in (f"__turned_{index}", f"__batch_{index}_turned"):
            named = onnx.ModelProto()
            named.CopyFrom(model)
            for node in named.graph.node:
                node.input[:] = [name if given == "x" else given for given in node.input]
            named.graph.input[0].name = name
            found = oc.condense(named, oc.Options(threshold=0.85, align=1)).plan.refits
            np.testing.assert_array_equal(found[0].weight, expected[0].weight)


def lost(model: onnx.ModelProto, data: np.ndarray, **options: Any) -> tuple[float, oc.Result]:
    result = oc.condense(model, oc.Options(align=1, **options), replay=None)
    return oc.verify(model, result.model, {"x": data}).outputs[0].relative_l2, result


@pytest.mark.parametrize("normalized", [True, False])
def test_moments_lose_less_than_ratios_and_deletion(normalized: bool) -> None:
    model = noisy_conv(normalized)
    data = synthetic({"x": np.zeros((1, 3, 12, 12), dtype=np.float32)}, 16, seed=9)["x"]
    errors = {m: lost(model, data, threshold=0.6, merge=m) for m in ("moments", "ratio", "delete")}
    widths = {m: [g.width_after for g in r.report.groups] for m, (_, r) in errors.items()}
    assert widths["moments"] == widths["ratio"] == widths["delete"] != [24]
    assert errors["moments"][0] < 0.8 * errors["ratio"][0] < errors["delete"][0]
    (refit,) = errors["moments"][1].plan.refits
    assert (refit.layer, refit.source) == ("second", "batch-normalization" if normalized else "weights")
    assert refit.weight.shape == (6, widths["moments"][0], 3, 3)
    assert refit.weight.dtype == np.float32


def test_exact_copies_stay_exact_and_are_not_refitted() -> None:
    net = Net(seed=3)
    rows, bias = planted_rows(net, "scaled", 3, 3, 3)
    hidden = net.node("Relu", net.conv("first", net.input("batch", 3, 9, 9), rows, bias))
    columns = planted_columns(net, "scaled", 4)
    kernels = np.repeat(columns[:, :, None, None], 3, axis=2).repeat(3, axis=3)
    model = net.build(net.conv("second", hidden, kernels))
    result = oc.condense(model, oc.Options(merge="moments", threshold=0.9999, align=1))
    assert result.report.groups[0].width_after < 8
    assert result.plan.refits == ()
    ratio = oc.condense(model, oc.Options(merge="ratio", threshold=0.9999, align=1))
    assert [list(t.dims) for t in result.model.graph.initializer] == [
        list(t.dims) for t in ratio.model.graph.initializer
    ]
    assert result.report.verification is not None
    assert result.report.verification.approximation_error < 1e-5


def test_a_plan_with_refits_replays_to_the_same_bytes(tmp_path: Path) -> None:
    model = noisy_conv(True)
    result = oc.condense(model, oc.Options(threshold=0.85, align=1))
    again = oc.condense(model, oc.Options(threshold=0.85, align=1))
    assert result.plan.refits
    assert serialize(again.model) == serialize(result.model)
    result.plan.save(tmp_path / "p.json")
    loaded = oc.Plan.load(tmp_path / "p.json")
    assert loaded.refits == result.plan.refits
    assert loaded.groups == result.plan.groups
    assert serialize(oc.rewrite(model, loaded)) == serialize(result.model)
    assert serialize(oc.condense(model, replay=loaded).model) == serialize(result.model)


@pytest.mark.parametrize("change", ["weight", "shift", "node"])
def test_refits_that_do_not_fit_are_refused(change: str) -> None:
    model = noisy_conv(True)
    plan = oc.condense(model, oc.Options(threshold=0.85, align=1)).plan
    (refit,) = plan.refits
    wrong = {
        "weight": dataclasses.replace(refit, weight=refit.weight[:, 1:]),
        "shift": dataclasses.replace(refit, shift=refit.shift[1:]),
        "node": dataclasses.replace(refit, node=0),
    }[change]
    with pytest.raises(oc.PlanError, match="plan it again"):
        oc.rewrite(model, dataclasses.replace(plan, refits=(wrong,)))


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "Sigmoid", "Gelu"])
def test_a_dense_network_without_statistics(activation: str) -> None:
    """On inputs like those that were assumed, no activation makes moments worse than ratios."""
    net = Net(seed=11, opset=20)
    mains = net.normal(16, 10)
    rows = np.concatenate([mains, mains + 0.3 * net.normal(16, 10)])
    hidden = net.node(activation, net.dense("first", net.input("batch", 10), rows, 0.1 * net.normal(32)))
    model = net.build(net.dense("second", hidden, net.normal(5, 32), net.normal(5)))
    data = np.random.default_rng(1).standard_normal((400, 10)).astype(np.float32)
    errors = {m: lost(model, data, threshold=0.85, merge=m)[0] for m in ("moments", "ratio", "delete")}
    assert errors["moments"] < min(errors["ratio"], errors["delete"])
