"""Balance: where channels vary along two axes of a tensor, every line along the one that shrinks loses equally many.

A reshape to [heads, width], a stack of two branches, the blocks of a grouped Conv: a *partition* says which channels
stand in which line; it keeps merges within lines and evens out what they lose.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_condense.arrays import Bools, Floats, Ints, Labels
from onnx_condense.operators.moves import compress
from onnx_condense.tracing.labels import atoms_of, occurrence, signals_of, varying


@dataclass(frozen=True, eq=False)
class Partition:
    """lines, units: [places] the line that each place of a tensor lies in, and the unit there (-1: none)."""

    lines: Ints
    units: Ints

    @property
    def key(self) -> frozenset[bytes]:
        """The same for two tensors that hold the same lines, in whatever order."""
        order = np.lexsort((self.units, self.lines))
        starts = np.flatnonzero(np.diff(self.lines[order])) + 1
        return frozenset(part.tobytes() for part in np.split(self.units[order], starts))


@dataclass(frozen=True, eq=False)
class Balance:
    """How a graph's tensors shrink where channels vary along several axes.

    cuts: by the bytes of a tensor's units (see `units_along`), the axis that shrinks. partitions: all different ones.
    """

    unit_of: Ints
    cuts: Mapping[tuple[tuple[int, ...], bytes], int] = field(default_factory=dict)
    partitions: tuple[Partition, ...] = ()

    def cut(self, labels: Labels) -> tuple[Ints, int]:
        """(units, of the shape that `units_along` gives; the axis along which a tensor with these labels shrinks)."""
        units = units_along(labels, self.unit_of)
        axes = varying(units)
        if len(axes) < 2:
            return units, axes[0] if axes else 0
        return units, self.cuts.get((units.shape, units.tobytes()), axes[-1])


def units_along(labels: Labels, unit_of: Ints) -> Ints:
    """The unit of each label (-1: none), in their shape; along axes on which units do not vary it is 1."""
    atoms = atoms_of(labels)
    return compress(np.where(atoms >= 0, unit_of[atoms], -1))


def partition(units: Ints, cut: int) -> Partition:
    """The lines along an axis of units of any shape."""
    moved = np.moveaxis(units, cut, -1)
    return Partition(np.arange(moved.size) // moved.shape[-1], moved.reshape(-1))


def balance(
    tensors: Iterable[Labels], fixed: Iterable[tuple[Labels, Collection[int]]], blocks: Iterable[Labels], unit_of: Ints
) -> Balance:
    """Chooses the axis along which each tensor shrinks.

    Args:
        tensors: labels of every tensor and weight.
        fixed: labels of tensors with axes that may not shrink (a batch axis of a product of two tensors, say).
        blocks: [groups, channels per group] labels of grouped convolutions, which shrink along the second axis.
        unit_of: atom -> unit.

    A tensor with one axis left goes first; the others take a partition that is chosen already, else their last axis.
    """
    found: dict[tuple[tuple[int, ...], bytes], tuple[Ints, set[int]]] = {}
    for labels, axes in [*((t, ()) for t in tensors), *fixed]:
        units = units_along(labels, unit_of)
        if len(varying(units)) > 1:
            key = units.shape, units.tobytes()
            found.setdefault(key, (units, set()))[1].update([*axes, *_mixed(labels, varying(units), unit_of)])
    chosen: dict[frozenset[bytes], Partition] = {}
    for labels in blocks:
        _add(chosen, partition(np.where(labels >= 0, unit_of[atoms_of(labels)], -1), 1))
    cuts = {}

    def allowed(key: tuple[tuple[int, ...], bytes]) -> list[int]:
        units, barred = found[key]
        return [a for a in varying(units) if a not in barred] or [varying(units)[-1]]

    for key in sorted(found, key=lambda k: len(allowed(k))):
        units = found[key][0]
        options = [(axis, partition(units, axis)) for axis in allowed(key)]
        cut, lines = next(((a, p) for a, p in options if p.key in chosen), options[-1])
        cuts[key] = cut
        _add(chosen, lines)
    return Balance(unit_of, cuts, tuple(chosen.values()))


def _mixed(labels: Labels, axes: Sequence[int], unit_of: Ints) -> Sequence[int]:
    """The axes along which channels are not computed alike, where there is one along which they are."""
    signals = np.where(labels < 0, -1, signals_of(labels))
    mixed = [a for a in axes if not np.array_equal(np.broadcast_to(signals.take([0], a), signals.shape), signals)]
    if 0 < len(mixed) == len(axes):
        return []
    units = np.where(labels < 0, -1, unit_of[atoms_of(labels)]) if mixed else labels
    return [a for a in mixed if not _periodic(np.moveaxis(signals, a, -1), np.moveaxis(units, a, -1))]


def _periodic(signals: Ints, units: Ints) -> bool:
    """Whether the units of each line [..., n] stand in several places: all the first ones alike, the second, ..."""
    for through, line in zip(signals.reshape(-1, signals.shape[-1]), units.reshape(-1, units.shape[-1]), strict=True):
        rank = occurrence(line)
        if not rank.max() or any(np.ptp(through[rank == number]) for number in range(int(rank.max()) + 1)):
            return False
    return True


def _add(chosen: dict[frozenset[bytes], Partition], lines: Partition) -> None:
    if lines.lines.max() > 0:
        chosen.setdefault(lines.key, lines)


def even_out(removed: Bools, cosine: Floats, partitions: Sequence[Partition]) -> Bools:
    """Which removals stand when every line loses as many places as any other; the lowest cosines are given up first.

    Args:
        removed: [n] channels that are to go. cosine: [n] of each to what it merges into.
        partitions: units are indices of channels.
    """
    removed = removed.copy()
    order = np.lexsort((np.arange(len(removed)), cosine))
    changed = True
    while changed:
        changed = False
        for part in partitions:
            losses = np.bincount(part.lines, removed[part.units])
            for line in np.flatnonzero(losses > losses.min()):
                inside = np.bincount(part.units[part.lines == line], minlength=len(removed))
                candidates = order[removed[order] & (inside[order] > 0)]
                surplus = inside[removed].sum() - losses.min()
                if surplus <= 0:  # its channels stand in a line that came before
                    continue
                given_up = candidates[: int(np.searchsorted(np.cumsum(inside[candidates]), surplus) + 1)]
                removed[given_up] = False
                changed = True
    return removed
