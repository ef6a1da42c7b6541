"""The combustion experiment, end to end at toy size, and the mathematics of its rooms."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_condense.operators.queries import count_parameters

pytest.importorskip("torch")
pytest.importorskip("cantera")

EXPERIMENTS = Path(__file__).parents[2] / "tools" / "experiments"
sys.path.insert(0, str(EXPERIMENTS))
_chemistry = importlib.import_module("_chemistry")
_surrogate = importlib.import_module("_surrogate")

WIDTHS = (6, 20, 16, 6)


def test_states_come_back_from_their_features() -> None:
    states = np.random.default_rng(0).dirichlet(np.ones(5), 4)
    states = np.column_stack([np.full(4, 1500.0), np.full(4, 1e5), states])
    np.testing.assert_allclose(_chemistry.states_of(_chemistry.features(states)), states)


def network(path: Path) -> Path:
    scaling = _surrogate.Scaling.of(np.random.default_rng(0).random((9, 6)), np.random.default_rng(1).random((9, 6)))
    _surrogate.exported(_surrogate.layered(WIDTHS, 0.5, 0), WIDTHS[0], path, scaling)
    return path


@pytest.mark.parametrize("share", [0.9, 0.7])
def test_svd_meets_its_share(tmp_path: Path, share: float) -> None:
    source, target = network(tmp_path / "a.onnx"), tmp_path / "b.onnx"
    _surrogate.factored(source, target, share)
    whole, left = (count_parameters(onnx.load(path).graph)[0] for path in (source, target))
    assert 0.8 * share * whole < left <= share * whole


def test_svd_that_cuts_nothing_is_the_network(tmp_path: Path) -> None:
    source, target = network(tmp_path / "a.onnx"), tmp_path / "b.onnx"
    _surrogate.factored(source, target, 1.0)
    x = np.random.default_rng(2).standard_normal((8, 6)).astype(np.float32)
    zeros = np.zeros((8, 6), np.float32)
    assert _surrogate.loss_of(target, x, zeros) == pytest.approx(_surrogate.loss_of(source, x, zeros), rel=1e-5)


def test_the_experiment_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(EXPERIMENTS / "combustion.py"), "--toy", "--work", str(tmp_path / "work")]
    command += ["--mechanism", "h2o2.yaml", "--fuel", "H2", "--seconds", "0.1", "--json", str(tmp_path / "all.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=EXPERIMENTS.parents[1])
    assert "judged-svd-tuned-0.8" in done.stdout
    stages = json.loads((tmp_path / "all.json").read_text())["stages"]
    assert stages["paper-3"]["parameters"] <= stages["original"]["parameters"]
    assert stages["untrained-0.5"]["share"] <= 0.5
    assert len(stages["judged-tuned-0.5"]["delays"]) == 1
