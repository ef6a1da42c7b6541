"""Some cases of the ONNX backend suite, by tools/backend_suite.py, which runs all."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

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
