"""Constants that lie along channels: the part that meets each channel, and what it makes of the channel's signal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnx_condense.algebra.signals import Affine, Shared, Signal, Stated
from onnx_condense.arrays import Array, Floats, Ints, Labels
from onnx_condense.operators.answers import Role
from onnx_condense.operators.reasons import Reason
from onnx_condense.operators.tables import rows_of
from onnx_condense.tracing.labels import atoms_of, occurrence, pack, signals_of, varying
from onnx_condense.tracing.outcomes import Stay
from onnx_condense.tracing.trace import Slot
from onnx_condense.tracing.walk import Place, Walk

MOST_OCCURRENCES = 64
"""How many places of one tensor may hold the same atom with different constants (as after Flatten)."""


def per_position(labels: Labels, value: Array) -> Floats:
    """[places, q]: the part of a broadcast constant that meets each labelled place."""
    value = np.asarray(value, dtype=np.float64)
    value = value.reshape((1,) * (labels.ndim - value.ndim) + value.shape)
    axes = varying(labels)
    full = np.broadcast_to(value, [labels.shape[a] if a in axes else n for a, n in enumerate(value.shape)])
    others = [a for a in range(labels.ndim) if a not in axes]
    return full.transpose([*axes, *others]).reshape(labels.size, -1)


def affine(
    walk: Walk, place: Place, labels: Labels, scale: Floats, shift: Floats, stated: Stated | None = None
) -> Labels:
    """Labels of scale · channel + shift.

    Args:
        walk: the pass. place: the node.
        labels: of the channels, with n places.
        scale, shift: [n, q] what each place meets.
        stated: [n] what a BatchNormalization says of the result; its shift is that mean less the scaled one before it.

    Raises:
        Stay: where an atom stands in too many places.
    """
    magnitude = np.abs(shift)
    if stated is not None:
        magnitude = np.abs(stated.mean[:, None]) + np.abs(stated.mean[:, None] - shift)

    def make(child: Signal, atoms: Ints, places: Ints) -> Signal:
        known = None if stated is None else Stated(stated.mean[places], stated.deviation[places])
        return Affine(child, atoms, scale[places], shift[places], magnitude[places], known)

    result = split_signals(walk, labels.reshape(-1), np.hstack([scale, shift]), make)
    if result is None:
        raise Stay(labels, place.because(Reason.REPEATS))
    return result.reshape(labels.shape)


def split_signals(
    walk: Walk, row: Labels, values: Floats, make: Callable[[Signal, Ints, Ints], Signal]
) -> Labels | None:
    """One new signal per distinct one; places of the same atom with different values get signals of their own.

    Args:
        row: [places] labels.
        values: [places, q] what each place meets.
        make: a signal from that of some places, [m] their atoms and [m] the places.

    Returns:
        [places] labels, None where an atom stands in too many places.
    """
    atoms, sources, rank = atoms_of(row), signals_of(row), occurrence(row)
    if rank.max(initial=0):
        order = np.lexsort((rank, row))
        first = order[np.flatnonzero(rank[order] == 0)]
        head = first[np.cumsum(rank[order] == 0) - 1]
        if np.array_equal(values[order], values[head]):
            rank = np.zeros_like(rank)
    if rank.max(initial=0) >= MOST_OCCURRENCES:
        return None
    result = np.full(len(row), -1, dtype=np.int64)
    keys = np.where(atoms >= 0, sources * MOST_OCCURRENCES + rank, -1)
    for key in np.unique(keys[keys >= 0]).tolist():
        places, signal = np.flatnonzero(keys == key), walk.signals[key // MOST_OCCURRENCES]
        result[places] = pack(atoms[places], walk.signal(make(signal, atoms[places], places)))
    return result


def constant_channels(walk: Walk, values: Floats) -> Labels:
    """New channels that are constant: [channels] labels from [channels, places] values."""
    atoms = walk.sets.grow(len(values))
    flat, nothing = values[:, :1], np.zeros_like(values)
    if (values == flat).all():
        return pack(atoms, walk.signal(Affine(Shared(), atoms, nothing[:, :1], flat, np.abs(flat))))
    return pack(atoms, walk.signal(Affine(Shared(), atoms, values, nothing, nothing)))


def carry_rows(walk: Walk, name: str, labels: Labels) -> bool:
    """Holds a constant whose rows, as many as inputs say, meet channels, in labels of any shape; False of another."""
    index = rows_of(walk.facts, name) if walk.through_norms and varying(labels) == (labels.ndim - 1,) else None
    table = None if index is None else walk.facts.value(walk.facts.nodes[index].inputs[0])
    if index is None or table is None or table.shape[-1] != labels.size:
        return False
    walk.hold(Slot(index, 0, Role.CARRIED, labels.reshape((1,) * (table.ndim - 1) + (-1,))))
    walk.followed.add(name)
    return True


def carry(walk: Walk, place: Place, position: int, labels: Labels, value: Array) -> None:
    """A constant, of a shape that broadcasts to that of the labels: sliced where it varies along a labelled axis."""
    view = labels
    for axis in varying(labels):
        behind = axis - (labels.ndim - value.ndim)
        if behind < 0 or value.shape[behind] == 1:
            view = view.take([0], axis)
    if 1 < view.size < labels.size:  # lines may keep different channels: each gets numbers of its own
        walk.hold(Slot(place.index, position, Role.CARRIED, labels))
    elif view.size > 1:
        kept = view.reshape(view.shape[view.ndim - value.ndim :]) if view.ndim > value.ndim else view
        walk.hold(Slot(place.index, position, Role.CARRIED, kept))
