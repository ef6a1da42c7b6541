"""What becomes of a group's channels: which stay, and (M, c) per consumer path (design: one equation)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnx_condense.algebra.constants import constants
from onnx_condense.algebra.numbers import Numbers
from onnx_condense.algebra.relations import Relations
from onnx_condense.arrays import Bools, Floats, Ints
from onnx_condense.merging.alike import Alike
from onnx_condense.merging.integers import inexact
from onnx_condense.merging.judging import Judgement
from onnx_condense.merging.methods import Becomes, Pairs, ratio_product
from onnx_condense.merging.paths import sides_of
from onnx_condense.merging.plan import GroupPlan, Read
from onnx_condense.merging.similarity import Confirm, groups_by_side
from onnx_condense.merging.widths import hold_back
from onnx_condense.tracing.trace import layer_name

CANDIDATE = 1 - 1e-4
"""Cosine above which a pair is worth the test whether it merges exactly."""

ALIKE = 0.5
"""Cosine above which a channel that a budget takes is merged into another before its consumers are refitted."""


def plan_group(judgement: Judgement, threshold: float, align: int) -> GroupPlan:
    """The plan for a group, at a threshold and a multiple for its width; every channel may stay (`shrinks`)."""
    group, trace = judgement.group, judgement.trace
    main, cosine, side = _condensed(judgement, threshold)
    before = np.zeros(len(main), dtype=bool)
    before[np.concatenate([*judgement.members, np.flatnonzero(judgement.gone)])] = True
    if trace.is_quantized(group):
        reads = _reads(judgement, main, side, judgement.manner.becomes)
        stays = inexact(judgement.twin, judgement.paths, reads, main)
        main[stays], cosine[stays] = stays, 1.0
    for cell in group.cells:  # a tensor keeps at least one channel of every cell
        there = cell[before[cell]]
        if len(there) and not (main[there] == there).any():
            main[there[0]] = there[0]
    held = hold_back(trace, group, main, cosine, before, align)
    main[~before] = np.flatnonzero(~before)
    return _plan(judgement, (main, cosine, side), held, judgement.manner.becomes)


def plan_keeping(judgement: Judgement, keep: Ints) -> GroupPlan:
    """The plan that keeps these channels [k]: others merge into the most alike of them, or go where none is alike."""
    n = len(judgement.group.units)
    main, cosine, side = np.full(n, -1), np.ones(n), np.full(n, -1)
    main[keep] = keep
    for cell, sides in zip(judgement.members, judgement.alike, strict=True):
        stays, goes = (np.flatnonzero(np.isin(cell, keep, invert=i)) for i in (False, True))
        if not len(stays) or not len(goes):
            continue
        near, how, chosen = _nearest(sides, goes, stays)
        merged = how > ALIKE
        main[cell[goes[merged]]] = cell[near[merged]]
        cosine[cell[goes[merged]]] = how[merged]
        side[cell] = sides_of(judgement.paths, cell)[chosen]
    return _plan(judgement, (main, cosine, side), (), ratio_product)


def _nearest(sides: Sequence[Alike], goes: Ints, stays: Ints) -> tuple[Ints, Floats, int]:
    """[k] the most alike of channels `stays` to each of `goes` [k], how alike, and by which side: one for all."""
    near = [alike.nearest(goes, stays) for alike in sides]
    how = [alike.of(goes, found) for alike, found in zip(sides, near, strict=True)]
    best = int(np.argmax([float(each.sum()) for each in how]))
    return near[best], how[best], best


def _condensed(judgement: Judgement, threshold: float) -> tuple[Ints, Floats, Ints]:
    """[n] the channel that each one merges into (-1: it goes), [n] how alike they are, and [n] by which side.

    Before alignment.
    """
    n = len(judgement.group.units)
    main, cosine, side = np.arange(n), np.ones(n), np.full(n, -1)
    main[judgement.gone] = -1
    for cell, numbers, alike in zip(judgement.members, judgement.numbers, judgement.alike, strict=True):
        if len(cell) < 2:
            continue
        sides = sides_of(judgement.paths, cell)
        confirm: list[Confirm | None] = [None for _ in sides]
        if judgement.manner.exact:
            threshold = CANDIDATE
            confirm = [partial(_exact, judgement, numbers, cell, each) for each in sides]
        if len(sides) == 1:
            local, which = alike[0].groups(threshold, confirm[0]), np.zeros(len(cell), dtype=np.int64)
        else:
            local, which = groups_by_side([each.table for each in alike], threshold, confirm)
        moved = np.flatnonzero(local != np.arange(len(local)))
        main[cell[moved]] = cell[local[moved]]
        side[cell] = np.array(sides)[which]
        for number, each in enumerate(alike):
            mine = moved[which[moved] == number]
            cosine[cell[mine]] = each.of(mine, local[mine])
    return main, cosine, side


def _exact(judgement: Judgement, numbers: Numbers, cell: Ints, side: int, j: Ints, m: int) -> Bools:
    """[k] which of the channels j [k] equal an affine function of channel m on every path, borders included.

    Of products of data, on the paths of one side.
    """
    result = np.ones(len(j), dtype=bool)
    relations = Relations(j, np.full(len(j), m))
    for path in judgement.paths:
        if not path.reads(cell) or path.side not in (-1, side):
            continue
        signal = judgement.trace.signals[path.signal]
        relation = relations.of(signal, numbers)
        result &= relation.exact & np.isfinite(relation.ratio) & np.isfinite(relation.constant)
        result &= ~np.isinf(constants(signal, numbers)[j])
        if path.slot.padded:
            result &= relation.constant == 0
    return result


def _plan(
    judgement: Judgement, decided: tuple[Ints, Floats, Ints], held: tuple[int, ...], becomes: Becomes
) -> GroupPlan:
    main, cosine, side = decided
    group, reads = judgement.group, _reads(judgement, main, side, becomes)
    return GroupPlan(
        group.index, group.layers, tuple(main.tolist()), tuple(cosine.tolist()), judgement.highest, held, reads
    )


def _reads(judgement: Judgement, main: Ints, side: Ints, becomes: Becomes) -> tuple[Read, ...]:
    merged = [_merged(cell, main, side) for cell in judgement.members]
    reads = [_read(judgement, position, main, merged, becomes) for position in range(len(judgement.paths))]
    return tuple(_as_one(judgement, reads))


def _as_one(judgement: Judgement, reads: Sequence[Read]) -> Iterator[Read]:
    """The reads of one weight that several nodes hold with one ratio, where theirs differ by rounding alone."""
    first: dict[tuple[str, bytes, bytes], Read] = {}
    rounding = max((numbers.tolerance for numbers in judgement.numbers), default=0.0)
    for path, read in zip(judgement.paths, reads, strict=True):
        name = judgement.trace.facts.nodes[read.node].inputs[read.input].name
        known = first.setdefault((name, path.units.tobytes(), path.places.tobytes()), read)
        same = known is not read and np.allclose(read.ratio, known.ratio, rtol=rounding, atol=0)
        yield replace(read, ratio=known.ratio) if same else read


@dataclass(frozen=True, eq=False)
class _Merged:
    """The channels of a cell that merge into others, [k], by which side, [k], and how they relate to those."""

    moved: Ints
    side: Ints
    relations: Relations


def _merged(cell: Ints, main: Ints, side: Ints) -> _Merged:
    moved = cell[(main[cell] >= 0) & (main[cell] != cell)]
    place = np.zeros(len(main), dtype=np.int64)
    place[cell] = np.arange(len(cell))
    return _Merged(moved, side[moved], Relations(place[moved], place[main[moved]]))


def _read(judgement: Judgement, position: int, main: Ints, merged: Sequence[_Merged], becomes: Becomes) -> Read:
    """(M, c) of one path: for every removed channel its ratio to its main channel, and its constant part."""
    path, trace = judgement.paths[position], judgement.trace
    ratio, constant = np.ones(len(main)), np.zeros(len(main))
    gone = main < 0
    ratio[gone], constant[gone] = 0.0, judgement.constants[position][gone]
    for cell, numbers, group in zip(judgement.members, judgement.numbers, merged, strict=True):
        if len(group.moved) and path.reads(cell):
            pairs = Pairs(numbers, trace.signals[path.signal], group.relations, judgement.manner.depthwise)
            ratio[group.moved], constant[group.moved] = becomes(pairs)
            if path.side >= 0:
                constant[group.moved] = 0.0
                ratio[group.moved[group.side != path.side]] = 0.0
    node = trace.facts.nodes[path.slot.node]
    return Read(
        path.slot.node,
        path.slot.input,
        path.number,
        layer_name(node, path.slot.node),
        tuple(ratio.tolist()),
        tuple(constant.tolist()),
    )
