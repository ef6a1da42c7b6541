"""tools/benchmark_scaling.py: a row of a run, and its picture; rows of other sweeps stay."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
_scaling: Any = importlib.import_module("benchmark_scaling")


def test_rows_of_other_sweeps_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(_scaling.SWEEPS["samples"], values=(8,))
    monkeypatch.setattr(_scaling, "SWEEPS", {**_scaling.SWEEPS, "samples": small})
    rows = tmp_path / "rows.json"
    there = {"sweep": "nodes", "value": 999, "cpu": 1.0, "peak_mb": 100, "code": 0}
    rows.write_text(json.dumps({"rows": [there, {**there, "sweep": "samples", "value": 64}]}))
    assert _scaling.main(["--sweeps", "samples", "--json", str(rows)]) == 0
    known, made = json.loads(rows.read_text())["rows"]
    assert known == there
    assert (made["sweep"], made["value"], made["code"]) == ("samples", 8, 0)
    assert made["cpu"] > 0
