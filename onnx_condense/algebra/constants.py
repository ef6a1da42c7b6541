"""Which channels are constant, and between which bounds the others lie: simple interval facts along a signal."""

from __future__ import annotations

import numpy as np

from onnx_condense.algebra.numbers import Numbers
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
from onnx_condense.operators.actions import Kind


class Intervals(Numbers):
    """Answers `constants` and `bounds` for a signal."""

    def constants(self, signal: Signal) -> Floats:
        """[n]: the value of each channel that is constant, NaN for the others."""
        return self._once("constants", signal, self._compute_constants)

    def _compute_constants(self, signal: Signal) -> Floats:
        nothing = np.full(len(self.units), np.nan)
        match signal:
            case Rows():
                rows, bias = self._leaf(signal)
                fixed = ~rows.any(1) & (np.ptp(bias, axis=1) == 0)
                return np.where(fixed, bias[:, 0], nothing)
            case Recurrence(kind=Kind.ODD | Kind.HOMOGENEOUS):
                return np.where(self._gates(signal)[1].any(1), nothing, 0.0)
            case Restricted():
                return self._restricted(signal).constants(signal.child)
            case Affine():
                scale, shift, _ = self._parameters(signal)
                value = np.where((scale == 0).all(1), 0.0, self.constants(signal.child))
                values = scale * value[:, None] + shift
                return np.where(np.ptp(values, axis=1) == 0, values[:, 0], nothing)
            case Filtered():
                taps, bias = self._kernels(signal)
                inner = self.constants(signal.child)
                inner = np.where(~taps.any(1), 0.0, np.where((inner != 0) & signal.padded, nothing, inner))
                flat = np.ptp(bias, axis=1) == 0
                return np.where(flat, inner * taps.sum(1) / bias.shape[1] + bias[:, 0], nothing)
            case Activated():
                return self._activated_constants(signal)
            case Pooled():
                inner = self.constants(signal.child)
                return inner if signal.scale_free and not signal.padded else np.where(inner == 0, inner, nothing)
            case Centred():
                inner = self.constants(signal.child)
                return np.where(inner == 0, inner, nothing)
            case Modulated() | Mapped(biased=False):
                inner = self.constants(signal.child)
                return np.where(inner == 0, inner, nothing)
            case Combined("where", condition, Combined("choose", left, right)):
                chosen = self.constants(condition)
                value = np.where(chosen != 0, self.constants(left), self.constants(right))
                return np.where(np.isnan(chosen), nothing, value)
            case Combined(operation, left, right):
                return _combine(operation, self.constants(left), self.constants(right))
        return nothing

    def _activated_constants(self, signal: Activated) -> Floats:
        inner = self.constants(signal.child)
        if signal.action.uniform_axes:
            return np.full(len(self.units), np.nan)
        low, high = self.bounds(signal.child)
        floor, ceiling = signal.action.flat
        inner = np.where((high <= floor) & np.isnan(inner), floor, inner)
        inner = np.where((low >= ceiling) & np.isnan(inner), ceiling, inner)
        if signal.slope is not None:
            return np.where(inner < 0, inner * self._slopes(signal), inner)
        if np.isnan(inner).all():
            return inner
        known = ~np.isnan(inner)
        result = inner.copy()
        result[known] = signal.function(inner[known])
        return result

    def bounds(self, signal: Signal) -> tuple[Floats, Floats]:
        """([n], [n]): an interval that holds every value of each channel."""
        n = len(self.units)
        everything = np.full(n, -np.inf), np.full(n, np.inf)
        match signal:
            case Rows():
                rows, bias = self._leaf(signal)
                if bias.shape[1] > 1:
                    return everything
                negative, positive = np.minimum(rows, 0).sum(1), np.maximum(rows, 0).sum(1)
                low = _times(positive, signal.low) + _times(negative, signal.high) + bias.min(1)
                return low, _times(positive, signal.high) + _times(negative, signal.low) + bias.max(1)
            case Restricted():
                return self._restricted(signal).bounds(signal.child)
            case Affine():
                scale, shift, _ = self._parameters(signal)
                low, high = self.bounds(signal.child)
                ends = np.stack([_times(s, e) for s in scale.T for e in (low, high)])
                return ends.min(0) + shift.min(1), ends.max(0) + shift.max(1)
            case Filtered():
                taps, bias = self._kernels(signal)
                if bias.shape[1] > 1:
                    return everything
                low, high = (
                    np.clip(b, *ends)
                    for b, ends in zip(self.bounds(signal.child), ((-np.inf, 0), (0, np.inf)), strict=True)
                )
                negative, positive = np.minimum(taps, 0).sum(1), np.maximum(taps, 0).sum(1)
                return (
                    _times(positive, low) + _times(negative, high) + bias.min(1),
                    _times(positive, high) + _times(negative, low) + bias.max(1),
                )
            case Activated():
                low, high = self.bounds(signal.child) if signal.action.kind is Kind.LINEAR else everything
                if signal.action.flat != (-np.inf, np.inf):
                    low, high = self.bounds(signal.child)
                return np.clip(low, signal.action.low, signal.action.high), np.clip(
                    high, signal.action.low, signal.action.high
                )
            case Pooled() if signal.scale_free:
                low, high = self.bounds(signal.child)
                return (np.minimum(low, 0), np.maximum(high, 0)) if signal.padded else (low, high)
            case Combined("add", left, right):
                (a, b), (c, d) = self.bounds(left), self.bounds(right)
                return a + c, b + d
            case Combined("choose", left, right):
                (a, b), (c, d) = self.bounds(left), self.bounds(right)
                return np.minimum(a, c), np.maximum(b, d)
        return everything


def _combine(operation: str, a: Floats, b: Floats) -> Floats:
    """The value of a operation b where both are constant (or a product has a zero), else NaN."""
    match operation:
        case "add":
            return a + b
        case "sub":
            return a - b
        case "mul":
            return np.where((a == 0) | (b == 0), 0.0, a * b)
        case "div":
            return a / np.where(b == 0, np.nan, b)
        case "max":
            return np.maximum(a, b)
        case "min":
            return np.minimum(a, b)
        case "choose":
            return np.where(a == b, a, np.nan)
    return np.full(len(a), np.nan)


def _times(weight: Floats, bound: Floats | float) -> Floats:
    """weight · bound with 0 · inf = 0."""
    with np.errstate(invalid="ignore"):
        return np.where(weight == 0, 0.0, weight * bound)
