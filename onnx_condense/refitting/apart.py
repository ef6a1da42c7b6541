"""Least squares of every channel alone: a few features, and a constant. Numpy only, float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Floats
from onnx_condense.refitting.moments import STRENGTHS


@dataclass(frozen=True, eq=False)
class Each:
    """Sums of every channel alone. count: rows. products: [outputs, taps + 2, taps + 2] of taps, one and target."""

    count: int
    products: Floats

    @staticmethod
    def joined(parts: Sequence[Each]) -> Each:
        """The sums of all samples of several parts."""
        return Each(sum(p.count for p in parts), np.asarray(sum(p.products for p in parts)))

    def ridge(self, prior: Floats, strength: float) -> Floats:
        """[outputs, taps + 1] kernels and constants, drawn toward a prior [outputs, taps]; the constant is free."""
        second = self.products / max(1, self.count)
        known, wanted = second[:, :-1, :-1], second[:, :-1, -1]
        mean = known[:, :-1, -1]
        covariance = known[:, :-1, :-1] - mean[:, :, None] * mean[:, None]
        crossed = wanted[:, :-1] - mean * wanted[:, -1:]
        scale = np.trace(covariance, axis1=1, axis2=2) / prior.shape[1]
        system = covariance + (strength * scale + (scale <= 0))[:, None, None] * np.eye(prior.shape[1])
        rest = crossed - np.einsum("ojk,ok->oj", covariance, prior)
        kernel = prior + np.linalg.solve(system, rest[:, :, None])[:, :, 0]
        return np.hstack([kernel, (wanted[:, -1] - np.einsum("oj,oj->o", kernel, mean))[:, None]])

    def loss(self, weight: Floats) -> Floats:
        """[outputs] sums of what kernels and constants [outputs, taps + 1] lose."""
        both = np.hstack([weight, -np.ones((len(weight), 1))])
        return np.asarray(np.einsum("oj,ojk,ok->o", both, self.products, both))

    def variance(self) -> Floats:
        """[outputs] sums of what the targets are off their means."""
        return np.asarray(self.products[:, -1, -1] - self.products[:, -1, -2] ** 2 / max(1, self.count))


def chosen(parts: Sequence[Each], prior: Floats, constant: Floats | None) -> Floats:
    """[outputs, taps + 1] kernels and constants, of each channel the strength that does best on held-back samples."""
    free, stays = constant is not None, stated(prior, constant)

    def candidates(known: Each) -> list[Floats]:
        found = [known.ridge(prior, strength) for strength in STRENGTHS]
        return [stays, *(each if free else np.hstack([each[:, :-1], stays[:, -1:]]) for each in found)]

    losses = np.zeros((1 + len(STRENGTHS), len(prior)))
    for held in parts:
        known = Each.joined([part for part in parts if part is not held])
        losses += [held.loss(weight) for weight in candidates(known)]
    best = np.argmin(losses, axis=0)
    return np.asarray(np.stack(candidates(Each.joined(parts)))[best, np.arange(len(prior))])


def stated(kernels: Floats, constant: Floats | None) -> Floats:
    """[outputs, taps + 1] kernels [outputs, taps] and constants [outputs]; zeros for none."""
    return np.hstack([kernels, np.zeros((len(kernels), 1)) if constant is None else constant[:, None]])
