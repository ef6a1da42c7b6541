"""Layers behind changed ones are refitted, whether they lost channels or not: depthwise kernels and pairs too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.networks import images
from support.planted.net import Net
from support.proofs import merged

import onnx_condense as oc
from onnx_condense.errors import PlanError
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.factors import Factor
from onnx_condense.merging.twin import Twin
from onnx_condense.model.protos import serialize
from onnx_condense.refitting import calibrate as calibrating
from onnx_condense.refitting.moments import Sums
from onnx_condense.refitting.ranked import Pair
from onnx_condense.rewriting.writer import write

OPTIONS = oc.Options(threshold=0.8, align=1, include=("first",), calibration={"x": images(200, 1)})


def module(kind: str = "normalized", ends: bool = False) -> onnx.ModelProto:
    """A layer of noisy copies, and behind what reads it a depthwise convolution and two others that lose nothing.

    ends: with the depthwise one.
    """
    net = Net(seed=12)
    mains = net.normal(6, 3, 3, 3)
    rows = np.concatenate([mains, mains + 0.5 * net.normal(6, 3, 3, 3)])
    hidden = net.node("Relu", net.conv("first", net.input("batch", 3, 8, 8), rows, net.normal(12), pads=[1] * 4))
    made = net.node("Tanh", net.conv("second", hidden, 0.05 * net.normal(7, 12, 3, 3), net.normal(7), pads=[1] * 4))
    twice = 2 if kind == "twice" else 1
    bias = net.normal(7 * twice) if kind != "normalized" else None
    made = net.conv("depth", made, net.normal(7 * twice, 1, 3, 3), bias, group=7, pads=[1] * 4, strides=[2, 1])
    if kind == "normalized":
        made = net.batchnorm(made, net.normal(7), net.normal(7), net.normal(7), np.full(7, 4.0))
    if ends:
        return net.build(made)
    made = net.node("Relu", net.conv("third", net.node("Relu", made), net.normal(5, 7 * twice, 1, 1), net.normal(5)))
    return net.build(net.dense("head", net.node("Flatten", net.node("GlobalAveragePool", made)), net.normal(4, 5)))


def error(model: onnx.ModelProto, small: onnx.ModelProto) -> float:
    return oc.verify(model, small, {"x": images(40, 99)}).outputs[0].relative_l2


@pytest.mark.parametrize("kind", ["normalized", "biased", "twice"])
def test_depthwise_kernels_make_up_for_what_they_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = module(kind, ends=True)
    result = oc.condense(model, OPTIONS)
    assert {r.layer for r in result.plan.refits if r.source == "calibration"} >= {"second", "depth"}
    result.plan.save(tmp_path / "p.json")
    assert serialize(oc.rewrite(model, oc.Plan.load(tmp_path / "p.json"))) == serialize(result.model)
    monkeypatch.setattr(calibrating, "filters", lambda twin: [])
    assert error(model, result.model) < 0.995 * error(model, oc.condense(model, OPTIONS).model)


def test_layers_that_lost_nothing_make_up_for_what_they_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = module()
    result = oc.condense(model, OPTIONS)
    assert "third" in {r.layer for r in result.plan.refits}
    monkeypatch.setattr(calibrating, "others", lambda twin: [])
    assert error(model, result.model) < 0.98 * error(model, oc.condense(model, OPTIONS).model)


def test_what_stands_before_all_changes_stays() -> None:
    result = oc.condense(
        module(), oc.Options(threshold=0.8, align=1, include=("third",), calibration=OPTIONS.calibration)
    )
    assert {r.layer for r in result.plan.refits} <= {"head", "third"}


def test_pairs_of_factors_are_refitted_in_a_basis_of_their_own(tmp_path: Path) -> None:
    model = module()
    twin, calibration = merged(model, oc.condense(model, OPTIONS).plan, OPTIONS)
    twin = Twin(twin.trace)
    node = next(i for i, n in enumerate(twin.trace.facts.nodes) if n.name == "third")
    basis = np.linalg.svd(twin.weight(node, 1)[:, :, 0, 0])[0][:, :2]
    twin.factor(Factor(node, 1, "third", Evidence.WEIGHTS, basis))
    before = error(model, write(twin, {}).model)
    calibrating.calibrate(twin, calibration, 0, lambda stage: None)
    assert twin.factors[node, 1].source is Evidence.CALIBRATION
    assert twin.factors[node, 1].rank == 2
    assert error(model, write(twin, {}).model) < 0.8 * before
    again = Twin(twin.trace)  # as a plan is replayed
    again.refit(twin.refits[node, 1])
    again.factor(twin.factors[node, 1])
    held = twin.weight(node, 1)[:, :, 0, 0]
    np.testing.assert_array_equal(again.weight(node, 1)[:, :, 0, 0], held)
    assert np.linalg.svd(held)[1][2] < 1e-5 * np.linalg.svd(held)[1][0]


@pytest.mark.parametrize(("outputs", "inputs"), [(4, 9), (9, 4)])
def test_the_nearest_weight_of_a_rank(outputs: int, inputs: int) -> None:
    rng = np.random.default_rng(outputs)
    x, weight = (
        rng.standard_normal((300, inputs)) @ rng.standard_normal((inputs, inputs)),
        rng.standard_normal((outputs, inputs)),
    )
    metric = rng.uniform(0.1, 3, outputs)
    sums = Sums(inputs, outputs)
    sums.add(x, x @ weight.T)
    found = Pair(weight, weight, 2, metric).nearest(weight, sums.moments(centred=False), 0.0)
    u, s, v = np.linalg.svd((x @ weight.T) * metric, full_matrices=False)
    np.testing.assert_allclose((x @ found.T) * metric, (u[:, :2] * s[:2]) @ v[:2], atol=1e-8 * s[0])


def test_numbers_of_channels_that_do_not_fit_are_refused() -> None:
    model = module()
    plan = oc.condense(model, OPTIONS).plan
    refits = [r for r in plan.refits if r.layer == "depth"]
    assert len(refits) == 1
    for changed in ({"weight": refits[0].weight[:-1]}, {"shift": np.zeros(7)}, {"input": 2}):
        other = oc.Plan(**{**vars(plan), "refits": (_with(refits[0], changed),)})
        with pytest.raises(PlanError, match="does not fit"):
            oc.rewrite(model, other)


def _with(refit: Any, changed: dict[str, Any]) -> Any:
    return type(refit)(**{**vars(refit), **changed})


def alone(kind: str) -> onnx.ModelProto:
    """Noisy copies, and a normalization behind a sum, so that no layer can take up what it should multiply."""
    net = Net(seed=3)
    rows = np.concatenate([mains := net.normal(6, 6), mains + 0.8 * net.normal(6, 6)])
    data = net.input("batch", 6)
    hidden = net.node("Relu", net.dense("first", data, rows, net.normal(12)))
    made = net.node("Tanh", net.dense("second", hidden, net.normal(6, 12)))
    total = net.node("Add", net.node("Tanh", net.dense("other", data, net.normal(6, 6))), made)
    if kind == "batch":
        return net.build(net.batchnorm(total, net.normal(6), net.normal(6), net.normal(6), np.full(6, 2.0)))
    parameters = [net.constant(net.normal(6)) for _ in range(1 if kind == "unshifted" else 2)]
    return net.build(net.node("LayerNormalization", total, *parameters, name="norm"))


@pytest.mark.parametrize("kind", ["batch", "layer", "unshifted"])
def test_normalizations_that_follow_no_layer(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rng = alone(kind), np.random.default_rng(0)
    x = [rng.standard_normal((400, 6)).astype(np.float32) for _ in range(2)]
    options = oc.Options(threshold=0.8, align=1, include=("first",), calibration={"x": x[0]})
    result = oc.condense(model, options)
    assert len([r for r in result.plan.refits if r.layer not in ("first", "second")]) == (
        1 if kind == "unshifted" else 2
    )
    assert serialize(oc.rewrite(model, result.plan)) == serialize(result.model)
    monkeypatch.setattr(calibrating, "filters", lambda twin: [])
    plain = oc.condense(model, options)
    errors = [oc.verify(model, each.model, {"x": x[1]}).outputs[0].relative_l2 for each in (result, plain)]
    assert errors[0] < errors[1]
