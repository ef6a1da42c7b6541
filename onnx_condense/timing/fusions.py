"""What onnxruntime makes of a graph: operators that it fuses nodes into, before and after a model became smaller."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnx_condense.errors import InputError
from onnx_condense.model.runtime import session


@dataclass(frozen=True)
class Fusion:
    """An operator of the optimized graphs, with its domain where that is not ONNX's: how many nodes are of it."""

    operator: str
    before: int
    after: int


def optimized(model: onnx.ModelProto | Path) -> Counter[str]:
    """How many nodes of each operator onnxruntime runs; none where it does not write them down."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        try:
            session(model, save_to=str(path))
            nodes = onnx.load(path, load_external_data=False).graph.node
        except (InputError, OSError):
            return Counter()
        return Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in nodes)


def lost(before: Mapping[str, int], after: Mapping[str, int]) -> tuple[Fusion, ...]:
    """What changed, where nodes that had been fused stand by themselves: some operators are fewer, others more.

    Where none are more, nodes are gone, and nothing is lost.
    """
    if not before or not after:
        return ()
    names = sorted({*before, *after})
    changed = [Fusion(name, before.get(name, 0), after.get(name, 0)) for name in names]
    more, fewer = (any(sign * (one.after - one.before) > 0 for one in changed) for sign in (1, -1))
    return tuple(one for one in changed if one.before != one.after) if more and fewer else ()
