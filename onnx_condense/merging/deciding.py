"""What becomes of a group's channels: which stay, and (M, c) per consumer path (design: one equation)."""

from __future__ import annotations

import numpy as np

from onnx_condense.algebra.constants import constants
from onnx_condense.algebra.factors import approximate
from onnx_condense.algebra.numbers import Numbers
from onnx_condense.algebra.relations import relate
from onnx_condense.arrays import Bools, Floats, Ints
from onnx_condense.merging.integers import inexact
from onnx_condense.merging.judging import CANDIDATE, Judgement, Method, stages
from onnx_condense.merging.plan import GroupPlan, Read
from onnx_condense.merging.similarity import condense, ratios
from onnx_condense.merging.widths import hold_back
from onnx_condense.tracing.trace import Trace, layer_name


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
        stays = inexact(judgement.twin, judgement.paths, reads, main)
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


def _exact(judgement: Judgement, trace: Trace, evaluator: Numbers, cell: Ints, j: Ints, m: int) -> Bools:
    """Which of the channels j equal an affine function of channel m on every path, borders included."""
    result = np.ones(len(j), dtype=bool)
    main = np.full(len(j), m)
    for path in judgement.paths:
        if not np.isin(cell[:1], path.units).all():
            continue
        relation = relate(trace.signals[path.signal], evaluator, j, main)
        result &= relation.exact & np.isfinite(relation.ratio) & np.isfinite(relation.constant)
        result &= ~np.isinf(constants(trace.signals[path.signal], evaluator)[j])
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
    evaluator: Numbers, trace: Trace, signal: int, j: Ints, m: Ints, method: Method, depthwise: str
) -> tuple[Floats, Floats]:
    expression = trace.signals[signal]
    if method == "delete":
        return np.zeros(len(j)), np.zeros(len(j))
    if method == "lossless":
        relation = relate(expression, evaluator, j, m)
        return relation.ratio, relation.constant
    product = np.ones(len(j))
    for factor in stages(evaluator, trace, signal, method, depthwise):
        product = product * ratios(factor, j, m)
    return approximate(expression, evaluator, product, j, m)
