"""How the channels of a group compare, before any threshold is applied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_condense.algebra.constants import constants as constants_of
from onnx_condense.algebra.constants import deviations
from onnx_condense.algebra.numbers import Numbers
from onnx_condense.algebra.stages import Stage
from onnx_condense.arrays import FLOAT32, Bools, Floats, Ints
from onnx_condense.merging.alike import Alike
from onnx_condense.merging.methods import Manner
from onnx_condense.merging.paths import Path, by_channel, from_channels, paths, sides_of
from onnx_condense.merging.twin import Twin
from onnx_condense.merging.weights import TwinWeights
from onnx_condense.model.held import let_go
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Group, Trace

IDLE = 1e-2
"""Share of what the most felt channel of a cell makes its consumers vary that counts as nothing."""

AT_ONCE = 2**22
"""Weights that are looked at at once."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """How the n channels of one group compare, before any threshold is applied.

    Attributes:
        twin: the weights that were compared.
        manner: how they were compared, and what becomes of channels that go.
        paths: by which consumers read the group.
        members: per cell, [k] the indices of channels still there.
        numbers: per cell, the numbers of those.
        alike: per cell, how alike they are; by each of the sides of products that may take them up (`sides_of`).
        gone: [n] channels that nobody reads or that are constant.
        unread: [n] those of them that nobody reads.
        constants: per path, [n] the value of those.
        error: of ours, in words, for which nothing was compared.
    """

    twin: Twin
    group: Group
    manner: Manner
    paths: tuple[Path, ...]
    members: tuple[Ints, ...]
    numbers: tuple[Numbers, ...]
    alike: tuple[tuple[Alike, ...], ...]
    gone: Bools
    unread: Bools
    constants: tuple[Floats, ...]
    error: str = ""

    @property
    def trace(self) -> Trace:
        """The model that the group belongs to."""
        return self.twin.trace

    @property
    def highest(self) -> float:
        """The highest cosine between two channels that could merge."""
        return max((alike.highest for sides in self.alike for alike in sides), default=-1.0)


def judge(twin: Twin, group: Group, manner: Manner) -> Judgement:
    """Compares the channels of a group on the twin's weights."""
    mine = tuple(paths(twin.trace, group))
    kept = twin.kept(group)
    gone = np.zeros(len(group.units), dtype=bool)
    constants = tuple(np.zeros(len(group.units)) for _ in mine)
    tolerance = _tolerance(twin.trace, group)
    members, numbers, alike = [], [], []
    if manner.frees:
        gone[kept] = unread(twin, group, mine)[kept]
    silent = gone.copy()
    for cell in group.cells:
        cell = np.intersect1d(cell, kept[~gone[kept]])
        found = Numbers(TwinWeights(twin), twin.trace.unit_of, group.units[cell], tolerance)
        idle = fixed = np.zeros(len(cell), dtype=bool)
        if manner.frees and len(cell):
            if manner.refits:
                idle = _idle(found, twin, mine, cell)
                found = found.with_idle(idle) if idle.any() else found
            fixed = _constant_channels(found, twin.trace, mine, cell, constants)
            gone[cell[fixed]] = True
            cell = cell[~fixed]
        if manner.apart or idle.any() or fixed.any():  # other numbers than those that were asked
            found = Numbers(TwinWeights(twin), twin.trace.unit_of, group.units[cell], tolerance, manner.apart)
        members.append(cell)
        numbers.append(found)
        let_go()  # of what the consumers hold
        alike.append(tuple(_alike(found, twin.trace, mine, cell, manner, side) for side in sides_of(mine, cell)))
    return Judgement(twin, group, manner, mine, tuple(members), tuple(numbers), tuple(alike), gone, silent, constants)


def unjudged(twin: Twin, group: Group, manner: Manner, error: str) -> Judgement:
    """Nothing is known of the channels of a group, because of an error of ours: they all stay."""
    nothing = np.zeros(len(group.units), dtype=bool)
    return Judgement(twin, group, manner, (), (), (), (), nothing, nothing, (), error)


def _alike(found: Numbers, trace: Trace, mine: Sequence[Path], cell: Ints, manner: Manner, side: int) -> Alike:
    """How alike the channels of a cell are on the paths of those that read them, and of one side of products."""
    signals = _signals([path for path in mine if path.side in (-1, side)], cell) if len(cell) > 1 else []
    stages = [stage for signal in signals for stage in manner.stages(found, trace.signals[signal])]
    return Alike(_unique(stages), len(cell))


def unread(twin: Twin, group: Group, mine: Sequence[Path]) -> Bools:
    """[n] where every consumer's columns of the channel are zero, but for rows of channels that are unread too.

    In products of data, where all that makes one side of it is zero.
    """
    result = _unpaired(twin, group, mine)
    while True:
        alive = twin.alive.copy()
        alive[group.units[result]] = False
        found = result.copy()
        for path in (path for path in mine if path.side < 0):
            np.logical_and.at(found, path.units, ~_is_read(twin, path, alive))
        if np.array_equal(found, result) or not found.any():
            return found
        result = found


