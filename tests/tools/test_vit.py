"""The vision transformer's experiment, end to end at toy size (its peers where they are installed)."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
MADE = ("start", "merged-0-0.7", "merged-32-0.7", "channels-32-0.7", "svd-0.7")
PEERS = ("torch-pruning-0.7", "onnxsim-0.7")
INSTALLED = all(importlib.util.find_spec(name) for name in ("torch_pruning", "onnxsim"))


def test_the_experiment_runs(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    sizes = {"train": 96, "test": 24}
    arrays = {f"{part}_x": generator.integers(0, 255, (n, 8, 8, 3), np.uint8) for part, n in sizes.items()}
    np.savez(tmp_path / "images.npz", **arrays, train_y=np.arange(96) % 10, test_y=np.arange(24) % 10)
    stages = [*MADE, *(PEERS if INSTALLED else []), "tested-merged-32-0.7"]
    command = [sys.executable, str(ROOT / "tools" / "experiments" / "vit.py"), "--toy", "--threads", "1"]
    command += ["--work", str(tmp_path / "work"), "--data", str(tmp_path / "images.npz")]
    command += ["--seconds", "0.1", "--json", str(tmp_path / "all.json"), *stages]
    subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    found = json.loads((tmp_path / "all.json").read_text())["stages"]
    assert sorted(found) == sorted(stages)
    assert all(found[name]["share"] <= 0.7 for name in stages if name.startswith(("merged", "channels", "torch")))
    assert found["tested-merged-32-0.7"]["images"] == 24
