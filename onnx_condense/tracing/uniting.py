"""Places that must keep the same channels: along an axis that a node mixes, they become one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onnx_condense.algebra.signals import Combined, Restricted, Signal
from onnx_condense.arrays import Bools, Labels
from onnx_condense.operators.between import Operation
from onnx_condense.operators.reasons import Reason
from onnx_condense.tracing.labels import atoms_of, pack, signals_of
from onnx_condense.tracing.outcomes import Stay
from onnx_condense.tracing.parameters import MOST_OCCURRENCES
from onnx_condense.tracing.walk import Place, Walk


def uniform(walk: Walk, place: Place, labels: Labels, axes: Iterable[int]) -> Labels:
    """Labels whose shape is 1 along the axes that a node mixes: atoms that varied there are united. Raises Stay."""
    for axis in axes:
        if labels.shape[axis] == 1:
            continue
        if (labels < 0).any():
            raise Stay(labels, place.because(Reason.READ_BESIDE))
        first = np.broadcast_to(labels.take([0], axis), labels.shape)
        alike: dict[bytes, list[int]] = {}
        for spot in range(labels.shape[axis]):
            alike.setdefault(signals_of(labels.take([spot], axis)).tobytes(), []).append(spot)
        if len(alike) > MOST_OCCURRENCES:
            raise Stay(labels, place.because(Reason.IN_SPACE))
        walk.sets.unite(atoms_of(first).reshape(-1), atoms_of(labels).reshape(-1))
        parts = [labels.take(spots, axis) for spots in alike.values()]
        labels = parts[0].take([0], axis) if len(parts) == 1 else _chosen_from(walk, parts, axis)
    return labels


def restricted(walk: Walk, row: Labels) -> Labels:
    """[n] labels of one side of a product, their signals at the atoms of that side alone."""
    atoms, sources, result = atoms_of(row), signals_of(row), np.empty_like(row)
    for key in np.unique(sources):
        mask = sources == key
        result[mask] = pack(atoms[mask], walk.signal(Restricted(walk.signals[key], np.unique(atoms[mask]))))
    return result


def _chosen_from(walk: Walk, parts: list[Labels], axis: int) -> Labels:
    """Labels of parts that lie beside each other along an axis, as one: a relation must hold in each of them."""
    result = parts[0].take([0], axis)
    for number, part in enumerate(parts[1:]):
        pairs = np.stack([signals_of(result), signals_of(part.take([0], axis))])
        united = np.empty_like(result)
        for key in np.unique(pairs.reshape(2, -1), axis=1).T:
            mask = (pairs == key.reshape(2, *[1] * result.ndim)).all(0)
            left, right = walk.signals[key[0]], _restricted(walk, key[1], part, mask)
            left = left if number else _restricted(walk, key[0], parts[0], mask)
            signal = walk.signal(Combined(Operation.CHOOSE, left, right))
            united[mask] = pack(atoms_of(result[mask]), signal)
        result = united
    return result


def _restricted(walk: Walk, signal: int, part: Labels, mask: Bools) -> Signal:
    """A signal at the atoms of those channels of a part."""
    return Restricted(walk.signals[signal], np.unique(atoms_of(part[np.broadcast_to(mask, part.shape)])))
