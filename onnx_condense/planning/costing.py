"""Makes the cost table of a model: its pieces, timed on a machine at the widths that matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from math import ceil, log2
from typing import Protocol

import numpy as np

from onnx_condense.arrays import Ints
from onnx_condense.errors import InputError
from onnx_condense.merging.widths import widths_allowed
from onnx_condense.planning.curves import removable
from onnx_condense.planning.pieces import At, Piece, Workbench, digest, pieces_of
from onnx_condense.progress import Step
from onnx_condense.rewriting.kept import Disagreement
from onnx_condense.timing.costs import Costs, LayerCosts, Point, WholeCost
from onnx_condense.timing.kept import Kept, machine
from onnx_condense.timing.kernels import Small, Taken, may_be_open
from onnx_condense.timing.yardstick import yardstick
from onnx_condense.tracing.trace import Group, Trace

MOST = 16
"""Widths of a group that are measured, about."""

FEW = 4
"""Widths below which those that powers of two divide are too few."""

SHARES = (0.75, 0.5, 0.25)
"""Widths, as shares, at which it is measured how two groups of a piece go together; and the whole model."""

SAVES = 0.02
"""A width is worth while where its pieces take less by this share than at every wider one."""

DIGITS = 4
"""Of what is measured."""

Row = tuple[float, ...]
"""A measurement: see `_numbers`."""

Widths = Mapping[int, int]
"""Group index -> width; those that are missing are as they were."""


class Timer(Protocol):
    """A machine that times models."""

    def kernel_seconds(self, models: Sequence[Small], threads: int) -> list[Taken]:
        """Seconds per run in the kernels of each model."""

    def run_seconds(self, models: Sequence[Small], threads: int) -> list[float]:
        """Seconds per run of each model."""


def group_names(trace: Trace) -> dict[int, str]:
    """Group index -> its first layer, numbered where several groups begin there."""
    seen: dict[str, int] = {}
    names = {}
    for group in trace.groups:
        count = seen[group.layers[0]] = seen.get(group.layers[0], 0) + 1
        names[group.index] = group.layers[0] if count == 1 else f"{group.layers[0]}#{count}"
    return names


def measured_costs(
    trace: Trace, name: str, threads: int, batch: int, timer: Timer, progress: Callable[[str], None]
) -> Costs:
    """The cost table of a traced model.

    Layers on several threads may wait longer for one another than they compute. Where they say nothing of what narrower
    models take, one thread tells how they compare.

    Args:
        trace: of the model, with inputs of the batch size.
        name: of the model.
        threads: of onnxruntime.
        batch: samples per run.
        timer: the machine.
        progress: called with the name of each stage.

    Raises:
        InputError: it is written back in a form that cannot be cut, or does not run.
    """
    if trace.leave(trace.facts.model, trace.facts.model) is not trace.facts.model:
        raise InputError(
            "latency cannot be planned for operators on integers, or for layers in bodies of If, Loop or Scan: "
            "take --budget macs=F"
        )
    made = _Made(trace, timer, progress)
    costs = made.costs(name, threads, batch, threads)
    if threads == 1 or costs.explains:
        return costs
    alone = made.costs(name, threads, batch, 1)
    return alone if alone.explains else costs


@dataclass(eq=False)
class _Made:
    """A table in the making.

    Attributes:
        grid: group index -> widths that are measured, the original's first.
        orders: group index -> channels in the order in which they go.
        threads: of layers. known: what was measured of them with so many, by digests.
        points: by piece, what it takes at the widths of its groups.
        whole: by piece, what was measured of it as it is, and how many numbers it reads.
        waiting: small models that are to be timed, by their digests; places: which points they are.
    """

    trace: Trace
    timer: Timer
    progress: Callable[[str], None]
    pieces: Sequence[Piece] = ()
    grid: dict[int, Ints] = field(default_factory=dict)
    orders: dict[int, Ints] = field(default_factory=dict)
    threads: int = 0
    known: dict[str, Row] = field(default_factory=dict)
    points: list[dict[tuple[int, ...], float]] = field(default_factory=list)
    whole: dict[int, tuple[Row, int]] = field(default_factory=dict)
    waiting: dict[str, Small] = field(default_factory=dict)
    places: list[tuple[int, tuple[int, ...], str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pieces = pieces_of(self.trace)
        self.bench = Workbench(self.trace, self.pieces)
        for group in self.trace.groups:
            order = removable(group)
            self.orders[group.index] = order
            self.grid[group.index] = _grid(self.trace, group, len(order))
        self.colours = _coloured(self.pieces, [g.index for g in self.trace.groups])

    def costs(self, name: str, threads: int, batch: int, threads_of_layers: int) -> Costs:
        """The table; threads: of whole models."""
        self.threads = threads_of_layers
        self.known, self.whole = self.kept.read(), {}
        self.points = [{} for _ in self.pieces]
        self._scan()
        self._pair()
        return self._table(name, threads, batch)

    @property
    def kept(self) -> Kept:
        """Where measurements of layers with so many threads are kept."""
        return Kept.of(self.threads)

    def _scan(self) -> None:
        """Each group alone, at each of its widths."""
        plans: list[dict[int, int]] = [{}]
        for colour in sorted(set(self.colours.values())):
            mine = [index for index, one in self.colours.items() if one == colour]
            for at in range(1, max(len(self.grid[index]) for index in mine)):
                plans.append({index: int(self.grid[index][at]) for index in mine if at < len(self.grid[index])})
        self._measure(plans)

    def _pair(self) -> None:
        """Two groups of a piece together."""
        good = {index: self._some(index) for index in self.grid}
        plans = []
        for one, two in combinations(sorted(set(self.colours.values())), 2):
            for i, j in product(range(len(SHARES)), repeat=2):
                at = {one: i, two: j}
                plans.append({g: good[g][at[c]] for g, c in self.colours.items() if c in at and good[g]})
        self._measure(plans)

    def _table(self, name: str, threads: int, batch: int) -> Costs:
        """The table, when layers are known."""
        names, progress = group_names(self.trace), self.progress
        progress("costs: whole models")
        good = {index: self._some(index) for index in self.grid}
        plans: list[dict[int, int]] = [{}]
        plans += [{g: widths[at] for g, widths in good.items() if widths} for at in range(len(SHARES))]
        wholes, sums = [], []
        for plan, at in self._built(plans):
            self._ask(plan, at)
            self._answer()
            wholes.append(at.whole)
            sums.append(sum(self._taken(number, plan) for number in range(len(self.pieces))))
        seconds = self.timer.run_seconds(wholes, threads)
        rows = [WholeCost(_rounded(s), _rounded(w)) for s, w in zip(sums, seconds, strict=True)]
        layers = []
        for piece, points in zip(self.pieces, self.points, strict=True):
            found: list[Point] = list(points.items())
            layers.append(LayerCosts(piece.layer, tuple(names[g] for g in piece.groups), tuple(found)))
        grid = {names[index]: tuple(widths.tolist()) for index, widths in self.grid.items()}
        return Costs(name, machine(), threads, batch, grid, tuple(layers), tuple(rows))

    # ---- measuring

    def _measure(self, plans: Sequence[Mapping[int, int]]) -> None:
        for number, (plan, at) in enumerate(self._built(plans), 1):
            self.progress(Step("costs", number, len(plans), "layers"))
            self._ask(plan, at)
        self._answer()

    def _built(self, plans: Sequence[Mapping[int, int]]) -> Iterator[tuple[Widths, At]]:
        """The models of some widths; without the groups whose shapes do not work out."""
        for plan in plans:
            left = dict(plan)
            while True:
                try:
                    at = self.bench.at({g: self.orders[g][: int(self.grid[g][0]) - w] for g, w in left.items()})
                except Disagreement as problem:
                    concerned = set(self.trace.group_of[problem.units].tolist()) & left.keys() or left
                    left = {g: w for g, w in left.items() if g not in concerned}
                else:
                    yield left, at
                    break

    def _ask(self, plan: Widths, at: At) -> None:
        """Has pieces timed at some widths, as far as that is not known, together with others."""
        for number, piece in enumerate(self.pieces):
            widths = self._widths(number, plan)
            if widths in self.points[number]:
                continue
            small = at.small(piece)
            key = digest(small)
            if key not in self.known and key not in self.waiting:
                if not may_be_open([yardstick(), *self.waiting.values(), small]):
                    self._answer()
                self.waiting[key] = small
            size = sum(value.size for value in small.feed.values())
            self.places.append((number, widths, key, size))
            self.points[number][widths] = np.inf

    def _answer(self) -> None:
        new = self._timed()
        self.known |= new
        self.kept.add(new)
        for number, widths, key, size in self.places:
            taken = self.known[key]
            first, whole = self.whole.setdefault(number, (taken, size))
            self.points[number][widths] = _rounded(_in_place(taken, first, size / max(1, whole)))
        self.waiting.clear()
        self.places.clear()

    def _timed(self) -> dict[str, Row]:
        """What is waiting, timed beside the yardstick: seconds of this machine as it was when that was timed first.

        Others that run on it may slow it down to a half, for as long as many small models take.
        """
        if not self.waiting:
            return {}
        found = self.timer.kernel_seconds([yardstick(), *self.waiting.values()], self.threads)
        now, *rows = map(_numbers, found)
        key = digest(yardstick())
        first = self.known.get(key, now)
        faster = first[0] / now[0] if now[0] else 1.0
        return {key: first} | {one: _scaled(row, faster) for one, row in zip(self.waiting, rows, strict=True)}

    def _widths(self, number: int, plan: Widths) -> tuple[int, ...]:
        return tuple(plan.get(g, int(self.grid[g][0])) for g in self.pieces[number].groups)

    def _taken(self, number: int, plan: Widths) -> float:
        return self.points[number][self._widths(number, plan)]

    def _some(self, index: int) -> list[int]:
        """Widths of a group near `SHARES`, of those that are worth while; none where no width is."""
        mine = [n for n, piece in enumerate(self.pieces) if index in piece.groups]
        grid = self.grid[index].tolist()
        seconds = [sum(self._known(n, {index: w}) for n in mine) for w in grid]
        good = worthwhile(grid, seconds)[1:] or grid[1:]
        return [min(good, key=lambda w: abs(w - share * grid[0])) for share in SHARES] if good else []

    def _known(self, number: int, plan: Widths) -> float:
        return self.points[number].get(self._widths(number, plan), np.inf)


def worthwhile(widths: Sequence[int], seconds: Sequence[float]) -> list[int]:
    """The widths, from the widest down, that take less than all wider ones, by `SAVES`; the widest first."""
    found, least = [widths[0]], seconds[0]
    for width, taken in zip(widths[1:], seconds[1:], strict=True):
        if taken < (1 - SAVES) * least:
            found.append(width)
            least = taken
    return found


def _grid(trace: Trace, group: Group, most: int) -> Ints:
    """[k] widths of a group that are measured, from the widest down; `most`: channels that can go."""
    whole = len(group.units)
    widths = whole - widths_allowed(trace, group, 1, most)
    if len(widths) > MOST:
        step = 2 ** ceil(log2(whole / MOST))
        round_ones = widths[widths % step == 0]
        widths = round_ones if len(round_ones) >= FEW else widths[np.linspace(0, len(widths) - 1, MOST).astype(int)]
    return np.concatenate([[whole], np.sort(widths)[::-1]]).astype(np.int64)


def _coloured(pieces: Sequence[Piece], groups: Sequence[int]) -> dict[int, int]:
    """Group index -> a colour that no other group of its pieces has."""
    near: dict[int, set[int]] = {index: set() for index in groups}
    for piece in pieces:
        for index in piece.groups:
            near[index] |= {*piece.groups} - {index}
    found: dict[int, int] = {}
    for index in sorted(groups, key=lambda g: (-len(near[g]), g)):
        taken = {found[other] for other in near[index] if other in found}
        found[index] = next(colour for colour in range(len(groups)) if colour not in taken)
    return dict(sorted(found.items()))


def _numbers(taken: Taken) -> Row:
    """What is kept of a measurement."""
    numbers = (taken.seconds, taken.into.count, taken.into.seconds, taken.back.count, taken.back.seconds)
    return tuple(_rounded(number) for number in numbers)


def _scaled(row: Row, factor: float) -> Row:
    """A measurement, the seconds of which are others."""
    seconds, into, into_seconds, back, back_seconds = row
    return tuple(map(_rounded, (factor * seconds, into, factor * into_seconds, back, factor * back_seconds)))


def _in_place(now: Row, first: Row, share: float) -> float:
    """Seconds of a piece within its network.

    As it is, it shares the layout of its neighbours. Where it no longer brings its data into that, or back, they have
    to: what it took is added. share: of the data that it read as it was.
    """
    seconds = now[0]
    for at in (1, 3):
        missing = max(0.0, first[at] - now[at])
        if missing:
            seconds += missing * share * first[at + 1] / first[at]
    return seconds


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.{DIGITS}g}")
