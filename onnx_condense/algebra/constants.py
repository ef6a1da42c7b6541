"""Which channels are constant, and between which bounds the others lie: simple interval facts along a signal."""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from onnx_condense.algebra.numbers import Numbers, below
from onnx_condense.algebra.operations import OPERATIONS, Ends
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
    Signal,
)
from onnx_condense.arrays import Floats
from onnx_condense.operators.answers import ANYTHING, Kind

AT_ONCE = 2**22
"""Weights whose signs are looked at at once."""


def constants(signal: Signal, numbers: Numbers) -> Floats:
    """[n]: the value of each channel that is constant, NaN for the others."""
    return numbers.once(_constants, signal)


@singledispatch
def _constants(signal: Signal, numbers: Numbers) -> Floats:
    return np.full(len(numbers.units), np.nan)


@_constants.register(Rows)
def _(signal: Rows, numbers: Numbers) -> Floats:
    rows, bias = numbers.leaf(signal)
    fixed = ~rows.any(1) & (np.ptp(bias, axis=1) == 0)
    return np.where(fixed, bias[:, 0], np.nan)


@_constants.register(Recurrence)
def _(signal: Recurrence, numbers: Numbers) -> Floats:
    if signal.kind not in (Kind.ODD, Kind.HOMOGENEOUS):
        return np.full(len(numbers.units), np.nan)
    return np.where(numbers.gates(signal)[1].any(1), np.nan, 0.0)


@_constants.register(Restricted)
def _(signal: Restricted, numbers: Numbers) -> Floats:
    return constants(signal.child, numbers.restricted(signal))


@_constants.register(Affine)
def _(signal: Affine, numbers: Numbers) -> Floats:
    scale, shift, _ = numbers.parameters(signal)
    value = np.where((scale == 0).all(1), 0.0, constants(signal.child, numbers))
    values = scale * value[:, None] + shift
    fixed = np.where(np.ptp(values, axis=1) == 0, values[:, 0], np.nan)
    return np.where(np.isnan(fixed), numbers.idle_means(signal), fixed)


@_constants.register(Filtered)
def _(signal: Filtered, numbers: Numbers) -> Floats:
    taps, bias = numbers.kernels(signal)
    inner = constants(signal.child, numbers)
    inner = np.where(~taps.any(1), 0.0, np.where((inner != 0) & signal.padded, np.nan, inner))
    flat = np.ptp(bias, axis=1) == 0
    return np.where(flat, inner * taps.sum(1) / bias.shape[1] + bias[:, 0], np.nan)


@_constants.register(Activated)
def _(signal: Activated, numbers: Numbers) -> Floats:
    inner = constants(signal.child, numbers)
    if signal.action.uniform_axes:
        return np.full(len(numbers.units), np.nan)
    low, high = bounds(signal.child, numbers)
    floor, ceiling = signal.action.flat
    inner = np.where((high <= floor) & np.isnan(inner), floor, inner)
    inner = np.where((low >= ceiling) & np.isnan(inner), ceiling, inner)
    if signal.slope is not None:
        slopes = numbers.slopes(signal)
        below = np.where(np.ptp(slopes, axis=1) == 0, inner * slopes[:, 0], np.nan)
        return np.where(inner < 0, below, inner)
    if np.isnan(inner).all():
        return inner
    known = ~np.isnan(inner)
    result = inner.copy()
    result[known] = signal.function(inner[known])
    return result


@_constants.register(Pooled)
def _(signal: Pooled, numbers: Numbers) -> Floats:
    free = signal.scale_free and not signal.padded
    return constants(signal.child, numbers) if free else _zeros(signal.child, numbers)


@_constants.register(Mapped)
def _(signal: Mapped, numbers: Numbers) -> Floats:
    return np.full(len(numbers.units), np.nan) if signal.biased else _zeros(signal.child, numbers)


@_constants.register(Centred)
@_constants.register(Modulated)
def _(signal: Centred | Modulated, numbers: Numbers) -> Floats:
    return _zeros(signal.child, numbers)


