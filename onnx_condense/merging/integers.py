"""Which merges quantized consumers can hold: those whose folded weights are values of integers again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from onnx_condense.arrays import Array, Floats, Ints
from onnx_condense.merging.paths import Path, by_channel
from onnx_condense.merging.plan import Read
from onnx_condense.merging.twin import Twin, shift_of
from onnx_condense.model.storage import Quantized
from onnx_condense.tracing.trace import Slot


def inexact(twin: Twin, paths: Sequence[Path], reads: Sequence[Read], main: Ints) -> Ints:
    """The channels whose removal a quantized weight or bias cannot absorb.

    Args:
        twin: the weights before the merges.
        paths, reads: of one group, in the same order.
        main: [n] the channel that each one is merged into, -1 for none.

    Returns:
        Indices of channels that must stay. The others are exact together: their columns are added in channel order,
        as long as the sums are representable.
    """
    totals = _Totals(twin)
    leaving = np.flatnonzero(main != np.arange(len(main)))
    return np.array([j for j in leaving.tolist() if not totals.absorb(paths, reads, j, int(main[j]))], dtype=np.int64)


class _Totals:
    """Columns and biases with what has been added to them so far."""

    def __init__(self, twin: Twin) -> None:
        self._state = twin
        self._before: dict[tuple[int, int], Floats] = {}
        self._columns: dict[tuple[int, int, int], Floats] = {}
        self._biases: dict[int, Floats] = {}

    def absorb(self, paths: Sequence[Path], reads: Sequence[Read], j: int, m: int) -> bool:
        """Adds channel j to channel m on every path, or, where one cannot hold it, on none."""
        columns: dict[tuple[int, int, int], Floats] = {}
        biases: dict[int, Floats] = {}
        for path, read in zip(paths, reads, strict=True):
            slot = path.slot
            places = path.places[path.units == j]
            stored = self._state.stored(slot.node, slot.input)
            if (
                m >= 0
                and isinstance(stored, Quantized)
                and (
                    stored.integers.dtype.itemsize > 2
                    or slot.axes != (slot.axis,)
                    or (slot.groups > 1 and slot.axis == 1)
                )
            ):
                return False
            if isinstance(stored, Quantized) and m >= 0:
                for place, target in zip(places.tolist(), path.places[path.units == m].tolist(), strict=True):
                    key = slot.node, slot.input, target
                    so_far = self._columns.get(key, self._all(slot)[target])
                    columns[key] = columns.get(key, so_far) + read.ratio[j] * self._all(slot)[place]
                    column = np.expand_dims(columns[key], slot.axis)
                    if not stored.sliced(partial(_place, axis=slot.axis, place=target)).holds(column).all():
                        return False
            if read.constant[j] and len(places):
                so_far = biases.get(slot.node, self._biases.get(slot.node))
                bias = self._with_constant(slot, places, read.constant[j], so_far)
                if bias is None:
                    return False
                biases[slot.node] = bias
        self._columns |= columns
        self._biases |= biases
        return True

    def _with_constant(self, slot: Slot, places: Ints, constant: float, bias: Floats | None) -> Floats | None:
        """The consumer's bias with a constant channel in it; None where it cannot hold that."""
        twin, action = self._state, self._state.trace.linear_map(slot.node)
        assert action is not None
        if action.bias is None:
            return None if isinstance(twin.stored(slot.node, slot.input), Quantized) else np.zeros(1)
        stored = twin.stored(slot.node, action.bias)
        if not isinstance(stored, Quantized):
            return np.zeros(1)
        if action.beta == 0:
            return None
        if bias is None:
            bias = twin.wide(slot.node, action.bias).reshape(-1) + twin.shift.get(slot.node, 0.0) / action.beta
        columns = self._all(slot)[places]
        shift = shift_of(slot, action, columns, places, np.full(len(columns), constant)) / action.beta
        total = bias + shift
        fits = total.shape == bias.shape and stored.holds(total.reshape(stored.integers.shape)).all()
        return total if fits else None

    def _all(self, slot: Slot) -> Floats:
        """The weight before the merges, by channel."""
        key = slot.node, slot.input
        if key not in self._before:
            self._before[key] = by_channel(self._state.wide(*key), slot.axes, slot.groups)
        return self._before[key]


def _place(array: Array, axis: int, place: int) -> Array:
    return array.take([place], axis) if array.shape[axis] > 1 else array
