"""The exact affine relation between two channels, propagated along a signal."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch

import numpy as np

from onnx_condense.algebra.constants import constants
from onnx_condense.algebra.numbers import Answers, Numbers, Relation
from onnx_condense.algebra.operations import OPERATIONS, Operand
from onnx_condense.algebra.signals import (
    Activated,
    Affine,
    Centred,
    Combined,
    Filtered,
    Mapped,
    Modulated,
    Pooled,
    Recurrence,
    Restricted,
    Rows,
    Shared,
    Signal,
)
from onnx_condense.arrays import Floats, Ints
from onnx_condense.operators.answers import Kind

AT_ONCE = 2**21
"""Numbers of vectors that are compared in float64 at once."""


class Relations:
    """The affine relations between channels j [k] and m [k], indices into units, of all signals that are asked for."""

    def __init__(self, j: Ints, m: Ints) -> None:
        self.j, self.m = j, m
        self._answers = Answers(lambda signal, numbers: _related(signal, numbers, self))

    def of(self, signal: Signal, numbers: Numbers) -> Relation:
        """The relation [k] of a signal."""
        return self._answers.of(signal, numbers)


def relate(signal: Signal, numbers: Numbers, j: Ints, m: Ints) -> Relation:
    """The affine relation between channels j [k] and m [k], indices into units."""
    return Relations(j, m).of(signal, numbers)


@singledispatch
def _related(signal: Signal, numbers: Numbers, pairs: Relations) -> Relation:
    raise TypeError(type(signal))


@_related.register(Rows)
def _(signal: Rows, numbers: Numbers, pairs: Relations) -> Relation:
    return _collinear(numbers, *numbers.leaf(signal), pairs)


@_related.register(Recurrence)
def _(signal: Recurrence, numbers: Numbers, pairs: Relations) -> Relation:
    """Units whose other gates are equal are related by their candidates, in every step as in the one before."""
    gates, candidates = numbers.gates(signal)
    none = np.zeros((len(gates), 1))
    equal = _collinear(numbers, gates, none, pairs)
    result = _pass(numbers, signal.kind, _collinear(numbers, candidates, none, pairs))
    return replace(result, exact=result.exact & equal.exact & numbers.is_one(equal.ratio))


@_related.register(Shared)
def _(signal: Shared, numbers: Numbers, pairs: Relations) -> Relation:
    one, zero = np.ones(len(pairs.j)), np.zeros(len(pairs.j))
    return Relation(one, zero, np.ones(len(one), dtype=bool), one)


@_related.register(Restricted)
def _(signal: Restricted, numbers: Numbers, pairs: Relations) -> Relation:
    return pairs.of(signal.child, numbers.restricted(signal))


@_related.register(Affine)
def _(signal: Affine, numbers: Numbers, pairs: Relations) -> Relation:
    j, m = pairs.j, pairs.m
    inner = pairs.of(signal.child, numbers)
    scale, shift, magnitude = numbers.parameters(signal)
    gone = (scale[m] == 0) & (scale[j] == 0)  # times zero, channels take whatever ratio the others have
    zero = (scale[m] == 0) & ~gone
    factor = np.where(gone, 1.0, scale[j] / np.where(zero | gone, 1, scale[m]))
    ratios = factor * inner.ratio[:, None]
    ratio = _ones(numbers, ratios.mean(1))
    shifts = scale[j] * inner.constant[:, None] + shift[j] - ratio[:, None] * shift[m]
    size = np.abs(scale[j]).max(1) * inner.scale + magnitude[j].max(1) + np.abs(ratio) * magnitude[m].max(1)
    flat = numbers.flat(ratios, np.abs(ratio)) & numbers.flat(shifts, size)
    return Relation(ratio, numbers.clean(shifts.mean(1), size), inner.exact & flat & ~zero.any(1), size)


@_related.register(Filtered)
def _(signal: Filtered, numbers: Numbers, pairs: Relations) -> Relation:
    j, m = pairs.j, pairs.m
    inner = pairs.of(signal.child, numbers)
    taps, bias = numbers.kernels(signal)
    kernel = _collinear(numbers, taps, bias * 0, pairs)
    ratio = inner.ratio * kernel.ratio
    shift = bias[j] - ratio[:, None] * bias[m]
    scale = inner.scale * np.linalg.norm(taps[j], axis=1) + np.abs(bias[j]).max(1)
    constant = numbers.clean(inner.constant * taps[j].sum(1) + shift.mean(1), scale)
    exact = inner.exact & kernel.exact & numbers.flat(shift, scale)
    return Relation(ratio, constant, exact & (inner.constant == 0) if signal.padded else exact, scale)


@_related.register(Activated)
def _(signal: Activated, numbers: Numbers, pairs: Relations) -> Relation:
    j, m = pairs.j, pairs.m
    result = _pass(numbers, signal.action.kind, pairs.of(signal.child, numbers))
    if signal.slope is None:
        return result
    slope = numbers.slopes(signal)
    return replace(result, exact=result.exact & numbers.same(slope[j], slope[m]).all(axis=1))


@_related.register(Pooled)
def _(signal: Pooled, numbers: Numbers, pairs: Relations) -> Relation:
    inner = pairs.of(signal.child, numbers)
    exact = inner.exact if signal.linear else inner.exact & (inner.ratio > 0)
    exact = exact if signal.scale_free and not signal.padded else exact & (inner.constant == 0)
    return replace(inner, exact=exact)


@_related.register(Centred)
def _(signal: Centred, numbers: Numbers, pairs: Relations) -> Relation:
    inner = pairs.of(signal.child, numbers)
    size = np.abs(inner.ratio)
    exact = inner.exact & numbers.is_one(size)
    return Relation(np.sign(inner.ratio), np.zeros_like(size), exact, np.ones_like(size))


@_related.register(Modulated)
def _(signal: Modulated, numbers: Numbers, pairs: Relations) -> Relation:
    inner = pairs.of(signal.child, numbers)
    return replace(inner, exact=inner.exact & (inner.constant == 0))


@_related.register(Mapped)
def _(signal: Mapped, numbers: Numbers, pairs: Relations) -> Relation:
    inner = pairs.of(signal.child, numbers)
    exact = inner.exact & (inner.constant == 0)
    return replace(inner, exact=exact & numbers.is_one(inner.ratio) if signal.biased else exact)


@_related.register(Combined)
def _(signal: Combined, numbers: Numbers, pairs: Relations) -> Relation:
    j, m = pairs.j, pairs.m

    def operand(side: Signal) -> Operand:
        def values() -> tuple[Floats, Floats]:
            value = constants(side, numbers)
            return value[j], value[m]

        return Operand(pairs.of(side, numbers), values)

    return OPERATIONS[signal.operation].relate(numbers, operand(signal.left), operand(signal.right))


def _collinear(numbers: Numbers, rows: Floats, bias: Floats, pairs: Relations) -> Relation:
    """The relation of pairs of channels with vectors [n, p] and biases [n, q]."""
    sections = 1 + len(pairs.j) * rows.shape[1] // AT_ONCE
    each = zip(np.array_split(pairs.j, sections), np.array_split(pairs.m, sections), strict=True)
    found = [_collinear_of(numbers, (rows[j], rows[m]), (bias[j], bias[m])) for j, m in each]
    return Relation(
        np.concatenate([part.ratio for part in found]),
        np.concatenate([part.constant for part in found]),
        np.concatenate([part.exact for part in found]),
        np.concatenate([part.scale for part in found]),
    )


def _collinear_of(numbers: Numbers, rows: tuple[Floats, Floats], biases: tuple[Floats, Floats]) -> Relation:
    """As `_collinear`, of few pairs of vectors [pairs, p] with biases [pairs, q]."""
    left, right = (vectors.astype(np.float64) for vectors in rows)
    ratio = _projection(left, right)
    empty = np.count_nonzero(np.hstack([left, right]), axis=1) == 0
    ratio = _ones(numbers, np.where(empty, _projection(*biases), ratio))
    norm = np.linalg.norm(left, axis=1)
    scale = norm + np.abs(biases[0]).max(1) + np.abs(ratio) * np.abs(biases[1]).max(1)
    exact = np.abs(left - ratio[:, None] * right).max(axis=1, initial=0) <= numbers.tolerance * norm
    shift = biases[0] - ratio[:, None] * biases[1]
    return Relation(ratio, numbers.clean(shift.mean(1), scale), exact & numbers.flat(shift, scale), scale)


def _ones(numbers: Numbers, ratio: Floats) -> Floats:
    """Ratios, exactly 1 or -1 where they are but for rounding."""
    return np.where(numbers.is_one(ratio), 1.0, np.where(numbers.is_one(-ratio), -1.0, ratio))


def _projection(left: Floats, right: Floats) -> Floats:
    """[pairs]: the number r that brings r · right closest to left; 1 where both are zero."""
    square = np.einsum("ij,ij->i", right, right)
    product = np.einsum("ij,ij->i", left, right)
    return np.where((square == 0) & ~left.any(axis=1), 1.0, product / np.where(square == 0, 1, square))


def _pass(numbers: Numbers, kind: Kind, inner: Relation) -> Relation:
    """A relation behind an elementwise function of a kind."""
    one, centred = numbers.is_one(inner.ratio), inner.constant == 0
    ratio = inner.ratio
    match kind:
        case Kind.LINEAR:
            return inner
        case Kind.HOMOGENEOUS:
            passes = centred & (ratio > 0)
        case Kind.ABSOLUTE:
            passes, ratio = centred & (ratio != 0), np.abs(ratio)
        case Kind.ODD:
            passes = centred & (one | numbers.is_one(-ratio))
        case _:
            passes = centred & one
    exact = inner.exact & (passes | (one & centred))
    return Relation(ratio, np.zeros_like(ratio), exact, np.abs(ratio) + 1)
