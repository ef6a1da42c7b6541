"""Which vectors must point the same way for two channels to condense, and what one is then of the other."""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch

import numpy as np

from onnx_condense.algebra.numbers import Numbers
from onnx_condense.algebra.operations import OPERATIONS
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
from onnx_condense.algebra.stages import Factor, Rule, activate
from onnx_condense.arrays import Floats, Ints
from onnx_condense.operators.answers import Kind


def factors(signal: Signal, numbers: Numbers) -> list[Factor]:
    """The stages whose vectors are judged, before `final_rules`."""
    return numbers.once(_factors, signal)


@singledispatch
def _factors(signal: Signal, numbers: Numbers) -> list[Factor]:
    raise TypeError(type(signal))


@_factors.register(Rows)
def _(signal: Rows, numbers: Numbers) -> list[Factor]:
    return [Factor(*numbers.leaf(signal), frozenset({id(signal)}), folds=numbers.weights.convolves(signal.node))]


@_factors.register(Recurrence)
def _(signal: Recurrence, numbers: Numbers) -> list[Factor]:
    gates, candidates = numbers.gates(signal)
    none = np.zeros((len(gates), 1))
    candidate = activate([Factor(candidates, none, frozenset({id(signal)}))], signal.kind)
    if not gates.shape[1]:
        return candidate
    leaves = frozenset({hash((id(signal), "gates"))})
    return [Factor(gates, none, leaves, Rule.EQUAL, bent=True, open=False), *candidate]


@_factors.register(Shared)
def _(signal: Shared, numbers: Numbers) -> list[Factor]:
    n = len(numbers.units)
    return [Factor(np.ones((n, 1)), np.zeros((n, 1)), frozenset({id(signal)}))]


@_factors.register(Restricted)
def _(signal: Restricted, numbers: Numbers) -> list[Factor]:
    inner = factors(signal.child, numbers.restricted(signal))
    return [replace(f, leaves=frozenset(hash((leaf, id(signal))) for leaf in f.leaves)) for f in inner]


@_factors.register(Affine)
def _(signal: Affine, numbers: Numbers) -> list[Factor]:
    found = factors(signal.child, numbers)
    scale, shift, _ = numbers.parameters(signal)
    if found and found[-1].open:
        last = found[-1]
        columns = [s for s in scale.T if s.any()] or [scale[:, 0]]  # places of constants add nothing
        rows = last.rows * scale if scale.shape[1] == 1 else np.hstack([last.rows * s[:, None] for s in columns])
        added = shift * 0 if _is_apart(signal, numbers) else shift
        folds = last.folds or signal.stated is not None
        return [*found[:-1], replace(last, rows=rows, bias=_moved(last.bias, scale, added), folds=folds)]
    if np.ptp(scale, axis=0).max(initial=0) == 0 and np.ptp(shift, axis=0).max(initial=0) == 0:
        return found
    prefix = tuple(f.leaves for f in found)
    return [*found, Factor(scale, shift, frozenset({id(signal)}), virtual=True, prefix=prefix)]


@_factors.register(Filtered)
def _(signal: Filtered, numbers: Numbers) -> list[Factor]:
    before = [replace(f, open=False) for f in factors(signal.child, numbers) if not f.virtual]
    prefix = tuple(f.leaves for f in before)
    taps, bias = numbers.kernels(signal)
    return [*before, Factor(taps, bias, frozenset({id(signal)}), taps=True, folds=True, prefix=prefix)]


@_factors.register(Activated)
def _(signal: Activated, numbers: Numbers) -> list[Factor]:
    found = activate(factors(signal.child, numbers), signal.action.kind)
    if signal.slope is None or np.ptp(numbers.slopes(signal)) == 0:
        return found
    rows = np.stack([np.ones(len(numbers.units)), numbers.slopes(signal)], 1)
    slopes = Factor(rows, np.zeros((len(rows), 1)), frozenset({id(signal)}), Rule.EQUAL, open=False)
    return [*found, slopes]


@_factors.register(Centred)
def _(signal: Centred, numbers: Numbers) -> list[Factor]:
    found = [replace(f, bias=f.bias * 0) if f.open else f for f in factors(signal.child, numbers)]
    return activate(found, Kind.BOUNDED)


