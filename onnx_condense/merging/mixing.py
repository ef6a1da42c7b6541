"""Channels of products of data that go: what each of them is of all that stay, and what the other side takes up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_condense.arrays import Array, Ints
from onnx_condense.merging.entries import whole
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.long_arrays import AnyArray, put, take
from onnx_condense.merging.paths import Path, by_channel, from_channels
from onnx_condense.tracing.labels import UnionFind, atoms_of
from onnx_condense.tracing.trace import Group, Trace


@dataclass(frozen=True, eq=False)
class Mix:
    """What the channels of a group that go are of those that stay, in products of data: instead of one main channel.

    x_j = Σ matrix[j, m] · x_m of one side, over the channels m of its line that stay; the rows of the other one are
    u_m + Σ matrix[j, m] · u_j then.

    Attributes:
        group: its index in the trace.
        side: of products, that takes up what goes.
        source: what the matrix follows from.
        matrix: [channels that go, channels of a line that stay]; where lines keep fewer, the rest counts for nothing.
    """

    group: int
    side: int
    source: Evidence
    matrix: AnyArray

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mix):
            return NotImplemented
        named = (self.group, self.side, self.source) == (other.group, other.side, other.source)
        return named and np.array_equal(self.matrix, other.matrix)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; long arrays stand in it as they are."""
        return {"group": self.group, "side": self.side, "source": self.source, "matrix": put(self.matrix)}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Mix:
        """The inverse of `to_json`. Raises ValueError for numbers that are not finite."""
        matrix = np.asarray(take(content["matrix"]))
        if matrix.dtype.kind != "f" or matrix.ndim != 2 or not np.isfinite(matrix).all():
            raise ValueError("what a product takes up is no matrix of numbers")
        return Mix(whole(content["group"]), whole(content["side"]), Evidence(content["source"]), matrix)


@dataclass(frozen=True, eq=False)
class Blend:
    """A mix on one path: of each line, places that go, places that stay, and the matrix; None where they only go."""

    path: Path
    blocks: tuple[tuple[Ints, Ints, Array | None], ...]

    def of(self, value: Array) -> Array:
        """The weight, or the shifts of a producer's rows, [rows]."""
        axes = self.path.slot.axes if value.ndim > 1 else (0,)
        rows = by_channel(value, axes).astype(np.float64)
        flat = rows.reshape(len(rows), -1)
        for gone, stay, matrix in self.blocks:
            if matrix is not None:
                flat[stay] += matrix.T @ flat[gone]
            flat[gone] = 0
        return from_channels(flat.reshape(rows.shape), axes, value.shape).astype(value.dtype)


def lines_of(trace: Trace, group: Group) -> Ints:
    """[n] the line of each channel of a group: those of one line are added up together."""
    sets = UnionFind()
    sets.grow(len(group.units))
    for pairing in trace.pairings:
        units = trace.unit_of[atoms_of(pairing.left)]
        places = np.where(trace.group_of[units] == group.index, trace.place_of[units], -1)
        for line in np.unique(pairing.lines[places >= 0]):
            mine = np.unique(places[(pairing.lines == line) & (places >= 0)])
            sets.unite(mine[:-1], mine[1:])
    return sets.roots()


@dataclass(frozen=True, eq=False)
class Mixed:
    """A mix, and what it makes of weights and shifts: (node, input) -> blends, one after the other."""

    mix: Mix
    blends: Mapping[tuple[int, int], Sequence[Blend]]


def mixed(mine: Iterable[Path], mix: Mix, lines: Ints, stays: Ints) -> Mixed:
    """A mix on the paths of partners of a group. Raises ValueError.

    lines: [n] of the group's channels. stays: [k] those that do.
    """
    lost = np.unique(lines[np.setdiff1d(np.arange(len(lines)), stays)])
    if mix.matrix.shape[1] != max((int((lines[stays] == line).sum()) for line in lost.tolist()), default=0):
        raise ValueError("what products of data take up has another shape")
    blends: dict[tuple[int, int], list[Blend]] = {}
    for path in mine:
        blends.setdefault((path.slot.node, path.slot.input), []).append(_blend(path, mix, lines, stays))
    return Mixed(mix, blends)


def _blend(path: Path, mix: Mix, lines: Ints, stays: Ints) -> Blend:
    """A mix on a path."""
    number = np.full(len(lines), -1)
    kept = np.isin(np.arange(len(lines)), stays)
    number[~kept] = np.arange(int((~kept).sum()))
    blocks: list[tuple[Ints, Ints, Array | None]] = []
    for rank in np.unique(path.rank).tolist():
        here = path.rank == rank
        for line in np.unique(lines[path.units[here]]).tolist():
            mine = np.flatnonzero(here & (lines[path.units] == line))
            mine = mine[np.argsort(path.units[mine], kind="stable")]
            gone, stay = mine[~kept[path.units[mine]]], mine[kept[path.units[mine]]]
            if not len(gone):
                continue
            matrix = None
            if path.side == mix.side:
                matrix = mix.matrix[number[path.units[gone]], : len(stay)].astype(np.float64)
            blocks.append((path.places[gone], path.places[stay], matrix))
    return Blend(path, tuple(blocks))
