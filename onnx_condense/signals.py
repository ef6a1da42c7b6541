"""Signals: how the value of one channel follows from the weights that produce it.

A signal is a small expression, shared by all channels of a tensor that are computed alike. Evaluated over the units
(channels) of one cell it answers four questions, all in numpy:

* intervals.py: which channels are constant, by interval facts;
* relations.py: the exact affine relation x_j = ratio · x_m + constant between two channels, where there is one;
* stages.py: which vectors must point the same way for two channels to condense, how strictly, and the relation that
  follows from the paper's norm ratios, where rows are only similar.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnx_condense.actions import Activation, Kind

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

S = TypeVar("S", bound="Signal")
T = TypeVar("T")


def epsilon(kind: np.dtype[Any]) -> float:
    """The distance from 1 to the next number of a float type."""
    return 2.0**-7 if kind.name == "bfloat16" else float(np.finfo(kind.name).eps)


@dataclass(frozen=True, eq=False)
class Signal:
    """Base of all signals; identity is what distinguishes two."""


@dataclass(frozen=True, eq=False)
class Rows(Signal):
    """Rows of a producer's weight: node and weight input index, its atoms in order of the produced axis.

    low, high: bounds of every element of the data that the rows multiply.
    """

    node: int
    atoms: Ints
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Recurrence(Signal):
    """Units of one direction of a recurrent node, or its cells: atoms[i] is the unit at index `first` + i.

    kind: of the function from a unit's candidate to the unit.
    """

    node: int
    atoms: Ints
    first: int
    kind: Kind


@dataclass(frozen=True, eq=False)
class Shared(Signal):
    """A tensor that is the same for every channel (broadcast), as a summand."""


@dataclass(frozen=True, eq=False)
class Restricted(Signal):
    """The child at these atoms of each unit: one branch of an Add, whose branches hold different atoms of a unit.

    The innermost restriction counts: it says which atoms stood at the places that the child was computed from.
    """

    child: Signal
    atoms: Ints


@dataclass(frozen=True, eq=False)
class Affine(Signal):
    """scale · child + shift per channel; scale, shift and magnitude are [positions, q], q > 1 where they vary in space.

    magnitude: the size of the terms that shift was computed from, which bounds its rounding error.
    """

    child: Signal
    atoms: Ints
    scale: Floats
    shift: Floats
    magnitude: Floats


@dataclass(frozen=True, eq=False)
class Centred(Signal):
    """The child with its mean taken off, divided by its deviation: InstanceNormalization."""

    child: Signal


@dataclass(frozen=True, eq=False)
class Filtered(Signal):
    """A kernel per channel (depthwise Conv): kernels[i] is the one that atoms[i] meets."""

    child: Signal
    node: int
    atoms: Ints
    kernels: Ints
    padded: bool


@dataclass(frozen=True, eq=False)
class Activated(Signal):
    """An elementwise function; `function` evaluates it on numbers, `slope` is [positions] for PRelu."""

    child: Signal
    action: Activation
    function: Callable[[Floats], Floats]
    atoms: Ints | None = None
    slope: Floats | None = None


@dataclass(frozen=True, eq=False)
class Pooled(Signal):
    """A window over other axes than the channel's: linear or monotone; see operators.Window."""

    child: Signal
    linear: bool
    padded: bool
    scale_free: bool


@dataclass(frozen=True, eq=False)
class Mapped(Signal):
    """The same linear map along another axis for every channel; `biased` when it also adds a bias."""

    child: Signal
    biased: bool


@dataclass(frozen=True, eq=False)
class Modulated(Signal):
    """The child times a tensor that is the same for every channel."""

    child: Signal


@dataclass(frozen=True, eq=False)
class Combined(Signal):
    """left operation right, channel by channel; operation is add, sub, mul, div, max, min, compare, choose or where."""

    operation: str
    left: Signal
    right: Signal


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
