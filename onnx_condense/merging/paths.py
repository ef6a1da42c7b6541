"""The places at which consumers read a group's channels; so do their partners in products of data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from onnx_condense.arrays import Array, Ints
from onnx_condense.operators.answers import Role
from onnx_condense.tracing.labels import atoms_of, occurrence, signals_of
from onnx_condense.tracing.trace import Group, Slot, Trace


@dataclass(frozen=True, eq=False)
class Path:
    """The places of one weight's contracted axis that hold a group's channels through one signal.

    Or those of the rows or shifts that make the channels' partners in products of data, through what they are
    multiplied with: what is read of channels that go is added to these (see tracing/pairs.py).

    Attributes:
        number: in order of first appearance; negative for partners.
        signal: its index in the trace.
        units: [k] group channel at each place.
        rank: [k] how many earlier places hold the same channel.
        places: [k] indices into the flattened labels.
    """

    slot: Slot
    number: int
    signal: int
    units: Ints
    rank: Ints
    places: Ints

    @property
    def side(self) -> int:
        """The side of products that it makes, -1 of what reads channels."""
        return self.slot.side

    def reads(self, cell: Ints) -> bool:
        """Whether it holds the channels [m] of a cell."""
        return not len(cell) or bool((self.units == cell[0]).any())


def paths(trace: Trace, group: Group) -> Sequence[Path]:
    """Every path by which a consumer reads a group, then those of partners."""
    return _known(trace, group).paths


def paths_at(trace: Trace, group: Group, places: Iterable[tuple[int, int]]) -> Iterator[Path]:
    """Those of them that lie at some (node, input), in the same order."""
    known = _known(trace, group)
    for number in sorted(number for place in set(places) for number in known.at.get(place, ())):
        yield known.paths[number]


@dataclass(frozen=True, eq=False)
class _Paths:
    """The paths of a group, and the numbers of those at each (node, input)."""

    paths: tuple[Path, ...]
    at: Mapping[tuple[int, int], Sequence[int]]


_KNOWN: WeakKeyDictionary[Trace, dict[int, _Paths]] = WeakKeyDictionary()


def _known(trace: Trace, group: Group) -> _Paths:
    mine = _KNOWN.setdefault(trace, {})
    if group.index not in mine:
        found, at = tuple(_paths(trace, group)), dict[tuple[int, int], list[int]]()
        for number, path in enumerate(found):
            at.setdefault((path.slot.node, path.slot.input), []).append(number)
        mine[group.index] = _Paths(found, at)
    return mine[group.index]


def _paths(trace: Trace, group: Group) -> Iterator[Path]:
    contracted = (slot for slot in trace.slots_of(group) if slot.role is Role.CONTRACTED)
    for slot in (*contracted, *trace.pairs_of(group)):
        row = slot.labels.reshape(-1)
        atoms = atoms_of(row)
        found = trace.unit_of[atoms]
        units = np.where((atoms >= 0) & (trace.group_of[found] == group.index), trace.place_of[found], -1)
        inside = np.flatnonzero(units >= 0)
        sources = signals_of(row)
        for number, signal in enumerate(dict.fromkeys(sources[inside].tolist())):
            places = inside[sources[inside] == signal]
            number = number if slot.side < 0 else -1 - 2 * number - slot.side
            yield Path(slot, number, signal, units[places], occurrence(units[places]), places)


def sides_of(mine: Iterable[Path], cell: Ints) -> tuple[int, ...]:
    """The sides of products whose rows may take up the channels [k] of a cell that go; -1 alone without products."""
    found = {path.side for path in mine if path.side >= 0 and path.reads(cell)}
    return tuple(sorted(found)) or (-1,)


def by_channel(weight: Array, axes: tuple[int, ...], groups: int = 1) -> Array:
    """[channels, ...]: a weight's slices along the axes that its channels lie on.

    On its second axis the weight of a grouped convolution, [groups · a, b, ...], has the channels of one group; all are
    on the first of the view [groups · b, a, ...].
    """
    if groups > 1 and axes == (1,):
        return _swapped(weight, groups)
    moved = weight.transpose([*axes, *(axis for axis in range(weight.ndim) if axis not in axes)])
    return moved.reshape(-1, *moved.shape[len(axes) :])


def from_channels(slices: Array, axes: tuple[int, ...], shape: tuple[int, ...], groups: int = 1) -> Array:
    """The weight, of a shape, that has these slices (see `by_channel`)."""
    if groups > 1 and axes == (1,):
        return _swapped(slices, groups)
    moved = slices.reshape(*(shape[axis] for axis in axes), *slices.shape[1:])
    return np.moveaxis(moved, range(len(axes)), axes)


def _swapped(weight: Array, groups: int) -> Array:
    """[groups · a, b, ...] as [groups · b, a, ...]; its own inverse."""
    swapped = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    return swapped.reshape(-1, *swapped.shape[2:])
