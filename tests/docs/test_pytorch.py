"""The page about PyTorch, from the first line to the last."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.cli import Cli

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

PAGE = (Path(__file__).parents[2] / "docs" / "pytorch.md").read_text()
BLOCKS = re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.S)
STEPS = 5


def network() -> Any:
    """A convolutional network whose second half of channels is nearly the first."""
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 64, 3, 2), nn.BatchNorm2d(64), nn.ReLU()]
    made = nn.Sequential(*first, nn.Conv2d(64, 32, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
    made(torch.zeros(2, 3, 32, 32))
    with torch.no_grad():
        made[0].weight[32:] = made[0].weight[:32] + 0.01 * torch.rand(32, 3, 3, 3)
    return made


def test_the_page_runs(cli: Cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names: dict[str, Any] = {
        "network": network(),
        "images": rng.standard_normal((64, 3, 32, 32)).astype(np.float32),
        "labels": rng.integers(0, 10, 64),
    }
    np.savez(tmp_path / "images.npz", image=names["images"])
    for kind, block in BLOCKS[:STEPS]:
        if kind == "sh":
            ran = cli.run(*block.split()[1:])
            assert ran.code == 0, ran.err
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(block.replace("steps=2000", "steps=5"), names)
    small, tuned = onnx.load("small.onnx"), onnx.load("tuned.onnx")
    assert [(t.name, t.dims) for t in small.graph.initializer] == [(t.name, t.dims) for t in tuned.graph.initializer]
    assert small != tuned
    assert names["network"][0].out_channels < 64
