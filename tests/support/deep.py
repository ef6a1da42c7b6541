"""Deep networks: those of tools/benchmark_depth.py."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
_benchmark = importlib.import_module("benchmark_depth")

KINDS: tuple[str, ...] = tuple(_benchmark.KINDS)


def network(kind: str, blocks: int) -> onnx.ModelProto:
    """A network of equal blocks."""
    model: onnx.ModelProto = _benchmark.network(kind, blocks)
    return model
