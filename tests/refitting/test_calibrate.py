"""Refitted consumers on calibration inputs: better than without, never much worse, exact where nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.cli import Cli, Save
from support.networks import error, images, residual
from support.planted.cases import planted_columns, planted_rows
from support.planted.net import Net

import onnx_condense as oc
from onnx_condense.model.protos import serialize

Data = np.ndarray[Any, Any]


def condensed(model: onnx.ModelProto, **options: Any) -> oc.Result:
    return oc.condense(model, oc.Options(threshold=0.8, align=1, include=("a1", "b1"), **options))


def test_more_inputs_lose_less_and_few_never_much_more() -> None:
    model = residual()
    free = error(model, condensed(model, merge="moments"))
    errors = {n: error(model, condensed(model, calibration={"x": images(n, 1)})) for n in (1, 6, 60)}
    assert errors[1] < 1.2 * free
    assert errors[6] < 1.1 * free
    assert errors[60] < 0.5 * free


def test_sources_and_verification() -> None:
    model = residual()
    result = condensed(model, calibration={"x": images(60, 1)})
    assert {r.source for r in result.plan.refits} == {"calibration"}
    assert [r.layer for r in result.plan.refits] == ["a1", "a2", "b1", "b2", "head"]
    verification = result.report.verification
    assert verification is not None
    assert verification.samples == 12
    assert not verification.generated
    other = condensed(model, calibration={"x": images(60, 1)}, data={"x": images(7, 2)})
    assert other.report.verification is not None
    assert other.report.verification.samples == 7


def test_the_same_bytes_again_and_from_the_plan(tmp_path: Path) -> None:
    model = residual()
    result = condensed(model, calibration={"x": images(20, 1)})
    assert serialize(condensed(model, calibration={"x": images(20, 1)}).model) == serialize(result.model)
    result.plan.save(tmp_path / "p.json")
    assert serialize(oc.rewrite(model, oc.Plan.load(tmp_path / "p.json"))) == serialize(result.model)


def test_exact_copies_are_not_refitted() -> None:
    net = Net(seed=3)
    rows, bias = planted_rows(net, "scaled", 3, 3, 3)
    hidden = net.node("Relu", net.conv("first", net.input("batch", 3, 8, 8), rows, bias))
    columns = planted_columns(net, "scaled", 4)
    model = net.build(net.conv("second", hidden, np.broadcast_to(columns[:, :, None, None], (4, 8, 3, 3)).copy()))
    result = oc.condense(model, oc.Options(threshold=0.9999, align=1, calibration={"x": images(20, 1)}))
    assert result.changed
    assert result.plan.refits == ()


@pytest.mark.parametrize("kind", ["gemm", "matmul", "flatten", "transposed", "fixed", "strided", "uneven"])
def test_every_kind_of_consumer(kind: str) -> None:
    net = Net(seed=8)
    rows = np.concatenate([mains := net.normal(6, 3, 3, 3), mains + 0.4 * net.normal(6, 3, 3, 3)])
    batch = 1 if kind == "fixed" else "batch"
    hidden = net.node("Relu", net.conv("first", net.input(batch, 3, 8, 8), rows, net.normal(12)))
    match kind:
        case "gemm":
            hidden = net.node("Flatten", net.node("GlobalAveragePool", hidden))
            model = net.build(net.dense("second", hidden, net.normal(5, 12), net.normal(5)))
        case "matmul":
            hidden = net.node("Transpose", hidden, perm=[0, 2, 3, 1])
            model = net.build(net.matmul("second", hidden, net.normal(5, 12), net.normal(5)))
        case "flatten":
            hidden = net.node("Flatten", net.node("MaxPool", hidden, kernel_shape=[3, 3], strides=[3, 3]))
            model = net.build(net.dense("second", hidden, net.normal(5, 48), net.normal(5)))
        case "transposed":
            kernels = net.constant(net.normal(12, 4, 2, 2), "second.weight")
            model = net.build(net.node("ConvTranspose", hidden, kernels, name="second", strides=[2, 2]))
        case "strided":
            model = net.build(net.conv("second", hidden, net.normal(4, 12, 1, 1), net.normal(4), strides=[2, 2]))
        case "uneven":
            sizes = {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]}
            model = net.build(net.conv("second", hidden, net.normal(4, 12, 3, 2), net.normal(4), **sizes))
        case _:
            model = net.build(net.conv("second", hidden, net.normal(4, 12, 3, 3), net.normal(4)))
    errors = {}
    for merge in ("ratio", "moments", "calibrated"):
        given = {"calibration": {"x": images(80, 1)}} if merge == "calibrated" else {}
        result = oc.condense(model, oc.Options(threshold=0.8, align=1, merge=merge, **given))
        assert result.report.groups[0].width_after < 12
        errors[merge] = error(model, result)
        assert bool(result.plan.refits) == (merge != "ratio")
    assert errors["calibrated"] < min(errors["ratio"], errors["moments"])


def test_command_line(cli: Cli, save: Save) -> None:
    save(residual())
    np.savez("inputs.npz", x=images(30, 1))
    np.savez("other.npz", x=images(30, 2))
    cli.ok("m.onnx", "--threshold", "0.8", "--align", "1", "--calibration", "inputs.npz", "--plan", "p.json")
    assert oc.Plan.load("p.json").refits
    cli.ok("m.onnx", "--replay", "p.json", "-o", "again.onnx")
    assert Path("again.onnx").read_bytes() == Path("m.condensed.onnx").read_bytes()
    protected = cli.fails(
        2, "m.onnx", "--calibration", "other.npz", "--calibration", "inputs.npz", "--plan", "inputs.npz", "--force"
    )
    assert "inputs.npz is an input" in protected
    assert "--calibration" in cli.fails(2, "m.onnx", "--merge", "calibrated", "--force")
    assert "--calibration" in cli.fails(2, "m.onnx", "--lossless", "--calibration", "inputs.npz", "--force")
    assert "--calibration" in cli.fails(2, "m.onnx", "--replay", "p.json", "--calibration", "inputs.npz", "--force")