def _zeros(signal: Signal, numbers: Numbers) -> Floats:
    """The constants that are zero: all that some steps keep."""
    inner = constants(signal, numbers)
    return np.where(inner == 0, inner, np.nan)


@_constants.register(Combined)
def _(signal: Combined, numbers: Numbers) -> Floats:
    return OPERATIONS[signal.operation].value(lambda side: constants(side, numbers), signal.left, signal.right)


def deviations(signal: Signal, numbers: Numbers) -> Floats | None:
    """[n]: about how much each channel varies, where a BatchNormalization states it and little comes after."""
    while isinstance(signal, Activated | Pooled | Restricted):
        ((numbers, signal),) = below(numbers, signal)
    stated = numbers.stated(signal) if isinstance(signal, Affine) else None
    return None if stated is None else stated[1]


def bounds(signal: Signal, numbers: Numbers) -> Ends:
    """([n], [n]): an interval that holds every value of each channel."""
    return numbers.once(_bounds, signal)


@singledispatch
def _bounds(signal: Signal, numbers: Numbers) -> Ends:
    return _everything(numbers)


def _everything(numbers: Numbers) -> Ends:
    low, high = ANYTHING
    return np.full(len(numbers.units), low), np.full(len(numbers.units), high)


@_bounds.register(Rows)
def _(signal: Rows, numbers: Numbers) -> Ends:
    rows, bias = numbers.leaf(signal)
    return _weighted(rows, bias, (signal.low, signal.high)) if bias.shape[1] == 1 else _everything(numbers)


@_bounds.register(Restricted)
def _(signal: Restricted, numbers: Numbers) -> Ends:
    return bounds(signal.child, numbers.restricted(signal))


@_bounds.register(Affine)
def _(signal: Affine, numbers: Numbers) -> Ends:
    scale, shift, _ = numbers.parameters(signal)
    low, high = bounds(signal.child, numbers)
    ends = np.stack([_times(s, e) for s in scale.T for e in (low, high)])
    return ends.min(0) + shift.min(1), ends.max(0) + shift.max(1)


@_bounds.register(Filtered)
def _(signal: Filtered, numbers: Numbers) -> Ends:
    taps, bias = numbers.kernels(signal)
    if bias.shape[1] > 1:
        return _everything(numbers)
    low, high = bounds(signal.child, numbers)
    return _weighted(taps, bias, (np.minimum(low, 0), np.maximum(high, 0)))


@_bounds.register(Activated)
def _(signal: Activated, numbers: Numbers) -> Ends:
    action = signal.action
    bounded = action.kind is Kind.LINEAR or action.flat != ANYTHING
    low, high = bounds(signal.child, numbers) if bounded else _everything(numbers)
    return np.clip(low, action.low, action.high), np.clip(high, action.low, action.high)


@_bounds.register(Pooled)
def _(signal: Pooled, numbers: Numbers) -> Ends:
    if not signal.scale_free:
        return _everything(numbers)
    low, high = bounds(signal.child, numbers)
    return (np.minimum(low, 0), np.maximum(high, 0)) if signal.padded else (low, high)


@_bounds.register(Combined)
def _(signal: Combined, numbers: Numbers) -> Ends:
    rule = OPERATIONS[signal.operation].bounds
    return _everything(numbers) if rule is None else rule(bounds(signal.left, numbers), bounds(signal.right, numbers))


def _weighted(rows: Floats, bias: Floats, ends: tuple[Floats | float, Floats | float]) -> Ends:
    """Bounds [n] of sums with the weights [n, p] of values between two ends, and biases [n, 1]."""
    parts = np.array_split(rows, 1 + rows.size // AT_ONCE)
    negative = np.concatenate([np.minimum(part, 0).sum(1) for part in parts])
    positive = np.concatenate([np.maximum(part, 0).sum(1) for part in parts])
    low, high = ends
    least = _times(positive, low) + _times(negative, high) + bias.min(1)
    return least, _times(positive, high) + _times(negative, low) + bias.max(1)


def _times(weight: Floats, bound: Floats | float) -> Floats:
    """weight · bound with 0 · inf = 0."""
    with np.errstate(invalid="ignore"):
        return np.where(weight == 0, 0.0, weight * bound)
