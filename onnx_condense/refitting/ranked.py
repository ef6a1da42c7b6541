"""Least squares of a rank: what a pair of factors can make of what its layer should make. Numpy only, float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_condense.arrays import Floats
from onnx_condense.refitting.moments import Care, Moments, Solution, Sums, least_squares


@dataclass(frozen=True, eq=False)
class Pair:
    """What a pair of factors holds now, and what it may be instead.

    current: [t, f] what it multiplies with. whole: [t, f] the weight that it stands for. rank: that it may have.
    metric: [t] how much each target counts.
    """

    current: Floats
    whole: Floats
    rank: int
    metric: Floats

    def nearest(self, weight: Floats, moments: Moments, strength: float) -> Floats:
        """[t, f] of the pair's rank, what loses least of a weight [t, f] found with a ridge of this strength."""
        scale = float(np.trace(moments.xx)) / max(1, len(moments.xx))
        spread = moments.xx + min(strength, 1.0) * scale * np.eye(len(moments.xx))
        rows = self.metric[:, None] * weight
        if len(rows) <= len(spread):
            basis = np.linalg.eigh(rows @ spread @ rows.T)[1][:, -self.rank :]
            return np.asarray(basis @ (basis.T @ rows) / self.metric[:, None])
        values, turned = np.linalg.eigh(spread)
        root = turned * np.sqrt(np.maximum(values, values[-1] * 1e-12))
        made = rows @ root
        basis = np.linalg.eigh(made.T @ made)[1][:, -self.rank :]
        return np.asarray(np.linalg.solve(root.T, basis @ (basis.T @ made.T)).T / self.metric[:, None])

    def solved(self, parts: Sequence[Sums], constant: Floats, centred: bool, care: Care) -> Solution:
        """As `least_squares`, of the pair's rank; what it holds now stays where held-back samples prefer that.

        parts: sums over disjoint samples. constant: [t] that it adds now. care: see there.
        """
        filled = [part for part in parts if part.count]
        untouched = Solution(self.current, constant, np.inf, prior=True)
        if len(filled) < 2:
            return untouched
        whole = Sums.joined(filled).moments(centred)
        if self._lost(whole, self.current, constant, centred) <= care.exact * float(np.trace(whole.yy)):
            return replace(untouched, exact=True)
        free = least_squares(filled, self.whole, constant, centred, care=replace(care, exact=0.0))
        losses = np.zeros(2)
        for held in care.held(filled):
            known, other = (s.moments(centred) for s in (Sums.joined([p for p in filled if p is not held]), held))
            for number, weight in enumerate((self.current, self._fitted(known, free.strength))):
                shift = known.constant(weight) if number and centred else constant
                losses[number] += held.count * self._lost(other, weight, shift, centred)
        if losses[0] <= losses[1]:
            return untouched
        weight = self._fitted(whole, free.strength)
        return Solution(weight, whole.constant(weight), free.strength)

    def _fitted(self, moments: Moments, strength: float) -> Floats:
        weight = self.whole if np.isinf(strength) else moments.ridge(self.whole, strength)
        return self.nearest(weight, moments, strength)

    def _lost(self, moments: Moments, weight: Floats, constant: Floats, centred: bool) -> float:
        """What targets lose, each by how much it counts."""
        gap = moments.yx - weight @ moments.xx
        each = moments.yy.diagonal() - np.einsum("tf,tf->t", weight, moments.yx + gap)
        missed = moments.constant(weight) - constant if centred else np.zeros(1)
        return float(self.metric**2 @ (each + missed**2))
