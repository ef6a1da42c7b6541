"""tools/digits_trainer.py: the same bytes twice, and the gradients that it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import builders
from support.cli import snapshot

TOOLS = Path(__file__).parents[2] / "tools"
DIGITS = f"'{sys.executable}' '{TOOLS / 'digits_trainer.py'}'"


def test_the_example_trainer_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    program = [sys.executable, str(TOOLS / "digits_trainer.py")]
    for name in ("a.onnx", "b.onnx"):
        first = [*program, "--new", name, "--widths", "8", "--steps", "1"]
        subprocess.run(first, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    before = snapshot(tmp_path)
    arguments = [
        "--model",
        "a.onnx",
        "--metrics",
        "metrics.json",
        "--steps",
        "0",
        "--evaluate-only",
        "--output",
        "c.onnx",
    ]
    subprocess.run([*program, *arguments], cwd=tmp_path, check=True, capture_output=True)
    assert snapshot(tmp_path).keys() - before.keys() == {"metrics.json"}
    assert 0 < json.loads((tmp_path / "metrics.json").read_text())["score"] <= 1


def test_the_example_trainers_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against differences, in float64."""
    monkeypatch.syspath_prepend(str(TOOLS))
    import digits_trainer

    shapes = [(7, 64), (7,), (5, 7), (5,), (10, 5), (10,)]
    weights = [builders.random(*shape, seed=i, scale=0.3).astype(np.float64) for i, shape in enumerate(shapes)]
    x, labels = np.abs(builders.random(9, 64)).astype(np.float64), np.arange(9)

    def loss() -> float:
        logits = digits_trainer.forward(weights, x)[-1]
        peak = logits.max(axis=1, keepdims=True)
        log = logits - peak - np.log(np.exp(logits - peak).sum(axis=1, keepdims=True))
        return float(-log[np.arange(9), labels].mean())

    for weight, gradient in zip(weights, digits_trainer.gradients(weights, x, labels), strict=True):
        place = tuple(n // 2 for n in weight.shape)
        weight[place] += 1e-6
        above = loss()
        weight[place] -= 2e-6
        below = loss()
        weight[place] += 1e-6
        assert gradient[place] == pytest.approx((above - below) / 2e-6, abs=1e-7)
