"""Outputs of two models in onnxruntime, compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

RELATIVE = 2e-4
SHARE = 0.02
"""Of integers, truth values and strings that may differ: what rounding does behind a step."""


Feed = Mapping[str, NDArray[Any]]


def runner(model: onnx.ModelProto, optimized: bool = False) -> Callable[[Feed], list[Any]]:
    """Gives the outputs of a model: one thread, no optimizations by default. Raises what onnxruntime raises."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = {port.name for port in session.get_inputs()}

    def run(feed: Feed) -> list[Any]:
        found: list[Any] = session.run(None, {name: value for name, value in feed.items() if name in names})
        return found

    return run


def differ(expected: list[Any], found: list[Any], relative: float = RELATIVE) -> str:
    """How two lists of outputs differ, beyond rounding; empty where they do not."""
    if len(expected) != len(found):
        return f"{len(found)} outputs instead of {len(expected)}"
    told = [_differs(np.asarray(a), np.asarray(b), relative) for a, b in _flat(expected, found)]
    return next((f"output {number}: {text}" for number, text in enumerate(told) if text), "")


def _flat(expected: list[Any], found: list[Any]) -> list[tuple[Any, Any]]:
    """Pairs of arrays; sequences of them are gone into."""
    pairs: list[tuple[Any, Any]] = []
    for a, b in zip(expected, found, strict=True):
        if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            pairs += _flat(a, b)
        else:
            pairs.append((a, b))
    return pairs


def _differs(a: NDArray[Any], b: NDArray[Any], relative: float) -> str:
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{b.dtype}{list(b.shape)} instead of {a.dtype}{list(a.shape)}"
    if a.dtype.kind != "f":
        share = float(np.mean(a != b)) if a.size else 0.0
        return f"{share:.1%} differ" if share > SHARE else ""
    whole = np.isfinite(a)
    if not np.array_equal(whole, np.isfinite(b)):
        return f"{int(np.sum(whole != np.isfinite(b)))} of {a.size} numbers are finite in one only"
    x, y = a[whole].astype(np.float64), b[whole].astype(np.float64)
    size = float(np.linalg.norm(x))
    error = float(np.linalg.norm(x - y))
    return f"relative error {error / max(size, 1e-30):.2e}" if error > relative * size + 1e-6 else ""
