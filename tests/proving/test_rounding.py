"""Models whose weights are a unit of rounding larger or smaller."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from support import builders

from onnx_condense.arrays import FLOATS
from onnx_condense.model import files, held, wire
from onnx_condense.model.held import numbers
from onnx_condense.proving.compare import compare, results
from onnx_condense.proving.rounding import shaken


def moved(one: onnx.ModelProto, other: onnx.ModelProto) -> dict[str, float]:
    """By how many units each weight is another one at most."""
    found = {}
    for a, b in zip(one.graph.initializer, other.graph.initializer, strict=True):
        before, after = numbers(a), numbers(b)
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        gap = np.abs(after.astype(float) - before) / np.abs(before.astype(float)).clip(1e-30)
        found[a.name] = float(gap.max()) / FLOATS[before.dtype.name].eps
    return found


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_weights_move_by_a_unit(dtype: str) -> None:
    kind = {"float16": "float16", "float32": "float", "float64": "double"}[dtype]
    text = f"g ({kind}[N, 8] x) => ({kind}[N, 3] y) {{ y = Gemm(x, w, b) }}"
    model = builders.build(text, {"w": builders.random(8, 3).astype(dtype), "b": builders.random(3).astype(dtype)})
    before, seen = model.SerializeToString(), []
    for other in shaken(model):
        units = moved(model, other)
        assert 0.5 <= units["w"] <= 2
        assert units["b"] == 0
        seen.append(other.SerializeToString())
    assert len(set(seen)) == len(seen) > 1
    assert seen == [other.SerializeToString() for other in shaken(model)]
    assert model.SerializeToString() == before


def test_weights_in_files_move_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room, name in ((files, "HELD_FROM"), (held, "LEAST"), (wire, "LEAST")):
        monkeypatch.setattr(room, name, 1024)
    onnx.save(builders.mlp((32, 32, 3)), tmp_path / "m.onnx")
    source = files.load(tmp_path / "m.onnx")
    model = source.proto
    assert held.holds(model)
    feeds = [{"x": builders.random(4, 32)}]
    for other in shaken(model):
        assert held.holds(other)
        assert 0.5 <= moved(model, other)["w0"] <= 2
        assert 0 < compare(results(model, feeds), results(other, feeds)).error < 1e-5
