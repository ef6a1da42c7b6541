"""Which channels stay and what becomes of the others: keep, and (M, c) per consumer path (design: one equation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from onnx_condense.channels import Group, Trace, layer_name
from onnx_condense.factors import Factor, Rule, final_rules
from onnx_condense.integer_merges import inexact
from onnx_condense.plan import GroupPlan, Read
from onnx_condense.signals import Bools, Floats, Ints, epsilon
from onnx_condense.similarity import condense, ratios, similarity
from onnx_condense.stages import Evaluator
from onnx_condense.state import Path, State, paths
from onnx_condense.widths import hold_back

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

    state: the weights that were compared. members: per cell, the indices of channels still there. alike: per cell
    [k, k]. gone: channels that nobody reads or that are constant. constants: per path (by position) the value of those.
    """

    state: State
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


def judge(state: State, group: Group, method: Method, depthwise: Literal["joint", "kernel"]) -> Judgement:
    """Compares the channels of a group on the state's weights."""
    trace = state.trace
    mine = tuple(paths(trace, group))
    kept = state.kept(group)
    gone = np.zeros(len(group.units), dtype=bool)
    constants = tuple(np.zeros(len(group.units)) for _ in mine)
    tolerance = _tolerance(trace, group)
    members, evaluators, alike = [], [], []
    if method in ("lossless", "auto"):
        gone[kept] = state.unread(group, list(mine))[kept]
    for cell in group.cells:
        cell = np.intersect1d(cell, kept[~gone[kept]])
        if method in ("lossless", "auto") and len(cell):
            fixed = _constant_channels(state, group, mine, cell, tolerance, constants)
            gone[cell[fixed]] = True
            cell = cell[~fixed]
        evaluator = Evaluator(state, trace.unit_of, group.units[cell], tolerance)
        members.append(cell)
        evaluators.append(evaluator)
        factors = (
            [f for s in _signals(mine, cell) for f in stages(evaluator, trace, s, method, depthwise)]
            if len(cell) > 1
            else []
        )
        alike.append(similarity(_unique(factors), len(cell)))
    return Judgement(state, group, mine, tuple(members), tuple(evaluators), tuple(alike), gone, constants)


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
    state: State, group: Group, mine: Sequence[Path], cell: Ints, tolerance: float, constants: Sequence[Floats]
) -> Bools:
    """Which channels of a cell are constant on every path, and not read across a padded border; fills `constants`."""
    evaluator = Evaluator(state, state.trace.unit_of, group.units[cell], tolerance)
    fixed = np.ones(len(cell), dtype=bool)
    values = {s: evaluator.constants(state.trace.signals[s]) for s in _signals(mine, cell)}
    for path in mine:
        if path.signal in values:
            value = values[path.signal]
            fixed &= np.isfinite(value) & ((value == 0) | (not path.slot.padded))
    for path, constant in zip(mine, constants, strict=True):
        if path.signal in values:
            constant[cell[fixed]] = values[path.signal][fixed]
    return fixed & bool(values)


def decide(
    judgement: Judgement, trace: Trace, method: Method, depthwise: str, threshold: float, align: int
) -> GroupPlan:
    """The plan for a group; every channel may stay (`GroupPlan.shrinks`)."""
    group, n = judgement.group, len(judgement.group.units)
    main, cosine = np.arange(n), np.ones(n)
    main[judgement.gone] = -1
    for cell, evaluator, alike in zip(judgement.members, judgement.evaluators, judgement.alike, strict=True):
        if len(cell) < 2:
            continue
        if method == "lossless":
            local = condense(alike, CANDIDATE, lambda j, m, e=evaluator, c=cell: _exact(judgement, trace, e, c, j, m))  # type: ignore[misc]
        else:
            local = condense(alike, threshold)
        moved = np.flatnonzero(local != np.arange(len(local)))
        main[cell[moved]] = cell[local[moved]]
        cosine[cell[moved]] = alike[moved, local[moved]]
    before = np.zeros(n, dtype=bool)
    before[np.concatenate([*judgement.members, np.flatnonzero(judgement.gone)])] = True
    if trace.is_quantized(group):
        reads = _reads(judgement, trace, main, method, depthwise)
        stays = inexact(judgement.state, judgement.paths, reads, main)
        main[stays], cosine[stays] = stays, 1.0
    for cell in group.cells:  # a tensor keeps at least one channel of every cell
        there = cell[before[cell]]
        if len(there) and not (main[there] == there).any():
            main[there[0]] = there[0]
    held = hold_back(trace, group, main, cosine, before, align)
    main[~before] = np.flatnonzero(~before)
    reads = _reads(judgement, trace, main, method, depthwise)
    return GroupPlan(
        group.index, group.layers, tuple(main.tolist()), tuple(cosine.tolist()), judgement.highest, held, reads
    )


