"""The numbers behind signals, for the units of one cell, and when two of them count as equal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from onnx_condense.algebra.signals import Activated, Affine, Filtered, Recurrence, Restricted, Rows, Signal
from onnx_condense.arrays import Bools, Floats, Ints

S = TypeVar("S", bound="Signal")
T = TypeVar("T")
A = TypeVar("A")


class Weights(Protocol):
    """The weights that signals are evaluated on: those of a twin, with what was merged so far."""

    def rows(self, node: int) -> Floats:
        """[produced, p]: the vectors of a linear map, times alpha."""

    def row_bias(self, node: int) -> Floats:
        """[produced]."""

    def convolves(self, node: int) -> bool:
        """Whether a linear map is a convolution."""

    def taps(self, node: int) -> Floats:
        """[outputs, p]: the kernels of a depthwise convolution."""

    def tap_bias(self, node: int) -> Floats:
        """[outputs]."""

    def recurrence(self, node: int) -> tuple[Floats, Floats]:
        """[directions · units, p] of the gates that must be equal, and [directions · units, q] of the candidate.

        Biases are among both, peepholes and initial states among the candidate's.
        """


@dataclass(frozen=True)
class Relation:
    """x_j = ratio · x_m + constant for pairs (j, m); `exact` where it holds to rounding, of values of size `scale`."""

    ratio: Floats
    constant: Floats
    exact: Bools
    scale: Floats


class Answers(Generic[A]):
    """The answers to one question, for signals and what lies below them: each is given once, without recursion.

    Args:
        rule: gives the answer for a signal; what it asks of signals directly below has an answer already.
    """

    def __init__(self, rule: Callable[[Any, Numbers], A]) -> None:
        self._rule = rule
        self._found: dict[tuple[bytes, Signal], A] = {}

    def of(self, signal: Signal, numbers: Numbers) -> A:
        """The answer for a signal, on these numbers."""
        waiting = [(numbers, signal)]
        while waiting:
            where, what = waiting[-1]
            key = where.name, what
            missing = [] if key in self._found else [(n, s) for n, s in below(where, what) if not self._knows(n, s)]
            waiting += missing
            if missing:
                continue
            if key not in self._found:
                self._found[key] = self._rule(what, where)
            waiting.pop()
        return self._found[numbers.name, signal]

    def _knows(self, numbers: Numbers, signal: Signal) -> bool:
        return (numbers.name, signal) in self._found


def below(numbers: Numbers, signal: Signal) -> Iterator[tuple[Numbers, Signal]]:
    """What a signal is made of, with the numbers that count there."""
    inner = numbers.restricted(signal) if isinstance(signal, Restricted) else numbers
    return ((inner, child) for child in signal.below)


class Numbers:
    """The numbers behind signals, for the units of one cell, and the memory of what was asked of them.

    Args:
        weights: where numbers come from.
        unit_of: atom -> unit.
        units: the n units; everything is returned in their order.
        tolerance: relative rounding error that still counts as exact.
        apart: whether what a BatchNormalization adds is no part of a channel's vector (paper, section 2.2.3: the
            vector is the kernel, and a BatchNormalization a layer of its own).

    Answers name the numbers that they were given for (`name`), and do not hold them: a circle would keep large weights
    until Python looks for circles.
    """

    def __init__(self, weights: Weights, unit_of: Ints, units: Ints, tolerance: float, apart: bool = False) -> None:
        self.weights = weights
        self.unit_of = unit_of
        self.units = units
        self.tolerance = tolerance
        self.apart = apart
        self.name = b""
        self._allowed: Ints | None = None
        self._idle: Bools = np.zeros(len(units), dtype=bool)
        self._order = np.argsort(units, kind="stable")
        self._sorted = units[self._order]
        self._inner: dict[bytes, Numbers] = {}
        self._answers: dict[Callable[..., Any], Answers[Any]] = {}

    def once(self, question: Callable[[S, Numbers], T], signal: S) -> T:
        """Answers a question about a signal once."""
        result: T = self._answers.setdefault(question, Answers(question)).of(signal, self)
        return result

    def positions(self, atoms: Ints) -> Ints:
        """Where each unit's atoms stand in `atoms`: [n, k]; every unit of a cell has equally many."""
        units = self.unit_of[atoms]
        if self._allowed is None and np.array_equal(units, self.units):
            return np.arange(len(units)).reshape(-1, 1)
        near = np.minimum(np.searchsorted(self._sorted, units), len(self._sorted) - 1)
        index = np.where(self._sorted[near] == units, self._order[near], -1)
        if self._allowed is not None:
            index = np.where(np.isin(atoms, self._allowed), index, -1)
        order = np.argsort(index, kind="stable")
        return order[np.count_nonzero(index < 0) :].reshape(len(self.units), -1)

    def restricted(self, signal: Restricted) -> Numbers:
        """The same numbers at the atoms of a restriction, whatever was restricted before."""
        key = signal.atoms.tobytes()
        if key not in self._inner:
            inner = Numbers(self.weights, self.unit_of, self.units, self.tolerance, self.apart)
            inner.name, inner._allowed, inner._idle = key, signal.atoms, self._idle
            inner._inner, inner._answers = self._inner, self._answers
            self._inner[key] = inner
        return self._inner[key]

    def with_idle(self, idle: Bools) -> Numbers:
        """The same numbers of units of which some [n] count as constant where a BatchNormalization states a mean."""
        result = Numbers(self.weights, self.unit_of, self.units, self.tolerance, self.apart)
        result._allowed, result._idle = self._allowed, idle
        return result

    def parameters(self, signal: Affine) -> tuple[Floats, Floats, Floats]:
        """[n, q] each, or [n, 1]: scale, shift and magnitude of an affine, side by side for the atoms of a unit."""
        where, values = self.positions(signal.atoms), (signal.scale, signal.shift, signal.magnitude)
        apart = [_of_units(value, where) for value in values]
        if signal.scale.shape[1] > 1 and len({one.shape for one in apart}) > 1:
            apart = [value[where].reshape(len(where), -1) for value in values]
        return apart[0], apart[1], apart[2]

    def stated(self, signal: Affine) -> tuple[Floats, Floats] | None:
        """[n] each: the mean and the deviation that a BatchNormalization states; None of another affine."""
        if signal.stated is None:
            return None
        first = self.positions(signal.atoms)[:, 0]
        return signal.stated.mean[first], signal.stated.deviation[first]

    def idle_means(self, signal: Affine) -> Floats:
        """[n]: the stated means of the units that count as constant, not a number of others."""
        stated = self.stated(signal)
        return np.full(len(self.units), np.nan) if stated is None else np.where(self._idle, stated[0], np.nan)

    def slopes(self, signal: Activated) -> Floats:
        """[n, q]: the slopes of a PRelu, side by side for the atoms of a unit where they differ."""
        assert signal.atoms is not None
        assert signal.slope is not None
        return _of_units(signal.slope[:, None], self.positions(signal.atoms))

    def leaf(self, signal: Rows) -> tuple[Floats, Floats]:
        """Vectors [n, k·p] and biases [n, k] of a producer."""
        return self.once(_leaf, signal)

    def kernels(self, signal: Filtered) -> tuple[Floats, Floats]:
        """Kernels [n, k·p] and biases [n, k] of a depthwise Conv."""
        where = signal.kernels[self.positions(signal.atoms)]
        taps = self.weights.taps(signal.node)
        return taps[where].reshape(len(where), -1), self.weights.tap_bias(signal.node)[where]

    def gates(self, signal: Recurrence) -> tuple[Floats, Floats]:
        """[n, k·p] of the gates and [n, k·q] of the candidate of recurrent units."""
        return self.once(_gates, signal)

    # ---- what counts as equal

    def is_one(self, ratio: Floats) -> Bools:
        """[n] -> [n]: where a ratio is 1, but for rounding."""
        return np.asarray(np.abs(ratio - 1) <= self.tolerance)

    def same(self, left: Floats, right: Floats) -> Bools:
        """[n], [n] -> [n]: where two numbers are the same, but for rounding."""
        return np.asarray(np.abs(left - right) <= self.tolerance * np.abs(left))

    def flat(self, values: Floats, scale: Floats) -> Bools:
        """[n, q] -> [n]: where values of a size are the same everywhere."""
        return np.asarray(np.ptp(values, axis=1) <= self.tolerance * scale)

    def clean(self, constant: Floats, scale: Floats) -> Floats:
        """[n], [n] -> [n]: constants among values of a size; rounding error counts as zero."""
        return np.where(np.abs(constant) <= self.tolerance * scale, 0.0, constant)


def _of_units(values: Floats, where: Ints) -> Floats:
    """[n, k · q] from [atoms, q] and the places [n, k] of the atoms of each unit; [n, q] where those are all alike."""
    found = values[where]
    alike = where.shape[1] == 1 or (found == found[:, :1]).all()
    return found[:, 0] if alike else found.reshape(len(where), -1)


def _leaf(signal: Rows, numbers: Numbers) -> tuple[Floats, Floats]:
    where = numbers.positions(signal.atoms)
    rows = numbers.weights.rows(signal.node)
    full = np.array_equal(where[:, 0], np.arange(len(rows))) and where.shape[1] == 1
    return rows if full else rows[where].reshape(len(where), -1), numbers.weights.row_bias(signal.node)[where]


def _gates(signal: Recurrence, numbers: Numbers) -> tuple[Floats, Floats]:
    where = signal.first + numbers.positions(signal.atoms)
    gates, candidates = numbers.weights.recurrence(signal.node)
    return gates[where].reshape(len(where), -1), candidates[where].reshape(len(where), -1)
