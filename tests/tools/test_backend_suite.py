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
    "pytorch-converted/test_BatchNorm2d_eval", "simple/test_single_relu_model", "node/test_gemm_all_attributes",
    "node/test_lstm_defaults", "node/test_softmax_axis_1", "node/test_sequence_insert_at_back", "node/test_if",
)  # fmt: skip


@cache
def cases() -> Mapping[str, Any]:
    return {case.name: case for case in variants.cases()}


def test_the_suite_is_found_whole() -> None:
    found = cases()
    assert len(found) > 1500
    assert {name.partition("/")[0] for name in found} >= {"node", "light", "simple", "pytorch-converted"}


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
    frozen = variants.frozen(cases()["node/test_gemm_all_attributes"], 0)
    assert [tensor.name for tensor in frozen.model.graph.initializer] == ["b", "c"]
    value = numpy_helper.to_array(variants.planted(frozen, 0).model.graph.initializer[0])
    cosines = value @ value.T / np.outer(*[np.linalg.norm(value, axis=1)] * 2)
    assert (np.sum(np.triu(cosines, 1) > 1 - 1e-6)) >= len(value) // 2
    assert variants.frozen(cases()["node/test_abs"], 0) is None


def test_lines_are_counted_by_kind() -> None:
    one, other = (f"onnxruntime cannot load the model ({text}): convert it" for text in ("opset 26", "no kernel for X"))
    assert suite.kind_of(one) == suite.kind_of(other) == "onnxruntime cannot load the model"