ALIKE = 0.5
"""Cosine above which a channel that a budget takes is merged into another before its consumers are refitted."""


def chosen(judgement: Judgement, trace: Trace, keep: Ints, depthwise: str) -> GroupPlan:
    """The plan that keeps these channels: the others merge into the most alike of them, or go where none is alike."""
    group, n = judgement.group, len(judgement.group.units)
    main, cosine = np.full(n, -1), np.ones(n)
    main[keep] = keep
    for cell, alike in zip(judgement.members, judgement.alike, strict=True):
        stays, goes = (np.flatnonzero(np.isin(cell, keep, invert=i)) for i in (False, True))
        if not len(stays) or not len(goes):
            continue
        near = stays[np.argmax(alike[np.ix_(goes, stays)], axis=1)]
        merged = alike[goes, near] > ALIKE
        main[cell[goes[merged]]] = cell[near[merged]]
        cosine[cell[goes[merged]]] = alike[goes, near][merged]
    reads = tuple(_read(judgement, trace, p, main, "auto", depthwise) for p in range(len(judgement.paths)))
    return GroupPlan(
        group.index, group.layers, tuple(main.tolist()), tuple(cosine.tolist()), judgement.highest, (), reads
    )


def _exact(judgement: Judgement, trace: Trace, evaluator: Evaluator, cell: Ints, j: Ints, m: int) -> Bools:
    """Which of the channels j equal an affine function of channel m on every path, borders included."""
    result = np.ones(len(j), dtype=bool)
    main = np.full(len(j), m)
    for path in judgement.paths:
        if not np.isin(cell[:1], path.units).all():
            continue
        relation = evaluator.relate(trace.signals[path.signal], j, main)
        result &= relation.exact & np.isfinite(relation.ratio) & np.isfinite(relation.constant)
        result &= ~np.isinf(evaluator.constants(trace.signals[path.signal])[j])
        if path.slot.padded:
            result &= relation.constant == 0
    return result


def _reads(judgement: Judgement, trace: Trace, main: Ints, method: Method, depthwise: str) -> tuple[Read, ...]:
    return tuple(_read(judgement, trace, position, main, method, depthwise) for position in range(len(judgement.paths)))


def _read(judgement: Judgement, trace: Trace, position: int, main: Ints, method: Method, depthwise: str) -> Read:
    """(M, c) of one path: for every removed channel its ratio to its main channel, and its constant part."""
    path = judgement.paths[position]
    ratio, constant = np.ones(len(main)), np.zeros(len(main))
    gone = main < 0
    ratio[gone], constant[gone] = 0.0, judgement.constants[position][gone]
    for cell, evaluator in zip(judgement.members, judgement.evaluators, strict=True):
        local = {unit: i for i, unit in enumerate(cell.tolist())}
        moved = np.array([u for u in cell.tolist() if main[u] >= 0 and main[u] != u], dtype=np.int64)
        if not len(moved) or not np.isin(cell[:1], path.units).all():
            continue
        j, m = (np.array([local[u] for u in us.tolist()]) for us in (moved, main[moved]))
        ratio[moved], constant[moved] = _merge(evaluator, trace, path.signal, j, m, method, depthwise)
    node = trace.facts.nodes[path.slot.node]
    return Read(
        path.slot.node,
        path.slot.input,
        path.number,
        layer_name(node, path.slot.node),
        tuple(ratio.tolist()),
        tuple(constant.tolist()),
    )


def _merge(
    evaluator: Evaluator, trace: Trace, signal: int, j: Ints, m: Ints, method: Method, depthwise: str
) -> tuple[Floats, Floats]:
    expression = trace.signals[signal]
    if method == "delete":
        return np.zeros(len(j)), np.zeros(len(j))
    if method == "lossless":
        relation = evaluator.relate(expression, j, m)
        return relation.ratio, relation.constant
    product = np.ones(len(j))
    for factor in stages(evaluator, trace, signal, method, depthwise):
        product = product * ratios(factor, j, m)
    return evaluator.approximate(expression, product, j, m)
