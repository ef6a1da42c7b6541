"""What options say, and which are refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from onnx_condense import Options, UsageError
from onnx_condense.options import DEFAULT_THRESHOLD, INSPECT_THRESHOLDS


def test_defaults_are_the_contracts() -> None:
    assert DEFAULT_THRESHOLD == 0.88
    assert INSPECT_THRESHOLDS == (0.999, 0.95, 0.88, 0.7)
    options = Options()
    assert (options.method, options.depthwise, options.align, options.seed) == ("auto", "joint", "auto", 0)
    assert not (options.lossless)
    assert not (options.sequential)
    assert not (options.fold_batchnorm)
    assert options.open
    assert options.to_json()["threshold"] is None
    assert Options(tolerance=0.1).to_json()["threshold"] == 0.88


def test_without_an_option_that_says_how_much_one_percent_of_the_outputs_may_change() -> None:
    assert Options(merge="ratio").settled().budget == ("error", 0.01)
    for other in ({"sequential": True}, {"ensure_faster": True}):
        assert Options(**other).settled().tolerance == 0.01
    for stated in ({"threshold": 0.9}, {"lossless": True}, {"layer_threshold": (("x", 0.9),)}, {"tolerance": 0.1}):
        assert Options(**stated).settled() == Options(**stated)


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.0},
        {"threshold": -0.1},
        {"threshold": 1.1},
        {"threshold": float("nan")},
        {"layer_threshold": (("fc*", 0.0),)},
        {"layer_threshold": (("fc*", 0.9), ("fc0", 2.0))},
        {"lossless": True, "threshold": 0.9},
        {"lossless": True, "threshold": 0.88},
        {"lossless": True, "merge": "auto"},
        {"lossless": True, "layer_threshold": (("fc*", 0.9),)},
        {"merge": "average"},
        {"depthwise": "both"},
        {"align": 0},
        {"align": -8},
        {"align": "some"},
        {"align": 2.5},
        {"tolerance": -1e-3},
        {"tolerance": float("nan")},
    ],
    ids=str,
)
def test_contradictions_are_refused_with_the_options_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as refused:
        Options(**wrong)
    assert next(iter(wrong)).split("_")[-1] in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("value", [1, 1.0, 1e-9, 0.5])
def test_thresholds_within_range(value: float) -> None:
    assert Options(threshold=value).to_json()["threshold"] == value


@pytest.mark.parametrize(
    ("options", "method"),
    [
        (Options(), "auto"),
        (Options(merge="auto"), "auto"),
        (Options(merge="ratio"), "ratio"),
        (Options(merge="delete", threshold=0.5), "delete"),
        (Options(lossless=True), "lossless"),
    ],
)
def test_method(options: Options, method: str) -> None:
    assert options.method == options.to_json()["merge"] == method


def test_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Options().threshold = 0.5  # type: ignore[misc]


def test_json_names_every_option_but_the_inputs() -> None:
    options = Options(
        layer_threshold=(("fc0", 0.9),),
        include=("fc*",),
        input_shape={"x": (1, 8)},
        data={"x": np.ones((2, 8))},
        tolerance=0.1,
    )
    untold = {"data", "calibration", "input_range", "latency_for", "threads", "batch"}
    content = options.to_json()
    assert content.keys() == {f.name for f in dataclasses.fields(Options)} - untold
    assert json.loads(json.dumps(content)) == content
    assert content["layer_threshold"] == [["fc0", 0.9]]
    assert content["input_shape"] == {"x": [1, 8]}
    assert Options(lossless=True).to_json()["threshold"] is None
