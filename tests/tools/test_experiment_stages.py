"""Stages of the experiments run once, and not with other settings."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from onnx_condense.errors import UsageError

sys.path.insert(0, str(Path(__file__).parents[2] / "tools" / "experiments"))
_stages = importlib.import_module("_stages")


def test_a_stage_runs_once(tmp_path: Path) -> None:
    ran = []
    for _ in range(2):
        work = _stages.Work(tmp_path, {"widths": (3, 2)})
        facts = work.stage("first", lambda: ran.append(1) or {"loss": 0.5})
        assert facts["loss"] == 0.5
    assert ran == [1]
    found = work.collected(["first", "second"])
    assert list(found["stages"]) == ["first"]
    assert found["settings"] == {"widths": [3, 2]}


def test_a_stage_that_failed_left_nothing(tmp_path: Path) -> None:
    work = _stages.Work(tmp_path, {})
    with pytest.raises(ZeroDivisionError):
        work.stage("first", lambda: {"loss": 1 / 0})
    assert work.found("first") is None


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    _stages.Work(tmp_path, {"seed": 0}).stage("first", dict)
    with pytest.raises(UsageError, match="other settings"):
        _stages.Work(tmp_path, {"seed": 1}).stage("first", dict)