def _unpaired(twin: Twin, group: Group, mine: Sequence[Path]) -> Bools:
    """[n] where a channel is in no product of data, or a side of it is zero there."""
    paired, nothing = np.zeros(len(group.units), dtype=bool), np.zeros(len(group.units), dtype=bool)
    for side in (0, 1):
        zero, there = np.ones_like(paired), np.zeros_like(paired)
        for path in (path for path in mine if path.side == side):
            weight = twin.weight(path.slot.node, path.slot.input)
            rows = by_channel(weight, path.slot.axes)[path.places]
            np.logical_and.at(zero, path.units, ~rows.reshape(len(rows), -1).any(axis=1))
            there[path.units] = True
            if (shift := _shift_of(twin, path)) is not None:
                np.logical_and.at(zero, path.units, shift[path.places] == 0)
        paired |= there
        nothing |= there & zero
    return ~paired | nothing


def _shift_of(twin: Twin, path: Path) -> Floats | None:
    """[rows] what merges add to the bias of the linear map whose rows these are; None of nothing."""
    action = twin.trace.linear_map(path.slot.node)
    return twin.added(path.slot.node) if action is not None and action.weight == path.slot.input else None


def _is_read(twin: Twin, path: Path, alive: Bools) -> Bools:
    """[places]: where an alive row of the consumer multiplies the place with something else than zero."""
    slot = path.slot
    own = twin.trace.made.get((slot.node, slot.input))
    if any(one.groups > 1 or len(one.axes) != 1 for one in (slot, own) if one is not None):
        return np.asarray(_columns(twin, path, alive).any(axis=1))
    (axis,) = slot.axes
    columns, found = np.moveaxis(twin.weight(slot.node, slot.input), axis, 0), np.zeros(len(path.places), bool)
    step = max(1, AT_ONCE // max(1, columns[:1].size))
    for start in range(0, len(found), step):
        part = columns[path.places[start : start + step]]
        if own is not None:
            stays = alive[twin.trace.unit_of[atoms_of(own.labels.reshape(-1))]]
            part = part.compress(stays, axis=own.axes[0] + (own.axes[0] < axis))
        found[start : start + step] = part.reshape(len(part), -1).any(axis=1)
    return found


def _columns(twin: Twin, path: Path, alive: Bools) -> Floats:
    """[places, p]: what the consumer's alive rows multiply each place with; taps are rows of their own."""
    slot = path.slot
    weight = twin.weight(slot.node, slot.input)
    own = twin.trace.made.get((slot.node, slot.input))
    if own is not None:
        rows = by_channel(weight, own.axes, own.groups)
        stays = alive[twin.trace.unit_of[atoms_of(own.labels.reshape(-1))]]
        rows = np.where(stays.reshape(-1, *[1] * (rows.ndim - 1)), rows, 0)
        weight = from_channels(rows, own.axes, weight.shape, own.groups)
    columns = by_channel(weight, slot.axes, slot.groups)[path.places]
    return columns.reshape(len(columns), -1)


def _tolerance(trace: Trace, group: Group) -> float:
    """How far apart numbers may lie, relative to their size, that count as equal."""
    types = {trace.facts.float_type(t.name) for n in group.producers for t in trace.facts.nodes[n].inputs}
    return max((kind.rounding for kind in types if kind is not None), default=FLOAT32.rounding)


def _signals(mine: Sequence[Path], cell: Ints) -> list[int]:
    """The signals through which any consumer reads a cell."""
    return list(dict.fromkeys(p.signal for p in mine if p.reads(cell)))


def _unique(stages: Iterable[Stage]) -> list[Stage]:
    """Stages that several paths share, once."""
    return list({(id(f.vectors), id(f.bias), f.rule): f for f in stages}.values())


def _idle(numbers: Numbers, twin: Twin, mine: Sequence[Path], cell: Ints) -> Bools:
    """[k] which channels of a cell vary, as a BatchNormalization states it, too little for any consumer to mind."""
    idle = np.full(len(cell), sides_of(mine, cell) == (-1,))
    for path in (path for path in mine if path.reads(cell)):
        deviation = deviations(twin.trace.signals[path.signal], numbers)
        if deviation is None:
            return np.zeros(len(cell), dtype=bool)
        size = np.zeros(int(path.units.max()) + 1)
        np.add.at(size, path.units, (_columns(twin, path, twin.alive).astype(np.float64) ** 2).sum(axis=1))
        felt = deviation * np.sqrt(size[cell])
        idle &= felt <= IDLE * felt.max()
    return idle


def _constant_channels(
    numbers: Numbers, trace: Trace, mine: Sequence[Path], cell: Ints, constants: Sequence[Floats]
) -> Bools:
    """[k] which channels of a cell are constant on every path, and not read across a padded border.

    Fills `constants`, per path [n], with their values.
    """
    values = {s: constants_of(trace.signals[s], numbers) for s in _signals(mine, cell)}
    fixed = np.zeros(len(cell), dtype=bool)
    for side in sides_of(mine, cell):
        constant = np.full(len(cell), bool(values))
        for path in mine:
            if path.signal in values and path.side in (-1, side):
                value = values[path.signal]
                constant &= np.isfinite(value) & ((value == 0) | (not path.slot.padded))
        fixed |= constant
    for path, filled in zip(mine, constants, strict=True):
        if path.signal in values and path.side < 0:
            filled[cell[fixed]] = values[path.signal][fixed]
    return fixed