@_factors.register(Pooled)
def _(signal: Pooled, numbers: Numbers) -> list[Factor]:
    found = factors(signal.child, numbers)
    return found if signal.linear else activate(found, Kind.HOMOGENEOUS)


@_factors.register(Mapped)
@_factors.register(Modulated)
def _(signal: Mapped | Modulated, numbers: Numbers) -> list[Factor]:
    return factors(signal.child, numbers)


@_factors.register(Combined)
def _(signal: Combined, numbers: Numbers) -> list[Factor]:
    left, right = factors(signal.left, numbers), factors(signal.right, numbers)
    return OPERATIONS[signal.operation].factors(left, right)


def _moved(bias: Floats, scale: Floats, shift: Floats) -> Floats:
    """A bias [n, q] behind an affine; side by side where both vary in space, along axes of their own."""
    scaled = bias * scale.mean(1, keepdims=True)
    return scaled + shift if 1 in (bias.shape[1], shift.shape[1]) else np.hstack([scaled, shift])


def passes_constants(signal: Signal) -> bool:
    """Whether a constant that two channels differ by may pass the whole path (linear steps and maxima)."""
    match signal:
        case Rows() | Shared():
            return True
        case Combined(operation, left, right):
            return OPERATIONS[operation].passes_constants and passes_constants(left) and passes_constants(right)
        case Activated(child) if signal.action.kind is Kind.LINEAR:
            return passes_constants(child)
        case Filtered(child, padded=False):
            return passes_constants(child)
        case Pooled(child) | Restricted(child) | Affine(child) | Mapped(child) | Modulated(child) | Centred(child):
            return passes_constants(child)
    return False


@singledispatch
def approximate(signal: Signal, numbers: Numbers, ratio: Floats, j: Ints, m: Ints) -> tuple[Floats, Floats]:
    """([k], [k]): ratios and constants of pairs of channels on a path, with the affines behind its stages.

    ratio: [k] the product of the ratios of the stages. j, m: [k] the channels.
    """
    return ratio, np.zeros_like(ratio)


@approximate.register(Affine)
def _(signal: Affine, numbers: Numbers, ratio: Floats, j: Ints, m: Ints) -> tuple[Floats, Floats]:
    if _absorbs(signal, numbers):
        _, added, _ = numbers.parameters(signal)
        left = added[j].mean(1) - ratio * added[m].mean(1)
        return ratio, left if _is_apart(signal, numbers) else np.zeros_like(ratio)
    inner, constant = approximate(signal.child, numbers, ratio, j, m)
    scale, shift, _ = (p.mean(1) for p in numbers.parameters(signal))
    outer = scale[j] * inner / np.where(scale[m] == 0, 1, scale[m])
    return outer, scale[j] * constant + shift[j] - outer * shift[m]


@approximate.register(Restricted)
def _(signal: Restricted, numbers: Numbers, ratio: Floats, j: Ints, m: Ints) -> tuple[Floats, Floats]:
    return approximate(signal.child, numbers.restricted(signal), ratio, j, m)


@approximate.register(Pooled)
def _(signal: Pooled, numbers: Numbers, ratio: Floats, j: Ints, m: Ints) -> tuple[Floats, Floats]:
    inner, constant = approximate(signal.child, numbers, ratio, j, m)
    return inner, constant if signal.scale_free else np.zeros_like(constant)


@approximate.register(Mapped)
@approximate.register(Modulated)
def _(signal: Mapped | Modulated, numbers: Numbers, ratio: Floats, j: Ints, m: Ints) -> tuple[Floats, Floats]:
    inner, constant = approximate(signal.child, numbers, ratio, j, m)
    return inner, np.zeros_like(constant)


def _is_apart(signal: Affine, numbers: Numbers) -> bool:
    """Whether what an affine adds is no part of the vector."""
    return numbers.apart and signal.stated is not None


def _absorbs(signal: Affine, numbers: Numbers) -> bool:
    """Whether an affine is part of the neuron vector: nothing but linear steps came before it."""
    found = factors(signal.child, numbers)
    return bool(found) and found[-1].open and not found[-1].virtual
