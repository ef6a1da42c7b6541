"""docs/experiments.md says what the experiments left; rows that have not run are not there."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "tools" / "experiments"
sys.path[:0] = [str(EXPERIMENTS), str(ROOT / "tools")]
report = importlib.import_module("report")


def test_the_document_is_fresh() -> None:
    done = subprocess.run([sys.executable, EXPERIMENTS / "report.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_has_not_run_has_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    stages: dict[str, Any] = {
        "tuned-0.115": {"share": 0.115, "held": 0.8, "log": [{}, {}]},
        "torch-pruning-0.115": {"share": 0.115, "held": 0.1},
        "merged-0-0.3": {"share": 0.3, "held": 0.5},
        "merged-64-0.2": {"share": 0.2, "held": 0.4},
    }
    monkeypatch.setattr(report, "content", lambda name: {"stages": stages})
    assert report.trainings()[2:] == [
        "| ours, trained on labels | 11.5% | 2 | 80.0 |  |",
        "| Torch-Pruning, not trained | 11.5% | 0 | 10.0 |  |",
    ]
    assert report.merges() == [
        "| parameters | no data | 64 images |",
        "| --- | --- | --- |",
        "| 30.0% | 50.0 |  |",
        "| 20.0% |  | 40.0 |",
    ]
    assert report.reductions() == [report.UNDONE]
