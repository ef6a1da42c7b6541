"""The exact affine relation between two channels, propagated along a signal."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from onnx_condense.algebra.constants import Intervals
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
from onnx_condense.arrays import Bools, Floats, Ints
from onnx_condense.operators.actions import Kind


@dataclass(frozen=True)
class Relation:
    """x_j = ratio · x_m + constant for pairs (j, m); `exact` where it holds to rounding, of values of size `scale`."""

    ratio: Floats
    constant: Floats
    exact: Bools
    scale: Floats


class Relations(Intervals):
    """Answers `relate` for a signal and pairs of channels."""

    def relate(self, signal: Signal, j: Ints, m: Ints) -> Relation:
        """The affine relation between channels j and m (indices into units, equally long)."""
        match signal:
            case Rows():
                rows, bias = self._leaf(signal)
                return self._collinear(rows[j], rows[m], bias[j], bias[m])
            case Recurrence():
                return self._relate_recurrence(signal, j, m)
            case Shared():
                one, zero = np.ones(len(j)), np.zeros(len(j))
                return Relation(one, zero, np.ones(len(j), dtype=bool), one)
            case Restricted():
                return self._restricted(signal).relate(signal.child, j, m)
            case Affine():
                return self._relate_affine(signal, j, m)
            case Filtered():
                inner = self.relate(signal.child, j, m)
                taps, bias = self._kernels(signal)
                kernel = self._collinear(taps[j], taps[m], bias[j] * 0, bias[m] * 0)
                ratio = inner.ratio * kernel.ratio
                spread = taps[j].sum(1)
                shift = bias[j] - ratio[:, None] * bias[m]
                scale = inner.scale * np.linalg.norm(taps[j], axis=1) + np.abs(bias[j]).max(1)
                constant = self._clean(inner.constant * spread + shift.mean(1), scale)
                exact = inner.exact & kernel.exact & self._flat(shift, scale)
                passes = exact & (inner.constant == 0) if signal.padded else exact
                return Relation(ratio, constant, passes, scale)
            case Activated():
                return self._relate_activated(signal, j, m)
            case Pooled():
                inner = self.relate(signal.child, j, m)
                exact = inner.exact if signal.linear else inner.exact & (inner.ratio > 0)
                exact = exact if signal.scale_free and not signal.padded else exact & (inner.constant == 0)
                return replace(inner, exact=exact)
            case Centred():
                inner = self.relate(signal.child, j, m)
                size = np.abs(inner.ratio)
                exact = inner.exact & self._is_one(size)
                return Relation(np.sign(inner.ratio), np.zeros_like(size), exact, np.ones_like(size))
            case Mapped() | Modulated():
                inner = self.relate(signal.child, j, m)
                exact = inner.exact & (inner.constant == 0)
                if isinstance(signal, Mapped) and signal.biased:
                    exact &= self._is_one(inner.ratio)
                return replace(inner, exact=exact)
            case Combined():
                return self._relate_combined(signal, j, m)
        raise TypeError(type(signal))

    def _collinear(self, left: Floats, right: Floats, bias_left: Floats, bias_right: Floats) -> Relation:
        left, right = left.astype(np.float64), right.astype(np.float64)
        ratio = _projection(left, right)
        empty = np.count_nonzero(np.hstack([left, right]), axis=1) == 0
        ratio = np.where(empty, _projection(bias_left, bias_right), ratio)
        ratio = np.where(self._is_one(ratio), 1.0, np.where(self._is_one(-ratio), -1.0, ratio))
        norm = np.linalg.norm(left, axis=1)
        scale = norm + np.abs(bias_left).max(1) + np.abs(ratio) * np.abs(bias_right).max(1)
        exact = np.abs(left - ratio[:, None] * right).max(axis=1, initial=0) <= self.tolerance * norm
        shift = bias_left - ratio[:, None] * bias_right
        return Relation(ratio, self._clean(shift.mean(1), scale), exact & self._flat(shift, scale), scale)

    def _relate_affine(self, signal: Affine, j: Ints, m: Ints) -> Relation:
        inner = self.relate(signal.child, j, m)
        scale, shift, magnitude = self._parameters(signal)
        gone = (scale[m] == 0) & (scale[j] == 0)  # times zero, channels take whatever ratio the others have
        zero = (scale[m] == 0) & ~gone
        factor = np.where(gone, 1.0, scale[j] / np.where(zero | gone, 1, scale[m]))
        ratios = factor * inner.ratio[:, None]
        ratio = ratios.mean(1)
        ratio = np.where(self._is_one(ratio), 1.0, np.where(self._is_one(-ratio), -1.0, ratio))
        shifts = scale[j] * inner.constant[:, None] + shift[j] - ratio[:, None] * shift[m]
        size = np.abs(scale[j]).max(1) * inner.scale + magnitude[j].max(1) + np.abs(ratio) * magnitude[m].max(1)
        exact = inner.exact & self._flat(ratios, np.abs(ratio)) & self._flat(shifts, size) & ~zero.any(1)
        return Relation(ratio, self._clean(shifts.mean(1), size), exact, size)

    def _relate_activated(self, signal: Activated, j: Ints, m: Ints) -> Relation:
        result = self._pass(signal.action.kind, self.relate(signal.child, j, m))
        if signal.slope is not None:
            slope = self._slopes(signal)
            same = np.abs(slope[j] - slope[m]) <= self.tolerance * np.abs(slope[j])
            result = replace(result, exact=result.exact & same)
        return result

    def _relate_recurrence(self, signal: Recurrence, j: Ints, m: Ints) -> Relation:
        """Units whose other gates are equal are related by their candidates, in every step as in the one before."""
        gates, candidates = self._gates(signal)
        none = np.zeros((len(j), 1))
        equal = self._collinear(gates[j], gates[m], none, none)
        result = self._pass(signal.kind, self._collinear(candidates[j], candidates[m], none, none))
        return replace(result, exact=result.exact & equal.exact & self._is_one(equal.ratio))

    def _pass(self, kind: Kind, inner: Relation) -> Relation:
        """A relation behind an elementwise function of a kind."""
        one, centred = self._is_one(inner.ratio), inner.constant == 0
        ratio = inner.ratio
        match kind:
            case Kind.LINEAR:
                return inner
            case Kind.HOMOGENEOUS:
                passes = centred & (ratio > 0)
            case Kind.ABSOLUTE:
                passes, ratio = centred & (ratio != 0), np.abs(ratio)
            case Kind.ODD:
                passes = centred & (one | self._is_one(-ratio))
            case _:
                passes = centred & one
        exact = inner.exact & (passes | (one & centred))
        return Relation(ratio, np.zeros_like(ratio), exact, np.abs(ratio) + 1)

    def _relate_combined(self, signal: Combined, j: Ints, m: Ints) -> Relation:
        a, b = self.relate(signal.left, j, m), self.relate(signal.right, j, m)
        size = a.scale + b.scale
        if signal.operation in ("add", "sub"):
            sign = 1.0 if signal.operation == "add" else -1.0
            a_ratio, a_constant, a_free = self._loosen(signal.left, a, b.ratio, j, m)
            b_ratio, b_constant, b_free = self._loosen(signal.right, b, a.ratio, j, m)
            same = np.abs(a_ratio - b_ratio) <= self.tolerance * np.abs(a_ratio)
            exact = (a.exact | a_free) & (b.exact | b_free) & same
            return Relation(a_ratio, self._clean(a_constant + sign * b_constant, size), exact, size)
        centred = (a.constant == 0) & (b.constant == 0)
        if signal.operation in ("max", "min"):
            same = np.abs(a.ratio - b.ratio) <= self.tolerance * np.abs(a.ratio)
            same &= (a.constant == b.constant) & (a.ratio > 0)
            return Relation(a.ratio, a.constant, a.exact & b.exact & same, size)
        if signal.operation == "choose":
            same = np.abs(a.ratio - b.ratio) <= self.tolerance * np.abs(a.ratio)
            return Relation(a.ratio, a.constant, a.exact & b.exact & same & (a.constant == b.constant), size)
        if signal.operation == "where":
            return replace(b, exact=b.exact & a.exact & self._is_one(a.ratio) & (a.constant == 0))
        if signal.operation == "compare":
            same = (np.abs(a.ratio - b.ratio) <= self.tolerance * np.abs(a.ratio)) & (a.ratio > 0)
            return Relation(np.ones_like(a.ratio), np.zeros_like(a.ratio), a.exact & b.exact & centred & same, size)
        if signal.operation == "div":
            ratio = a.ratio / np.where(b.ratio == 0, 1, b.ratio)
            return Relation(ratio, a.constant, a.exact & b.exact & centred & (b.ratio != 0), size)
        return Relation(a.ratio * b.ratio, a.constant, a.exact & b.exact & centred, size)

    def _loosen(
        self, signal: Signal, relation: Relation, wanted: Floats, j: Ints, m: Ints
    ) -> tuple[Floats, Floats, Bools]:
        """A summand that is constant in both channels takes whatever ratio the other one has."""
        value = self.constants(signal)
        free = ~np.isnan(value[j]) & ~np.isnan(value[m])
        constant = np.where(free, np.nan_to_num(value[j]) - wanted * np.nan_to_num(value[m]), relation.constant)
        return np.where(free, wanted, relation.ratio), constant, free

    def _is_one(self, ratio: Floats) -> Bools:
        return np.asarray(np.abs(ratio - 1) <= self.tolerance)

    def _clean(self, constant: Floats, scale: Floats) -> Floats:
        """Rounding error counts as zero."""
        return np.where(np.abs(constant) <= self.tolerance * scale, 0.0, constant)

    def _flat(self, values: Floats, scale: Floats) -> Bools:
        return np.asarray(np.ptp(values, axis=1) <= self.tolerance * scale)


def _projection(left: Floats, right: Floats) -> Floats:
    """[pairs]: the number r that brings r · right closest to left; 1 where both are zero."""
    square = np.einsum("ij,ij->i", right, right)
    product = np.einsum("ij,ij->i", left, right)
    return np.where((square == 0) & ~left.any(axis=1), 1.0, product / np.where(square == 0, 1, square))
