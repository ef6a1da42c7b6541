"""The numbers behind signals, for the units of one cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, TypeVar

import numpy as np

from onnx_condense.algebra.signals import Activated, Affine, Filtered, Recurrence, Restricted, Rows, Signal
from onnx_condense.arrays import Bools, Floats, Ints

S = TypeVar("S", bound="Signal")
T = TypeVar("T")


class Weights:
    """The weights that signals are evaluated on; state.State implements it with what was merged so far.

    rows(node): [produced, p] times alpha. row_bias(node): [produced]. taps(node): [outputs, p].
    tap_bias(node): [outputs]. recurrence(node): [directions · units, p] of the gates that must be equal, with biases,
    and [directions · units, q] of the candidate, with biases, peepholes and initial states.
    """

    def rows(self, node: int) -> Floats:
        raise NotImplementedError

    def row_bias(self, node: int) -> Floats:
        raise NotImplementedError

    def taps(self, node: int) -> Floats:
        raise NotImplementedError

    def tap_bias(self, node: int) -> Floats:
        raise NotImplementedError

    def recurrence(self, node: int) -> tuple[Floats, Floats]:
        raise NotImplementedError


class Numbers:
    """The numbers behind signals, for the units of one cell.

    Args:
        weights: where numbers come from.
        unit_of: atom -> unit.
        units: the n units; everything is returned in their order.
        tolerance: relative rounding error that still counts as exact.
    """

    def __init__(
        self, weights: Weights, unit_of: Ints, units: Ints, tolerance: float, allowed: Bools | None = None
    ) -> None:
        self.weights = weights
        self.unit_of = unit_of
        self.units = units
        self.tolerance = tolerance
        self._allowed = allowed
        self._index = np.full(int(unit_of.max(initial=-1)) + 1, -1, dtype=np.int64)
        self._index[units] = np.arange(len(units))
        self._inner: dict[int, Self] = {}
        self._memory: dict[tuple[str, int], Any] = {}

    def _once(self, question: str, signal: S, answer: Callable[[S], T]) -> T:
        """Answers a question about a signal once."""
        key = question, id(signal)
        if key not in self._memory:
            self._memory[key] = answer(signal)
        result: T = self._memory[key]
        return result

    def positions(self, atoms: Ints) -> Ints:
        """Where each unit's atoms stand in `atoms`: [n, k]; every unit of a cell has equally many."""
        index = self._index[self.unit_of[atoms]]
        if self._allowed is not None:
            index = np.where(self._allowed[atoms], index, -1)
        order = np.argsort(index, kind="stable")
        return order[np.count_nonzero(index < 0) :].reshape(len(self.units), -1)

    def _restricted(self, signal: Restricted) -> Self:
        if id(signal) not in self._inner:
            allowed = np.zeros(len(self.unit_of), dtype=bool)
            allowed[signal.atoms] = True
            self._inner[id(signal)] = type(self)(self.weights, self.unit_of, self.units, self.tolerance, allowed)
        return self._inner[id(signal)]

    def _parameters(self, signal: Affine) -> tuple[Floats, Floats, Floats]:
        first = self.positions(signal.atoms)[:, 0]
        return signal.scale[first], signal.shift[first], signal.magnitude[first]

    def _slopes(self, signal: Activated) -> Floats:
        assert signal.atoms is not None and signal.slope is not None
        return signal.slope[self.positions(signal.atoms)[:, 0]]

    def _leaf(self, signal: Rows) -> tuple[Floats, Floats]:
        """Vectors [n, k·p] and biases [n, k] of a producer."""
        return self._once("leaf", signal, self._read_leaf)

    def _read_leaf(self, signal: Rows) -> tuple[Floats, Floats]:
        where = self.positions(signal.atoms)
        rows = self.weights.rows(signal.node)
        full = np.array_equal(where[:, 0], np.arange(len(rows))) and where.shape[1] == 1
        return rows if full else rows[where].reshape(len(where), -1), self.weights.row_bias(signal.node)[where]

    def _kernels(self, signal: Filtered) -> tuple[Floats, Floats]:
        """Kernels [n, k·p] and biases [n, k] of a depthwise Conv."""
        where = signal.kernels[self.positions(signal.atoms)]
        taps = self.weights.taps(signal.node)
        return taps[where].reshape(len(where), -1), self.weights.tap_bias(signal.node)[where]

    def _gates(self, signal: Recurrence) -> tuple[Floats, Floats]:
        """[n, k·p] of the gates and [n, k·q] of the candidate of recurrent units."""
        return self._once("gates", signal, self._read_gates)

    def _read_gates(self, signal: Recurrence) -> tuple[Floats, Floats]:
        where = signal.first + self.positions(signal.atoms)
        gates, candidates = self.weights.recurrence(signal.node)
        return gates[where].reshape(len(where), -1), candidates[where].reshape(len(where), -1)
