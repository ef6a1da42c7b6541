"""A model by types of operators: how many nodes of each there are, and how many parameters they read."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx

from onnx_condense.model.protos import FLOAT_TYPES
from onnx_condense.report.difference import walk


@dataclass(frozen=True)
class OperatorReport:
    """One type of operator: its nodes, bodies included, and the parameters that they read first, before and after.

    What is after is None where no model was made.
    """

    operator: str
    nodes_before: int
    nodes_after: int | None
    parameters_before: int
    parameters_after: int | None


def by_operator(before: onnx.ModelProto, after: onnx.ModelProto | None) -> tuple[OperatorReport, ...]:
    """A row for each type, those with most parameters first."""
    old = _counted(before)
    new = _counted(after) if after is not None else {}
    rows = []
    for name in {**old, **new}:
        was, now = old.get(name, (0, 0)), new.get(name, (0, 0)) if after is not None else (None, None)
        rows.append(OperatorReport(name, was[0], now[0], was[1], now[1]))
    return tuple(sorted(rows, key=lambda row: (-row.parameters_before, -row.nodes_before, row.operator)))


def _counted(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Type -> (nodes, parameters); a weight counts once."""
    found: dict[str, tuple[int, int]] = {}
    seen: dict[int, onnx.TensorProto] = {}
    for layer in walk(model.graph, {}):
        fresh = [t for t in layer.weights if t.dims and t.data_type in FLOAT_TYPES and id(t) not in seen]
        nodes, parameters = found.get(layer.node.op_type, (0, 0))
        found[layer.node.op_type] = nodes + 1, parameters + sum(prod(t.dims) for t in fresh)
        seen |= {id(t): t for t in fresh}
    return found
