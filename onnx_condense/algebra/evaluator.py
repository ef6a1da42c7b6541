"""Which vectors must point the same way for two channels to condense, and what one is then of the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_condense.algebra.relations import Relations
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
from onnx_condense.algebra.stages import Factor, Rule, activate, add, multiply
from onnx_condense.arrays import Floats, Ints
from onnx_condense.operators.actions import Kind


class Evaluator(Relations):
    """All that can be asked of a signal; adds `factors` and `approximate`."""

    def factors(self, signal: Signal) -> list[Factor]:
        """The stages whose vectors are judged, before `final_rules`."""
        return self._once("factors", signal, self._compute_factors)

    def _compute_factors(self, signal: Signal) -> list[Factor]:
        match signal:
            case Rows():
                return [Factor(*self._leaf(signal), frozenset({id(signal)}))]
            case Recurrence():
                gates, candidates = self._gates(signal)
                none = np.zeros((len(gates), 1))
                candidate = activate([Factor(candidates, none, frozenset({id(signal)}))], signal.kind)
                if not gates.shape[1]:
                    return candidate
                leaves = frozenset({hash((id(signal), "gates"))})
                return [Factor(gates, none, leaves, Rule.EQUAL, bent=True, open=False), *candidate]
            case Shared():
                return [Factor(np.ones((len(self.units), 1)), np.zeros((len(self.units), 1)), frozenset({id(signal)}))]
            case Restricted():
                inner = self._restricted(signal).factors(signal.child)
                return [replace(f, leaves=frozenset(hash((leaf, id(signal))) for leaf in f.leaves)) for f in inner]
            case Affine():
                return self._affine_factors(signal)
            case Filtered():
                before = [replace(f, open=False) for f in self.factors(signal.child) if not f.virtual]
                prefix = tuple(f.leaves for f in before)
                taps, bias = self._kernels(signal)
                return [*before, Factor(taps, bias, frozenset({id(signal)}), taps=True, prefix=prefix)]
            case Activated():
                factors = activate(self.factors(signal.child), signal.action.kind)
                if signal.slope is not None and np.ptp(self._slopes(signal)) > 0:
                    rows = np.stack([np.ones(len(self.units)), self._slopes(signal)], 1)
                    factors = [
                        *factors,
                        Factor(rows, np.zeros((len(rows), 1)), frozenset({id(signal)}), Rule.EQUAL, open=False),
                    ]
                return factors
            case Centred():
                factors = [replace(f, bias=f.bias * 0) if f.open else f for f in self.factors(signal.child)]
                return activate(factors, Kind.BOUNDED)
            case Pooled() | Mapped() | Modulated():
                factors = self.factors(signal.child)
                monotone = isinstance(signal, Pooled) and not signal.linear
                return activate(factors, Kind.HOMOGENEOUS) if monotone else factors
            case Combined(operation, left, right):
                a, b = self.factors(left), self.factors(right)
                if operation in ("add", "sub"):
                    if operation == "sub":
                        b = [replace(f, rows=-f.rows, bias=-f.bias) if i == len(b) - 1 else f for i, f in enumerate(b)]
                    return add(a, b)
                if operation == "choose":
                    return [replace(f, open=False) for f in add(a, b)]
                if operation == "compare":
                    return [replace(f, rule=Rule.EQUAL, open=False, virtual=False) for f in add(a, b)]
                if operation in ("max", "min"):
                    return [replace(f, rule=f.rule.meet(Rule.POSITIVE), open=False) for f in add(a, b)]
                return multiply(a, b)
        raise TypeError(type(signal))

    def _affine_factors(self, signal: Affine) -> list[Factor]:
        factors = self.factors(signal.child)
        scale, shift, _ = self._parameters(signal)
        if factors and factors[-1].open:
            last = factors[-1]
            columns = [s for s in scale.T if s.any()] or [scale[:, 0]]  # places of constants add nothing
            rows = last.rows * scale if scale.shape[1] == 1 else np.hstack([last.rows * s[:, None] for s in columns])
            return [*factors[:-1], replace(last, rows=rows, bias=_moved(last.bias, scale, shift))]
        if np.ptp(scale, axis=0).max(initial=0) == 0 and np.ptp(shift, axis=0).max(initial=0) == 0:
            return factors
        prefix = tuple(f.leaves for f in factors)
        return [*factors, Factor(scale, shift, frozenset({id(signal)}), virtual=True, prefix=prefix)]

    def passes_constants(self, signal: Signal) -> bool:
        """Whether a constant that two channels differ by may pass the whole path (linear steps and maxima)."""
        match signal:
            case Rows() | Shared():
                return True
            case Combined(operation, left, right):
                return operation in ("add", "sub") and self.passes_constants(left) and self.passes_constants(right)
            case Filtered(padded=False) | Pooled():
                return self.passes_constants(signal.child)
            case Activated():
                return signal.action.kind is Kind.LINEAR and self.passes_constants(signal.child)
            case Restricted() | Affine() | Mapped() | Modulated() | Centred():
                return self.passes_constants(signal.child)
        return False

    def approximate(self, signal: Signal, ratio: Floats, j: Ints, m: Ints) -> tuple[Floats, Floats]:
        """(ratio, constant) of a path whose stages have that product of ratios, with the affines that follow."""
        match signal:
            case Affine() if not self._absorbs(signal):
                inner, constant = self.approximate(signal.child, ratio, j, m)
                scale, shift, _ = (p.mean(1) for p in self._parameters(signal))
                safe = np.where(scale[m] == 0, 1, scale[m])
                outer = scale[j] * inner / safe
                return outer, scale[j] * constant + shift[j] - outer * shift[m]
            case Pooled() | Restricted() | Mapped() | Modulated():
                evaluator = self._restricted(signal) if isinstance(signal, Restricted) else self
                inner, constant = evaluator.approximate(signal.child, ratio, j, m)
                keeps = isinstance(signal, Restricted) or (isinstance(signal, Pooled) and signal.scale_free)
                return inner, constant if keeps else np.zeros_like(constant)
        return ratio, np.zeros_like(ratio)

    def _absorbs(self, signal: Affine) -> bool:
        """Whether an affine is part of the neuron vector: nothing but linear steps came before it."""
        factors = self.factors(signal.child)
        return bool(factors) and factors[-1].open and not factors[-1].virtual


def _moved(bias: Floats, scale: Floats, shift: Floats) -> Floats:
    """A bias behind an affine; side by side where both vary in space, along axes of their own."""
    scaled = bias * scale.mean(1, keepdims=True)
    return scaled + shift if 1 in (bias.shape[1], shift.shape[1]) else np.hstack([scaled, shift])
