"""The report: its schema, and that every number in it is true."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support import builders
from support.cli import Cli, Save, snapshot

import onnx_condense as oc
from onnx_condense.documents import finite
from onnx_condense.operators.queries import count_parameters

FACTS = {"path", "sha256", "bytes", "parameters", "parameters_with_running_statistics", "macs"}


def reported(cli: Cli, *arguments: str) -> dict[str, Any]:
    """The report of a run, read as strict JSON."""
    cli.ok("m.onnx", "--report", "r.json", *arguments)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    content: dict[str, Any] = json.loads(Path("r.json").read_text(), parse_constant=refuse)
    return content


def test_schema(cli: Cli, save: Save) -> None:
    save(builders.convnet((3, 16, 16), clusters=5))
    report = reported(cli, "--threshold", "0.9", "--align", "4")
    assert report["format"] == "onnx-condense-report"
    assert report["version"] == 1
    assert report["tool"] == {"name": "onnx-condense", "version": oc.__version__}
    assert report["input"].keys() >= FACTS
    assert report["output"].keys() >= FACTS
    assert report["options"]["threshold"] == 0.9
    assert report["alignment"]["multiple"] == 4
    assert report["alignment"]["held_back"] == 6
    assert "--align 1" in report["alignment"]["advice"]
    assert "conv0" in report["alignment"]["advice"]
    assert len(report["groups"][0]["held_back_channels"]) == 3
    assert [g["layers"] for g in report["groups"]] == [["conv0"], ["conv1"]]
    assert {
        "width_before": 16,
        "width_after": 8,
        "threshold": 0.9,
        "method": "auto",
        "held_back": 3,
    }.items() <= report["groups"][0].items()
    assert report["groups"][0]["highest_cosine"] == pytest.approx(1, abs=1e-6)
    assert report["groups"][0]["lowest_merged_cosine"] == pytest.approx(1, abs=1e-6)
    assert {"reason", "layers", "parameters"} <= report["refusals"][0].keys()
    verification = report["verification"]
    assert 0 <= verification["surgery_error"] <= verification["surgery_limit"] < 1e-3
    assert verification["surgery_limit"] >= 1e-5
    (output,) = verification["outputs"]
    assert output["name"] == "y"
    assert {"relative_l2", "max_abs", "cosine", "top1_agreement"} <= output.keys()
    assert output["top1_agreement"] is None, "nothing says that y are classes"
    assert output["cosine"] == pytest.approx(1)
    assert {"load", "trace", "plan", "rewrite", "verify"} <= report["seconds"].keys()
    assert all(0 <= seconds < 60 for seconds in report["seconds"].values())
    assert report["warnings"] == []


def test_files_are_described_as_they_are(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    report = reported(cli)
    for side, name in (("input", "m.onnx"), ("output", "m.condensed.onnx")):
        path = cli.folder / name
        assert report[side]["sha256"] == snapshot(cli.folder)[name]
        assert report[side]["bytes"] == path.stat().st_size
        assert Path(report[side]["path"]).resolve() == path.resolve()


def test_external_files_count(cli: Cli) -> None:
    model = builders.mlp((40, 64, 3), clusters=16)
    onnx.save(model, "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=100)
    report = reported(cli)
    for side, name in (("input", "m.onnx"), ("output", "m.condensed.onnx")):
        (data,) = cli.folder.glob(f"{name}*.data")
        assert report[side]["bytes"] == (cli.folder / name).stat().st_size + data.stat().st_size


@pytest.mark.parametrize("batch", ["N", "1", "5"])
def test_parameters_and_macs_of_an_mlp(batch: str) -> None:
    report = oc.condense(builders.mlp((8, 16, 3), clusters=4, batch=batch)).report
    assert report.output is not None
    assert (report.input.parameters, report.output.parameters) == (
        8 * 16 + 16 + 16 * 3 + 3,
        8 * 4 + 4 + 4 * 3 + 3,
    )
    samples = 5 if batch == "5" else 1
    assert report.input.macs in (samples * (8 * 16 + 16 * 3), 8 * 16 + 16 * 3)
    assert report.input.macs * (8 * 4 + 4 * 3) == report.output.macs * (8 * 16 + 16 * 3)


def test_parameters_and_macs_of_a_conv_net() -> None:
    model = builders.convnet((3, 8, 8), classes=5, clusters=4, ratios=False, batchnorm=True)
    report = oc.condense(model, oc.Options(align=1)).report
    assert report.output is not None
    for facts, width in ((report.input, 8), (report.output, 4)):
        weights = 27 * width + 9 * width * width + 5 * width + 5
        assert facts.parameters == weights + 2 * 2 * width
        assert facts.parameters_with_running_statistics == facts.parameters + 2 * 2 * width
        assert facts.macs == 64 * (27 * width + 9 * width * width) + 5 * width


def test_parameters_and_macs_of_depthwise_stages() -> None:
    report = oc.condense(builders.separable(8, 4, size=6), oc.Options(align=1)).report
    assert report.output is not None
    for facts, width in ((report.input, 8), (report.output, 4)):
        assert facts.parameters == 5 * width + 10 * width + 4 * width + 4
        assert facts.macs == 36 * (4 * width + 9 * width + 4 * width)


def test_what_counts_as_a_parameter() -> None:
    """Float initializers and Constants of rank >= 1, tied ones once; neither scalars nor integers."""
    text = """g (float[N, 4] x) => (float[N, 6] y) {
        a = MatMul(x, w)
        b = MatMul(a, w)
        c = Mul(b, scalar)
        d = Add(c, constant)
        y = Gather<axis = 1>(d, ids)
    }"""
    weights: builders.Weights = {
        "w": builders.random(4, 4),
        "scalar": np.float32(2),
        "ids": np.arange(4).repeat(2)[:6],
    }
    model = builders.build(text, weights, check=False)
    value = numpy_helper.from_array(builders.random(4), "value")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["constant"], value=value))
    onnx.checker.check_model(model, full_check=True)
    assert count_parameters(model.graph) == (16 + 4, 16 + 4)


def test_a_constant_list_of_floats_is_a_parameter() -> None:
    model = builders.build(
        "g (float[N, 3] x) => (float[N, 3] y) { c = Constant<value_floats = [1.0, 2.0, 3.0]>() y = Add(x, c)}"
    )
    assert count_parameters(model.graph) == (3, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float32("nan"), np.float64("inf")])
def test_non_finite_numbers_are_null(value: float) -> None:
    assert finite({"a": [1.5, value, (value, 2)], "b": {"c": value}, "d": "nan", "e": None, "f": True}) == {
        "a": [1.5, None, [None, 2]],
        "b": {"c": None},
        "d": "nan",
        "e": None,
        "f": True,
    }


def test_a_report_with_non_finite_numbers_is_strict_json() -> None:
    report = oc.condense(builders.mlp((8, 16, 3), clusters=4)).report
    assert report.verification is not None
    broken = dataclasses.replace(report.verification, approximation_error=float("inf"))
    content = dataclasses.replace(report, verification=broken).to_json()
    assert json.loads(json.dumps(content, allow_nan=False))["verification"]["approximation_error"] is None


def test_a_layer_of_one_channel_has_a_finite_report(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 1, 3)))
    assert [g["width_after"] for g in reported(cli, "--threshold", "0.01")["groups"]] in ([], [1])


def test_nothing_to_condense_is_still_verified(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 8, 3)))
    report = reported(cli)
    assert report["verification"]["approximation_error"] == report["verification"]["surgery_error"] == 0
    assert report["groups"][0]["lowest_merged_cosine"] is None
    assert report["groups"][0]["highest_cosine"] < 0.6


def test_changed() -> None:
    assert oc.condense(builders.mlp((8, 16, 3), clusters=4)).report.changed
    assert not oc.condense(builders.mlp((8, 8, 3))).report.changed


def test_axes_of_the_inputs(cli: Cli, save: Save) -> None:
    """The sizes that each took; what could not be varied is said on the terminal, too."""
    text = "g (float[N, L] x) => (float[N, 2] y) { [a] h = MatMul(x, w) r = Relu(h) [b] y = MatMul(r, v) }"
    weights = {"w": builders.random(16, 8), "v": builders.random(8, 2)}
    model = builders.build(text, weights, check=False)
    save(model)
    axes = reported(cli)["axes"]
    assert axes == [{"input": "x", "axis": 0, "name": "N", "sizes": [16, 7, 17], "varied": True}]
    text = "g (float[N, B, 16] x) => (float[N, 2] y) { s = Squeeze(x, one) h = MatMul(s, w) y = MatMul(h, v) }"
    save(builders.build(text, weights | {"one": np.array([1])}, check=False))
    axes = reported(cli, "--force")["axes"]
    assert [(axis["name"], axis["varied"]) for axis in axes] == [("N", True), ("B", False)]
    assert set(axes[1]["sizes"]) == {1}
    for command in (("m.onnx", "--force"), ("inspect", "m.onnx")):
        assert "Sizes of the inputs that could not be varied: x[1] (B)" in cli.ok(*command).out
