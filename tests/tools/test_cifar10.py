"""The classification experiment, end to end at toy size (its peers where they are installed)."""

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
MADE = ("start", "merged-0-0.6", "merged-16-0.6", "tuned-0.6", "taught-0.6", "scratch-0.6", "paper", "auto")
PEERS = [f"{name}-0.6{end}" for name in ("torch-pruning", "onnxsim") for end in ("", "-tuned")]
INSTALLED = all(importlib.util.find_spec(name) for name in ("torch_pruning", "onnxsim"))


def images(path: Path) -> Path:
    generator, labels = np.random.default_rng(0), np.arange(120) % 10
    pixels = 80 * generator.random((120, 8, 8, 3)) + 17 * labels[:, None, None, None]
    arrays = {"x": pixels.astype(np.uint8), "y": labels.astype(np.uint8)}
    parts = {"train": slice(96), "test": slice(96, None)}
    np.savez(path, **{f"{part}_{name}": v[rows] for part, rows in parts.items() for name, v in arrays.items()})
    return path


def test_the_experiment_runs(tmp_path: Path) -> None:
    stages = [*MADE, *(PEERS if INSTALLED else []), "tested-tuned-0.6"]
    command = [sys.executable, str(ROOT / "tools" / "experiments" / "cifar10.py"), "--toy", "--threads", "1"]
    command += ["--work", str(tmp_path / "work"), "--data", str(images(tmp_path / "images.npz"))]
    command += ["--seconds", "0.1", "--json", str(tmp_path / "all.json"), *stages]
    subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    found = json.loads((tmp_path / "all.json").read_text())["stages"]
    assert sorted(found) == sorted(stages)
    assert all(found[name]["share"] <= 0.6 for name in ("merged-0-0.6", "tuned-0.6", "scratch-0.6"))
    assert found["tested-tuned-0.6"]["images"] == 24


def test_the_quick_start_runs(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {"x": generator.integers(0, 255, (64, 32, 32, 3)).astype(np.uint8), "y": np.arange(64) % 4}
    np.savez(
        tmp_path / "i.npz", **{f"{part}_{name}": value for part in ("train", "test") for name, value in arrays.items()}
    )
    script = [sys.executable, str(ROOT / "tools" / "experiments" / "quickstart.py"), "--data", "i.npz"]
    done = subprocess.run(
        [*script, "--steps", "2", "--tuning", "2", "--held", "16"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout.splitlines()[0].startswith("$ onnx-condense network.onnx --budget")
    assert [line.split(".")[0] for line in done.stdout.splitlines()[-3:]] == ["network", "small", "tuned"]
