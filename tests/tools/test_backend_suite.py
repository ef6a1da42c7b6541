"""Some cases of the ONNX backend suite, by tools/backend_suite.py, which runs all."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper
from support import builders

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
suite: Any = importlib.import_module("backend_suite")
variants: Any = importlib.import_module("_backend_cases")

NAMES = (
    "pytorch-converted/test_Linear", "pytorch-converted/test_Conv2d_groups", "pytorch-converted/test_ConvTranspose2d",
    "pytorch-converted/test_BatchNorm2d_eval", "pytorch-operator/test_operator_addmm", "simple/test_single_relu_model",
    "simple/test_sequence_model1", "simple/test_shrink", "pytorch-operator/test_operator_conv",
)  # fmt: skip


@cache
def cases() -> Mapping[str, Any]:
    return {case.name: case for case in variants.cases(variants.ON_DISK)}


def test_the_suite_is_found() -> None:
    found = cases()
    assert len(found) > 100
    assert {name.partition("/")[0] for name in found} >= {"simple", "pytorch-converted", "pytorch-operator"}
    assert len([*variants.cases(["light"])]) == 9


@pytest.mark.parametrize("name", NAMES)
def test_cases(name: str, tmp_path: Path) -> None:
    for number, variant in enumerate(variants.variants(cases()[name], 0)):
        folder = tmp_path / str(number)
        folder.mkdir()
        for outcome, line in suite.condensed(variant, folder).values():
            assert outcome not in suite.FAULTS, (variant.name, line)


def test_a_layer_between_two_others_is_condensed(tmp_path: Path) -> None:
    case = variants.between(cases()["simple/test_single_relu_model"], False, 0)
    assert suite.condensed(case, tmp_path)["lossless"] == ("condensed", "equal")


def test_inputs_are_frozen_and_copies_planted() -> None:
    frozen = variants.frozen(cases()["pytorch-operator/test_operator_addmm"], 0)
    assert {tensor.name for tensor in frozen.model.graph.initializer} == {"1", "2"}
    linear = variants.planted(cases()["pytorch-converted/test_Linear"], 0).model
    value = next(numpy_helper.to_array(tensor) for tensor in linear.graph.initializer if len(tensor.dims) == 2)
    cosines = np.abs(value @ value.T) / np.outer(*[np.linalg.norm(value, axis=1)] * 2)
    assert (np.sum(np.triu(cosines, 1) > 1 - 1e-6)) >= len(value) // 2
    assert variants.frozen(cases()["simple/test_single_relu_model"], 0) is None


def test_lines_are_counted_by_kind() -> None:
    one, other = (f"onnxruntime cannot load the model ({text}): convert it" for text in ("opset 26", "no kernel for X"))
    assert suite.kind_of(one) == suite.kind_of(other) == "onnxruntime cannot load the model"


def crash(*arguments: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_crashes_a_child_goes_once_more_through_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    case = variants.Case("x", builders.mlp((2, 3, 1)), {}, {})
    monkeypatch.setattr(suite, "run", crash)
    monkeypatch.setattr(suite, "run_apart", lambda *arguments: suite.Ran(2, "onnx-condense: error: it crashes: x\n"))
    refused = ["refused", "it crashes: x"]
    assert suite.tried([case] * 2, 60, 4096) == [{"lossless": refused, "default": refused}] * 2
    monkeypatch.setattr(suite, "run_apart", crash)
    assert suite.tried([case], 60, 4096)[0]["default"] == ("crashed", "crashed: signal 9 (SIGKILL)")


def test_a_run_goes_on_where_one_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def tried(models: list[Any], seconds: float, megabytes: int) -> list[dict[str, Any]]:
        ran.extend(model.name for model in models if model.variant == "as it is")
        return [{"default": ("kept", "")} for _ in models]

    monkeypatch.setattr(suite, "cases", lambda: cases().values())
    monkeypatch.setattr(suite, "tried", tried)
    rows, document = tmp_path / "rows", tmp_path / "document"
    for pattern in ("simple/test_s[h-i]*", "simple/test_s*"):
        arguments = ["--only", pattern, "--rows", rows, "--json", document]
        monkeypatch.setattr(sys, "argv", ["backend_suite.py", *map(str, arguments)])
        assert suite.main() == 0
    assert len(ran) == len({*ran}) == json.loads(document.read_text())["cases"] > 3
