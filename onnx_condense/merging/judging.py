"""How the channels of a group compare, before any threshold is applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from onnx_condense.algebra.evaluator import Evaluator
from onnx_condense.algebra.stages import Factor, Rule, final_rules
from onnx_condense.arrays import Bools, Floats, Ints, epsilon
from onnx_condense.merging.paths import Path, paths
from onnx_condense.merging.similarity import similarity
from onnx_condense.merging.twin import Twin
from onnx_condense.tracing.trace import Group, Trace

CANDIDATE = 1 - 1e-4
"""Cosine above which a pair is worth the exact test of --lossless."""

ROUNDING = 16
"""Exact means: within this many units of the weights' precision."""

COARSE = 2
"""The same for types of less than 32 bits: their weights are rounded results of wider ones."""

Method = Literal["lossless", "auto", "ratio", "delete"]


@dataclass(frozen=True)
class Judgement:
    """How the channels of one group compare, before any threshold is applied.

    twin: the weights that were compared. members: per cell, the indices of channels still there. alike: per cell
    [k, k]. gone: channels that nobody reads or that are constant. constants: per path (by position) the value of those.
    """

    twin: Twin
    group: Group
    paths: tuple[Path, ...]
    members: tuple[Ints, ...]
    evaluators: tuple[Evaluator, ...]
    alike: tuple[Floats, ...]
    gone: Bools
    constants: tuple[Floats, ...]

    @property
    def highest(self) -> float:
        """The highest cosine between two channels that could merge."""
        return max((float(a.max()) for a in self.alike if a.size > 1), default=-1.0)


def judge(twin: Twin, group: Group, method: Method, depthwise: str) -> Judgement:
    """Compares the channels of a group on the twin's weights."""
    trace = twin.trace
    mine = tuple(paths(trace, group))
    kept = twin.kept(group)
    gone = np.zeros(len(group.units), dtype=bool)
    constants = tuple(np.zeros(len(group.units)) for _ in mine)
    tolerance = _tolerance(trace, group)
    members, evaluators, alike = [], [], []
    if method in ("lossless", "auto"):
        gone[kept] = twin.unread(group, list(mine))[kept]
    for cell in group.cells:
        cell = np.intersect1d(cell, kept[~gone[kept]])
        if method in ("lossless", "auto") and len(cell):
            fixed = _constant_channels(twin, group, mine, cell, tolerance, constants)
            gone[cell[fixed]] = True
            cell = cell[~fixed]
        evaluator = Evaluator(twin, trace.unit_of, group.units[cell], tolerance)
        members.append(cell)
        evaluators.append(evaluator)
        factors = (
            [f for s in _signals(mine, cell) for f in stages(evaluator, trace, s, method, depthwise)]
            if len(cell) > 1
            else []
        )
        alike.append(similarity(_unique(factors), len(cell)))
    return Judgement(twin, group, mine, tuple(members), tuple(evaluators), tuple(alike), gone, constants)


def _tolerance(trace: Trace, group: Group) -> float:
    """How far apart numbers may lie, relative to their size, that count as equal."""
    types = {trace.facts.float_type(t.name) for n in group.producers for t in trace.facts.nodes[n].inputs}
    found = [(COARSE if kind.itemsize < 4 else ROUNDING) * epsilon(kind) for kind in types if kind is not None]
    return max(found, default=ROUNDING * epsilon(np.dtype(np.float32)))


def _signals(mine: Sequence[Path], cell: Ints) -> list[int]:
    """The signals through which any consumer reads a cell."""
    return list(dict.fromkeys(p.signal for p in mine if np.isin(cell[:1], p.units).all()))


def _unique(factors: list[Factor]) -> list[Factor]:
    seen: list[Factor] = []
    for factor in factors:
        if not any(factor.rows is f.rows and factor.bias is f.bias and factor.rule is f.rule for f in seen):
            seen.append(factor)
    return seen


def stages(evaluator: Evaluator, trace: Trace, signal: int, method: Method, depthwise: str) -> list[Factor]:
    """The stages that decide whether channels condense on a path, with their final rules."""
    expression = trace.signals[signal]
    factors = [f for f in evaluator.factors(expression) if not f.virtual]
    if method == "lossless":
        linear = evaluator.passes_constants(expression)
        return [_candidate(f, linear) for f in factors]
    if depthwise == "kernel" and any(f.taps for f in factors):
        factors = [replace(f, bias=f.bias[:, :0]) for f in factors if f.taps]
    return final_rules(factors)


def _candidate(factor: Factor, linear: bool) -> Factor:
    """A superset of what can be exact: any collinear pair.

    The bias counts only where it must follow the rows: not where a constant passes, nor behind other stages.
    """
    bias = np.zeros_like(factor.bias) if linear or factor.prefix else factor.bias
    empty = ~np.hstack([factor.rows, bias]).any(axis=1, keepdims=True)
    return replace(factor, rows=np.where(empty, 1, factor.rows), bias=bias, rule=Rule.ANY)


def _constant_channels(
    twin: Twin, group: Group, mine: Sequence[Path], cell: Ints, tolerance: float, constants: Sequence[Floats]
) -> Bools:
    """Which channels of a cell are constant on every path, and not read across a padded border; fills `constants`."""
    evaluator = Evaluator(twin, twin.trace.unit_of, group.units[cell], tolerance)
    fixed = np.ones(len(cell), dtype=bool)
    values = {s: evaluator.constants(twin.trace.signals[s]) for s in _signals(mine, cell)}
    for path in mine:
        if path.signal in values:
            value = values[path.signal]
            fixed &= np.isfinite(value) & ((value == 0) | (not path.slot.padded))
    for path, constant in zip(mine, constants, strict=True):
        if path.signal in values:
            constant[cell[fixed]] = values[path.signal][fixed]
    return fixed & bool(values)
