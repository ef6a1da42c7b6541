"""Second moments of what a consumer reads, and the least squares that follow from them. Numpy only, float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_condense.arrays import Floats, Ints

STRENGTHS = (1.0, 0.1, 1e-2, 1e-3, 1e-4)
"""Ridge strengths tried on held-back samples, as shares of the mean variance of the features."""


class Sums:
    """Streaming sums of features x [rows, f] and targets y [rows, t]; nothing else of the samples is kept."""

    def __init__(self, features: int, targets: int) -> None:
        self.features = features
        self.count = 0
        self.total = np.zeros(features + targets)
        self.products = np.zeros((features + targets, features + targets))

    def add(self, x: Floats, y: Floats) -> None:
        """Takes rows of samples: x [rows, f] and y [rows, t]."""
        both = np.hstack([x, y]).astype(np.float64)
        self.count += len(both)
        self.total += both.sum(axis=0)
        self.products += both.T @ both

    @staticmethod
    def joined(parts: Sequence[Sums]) -> Sums:
        """The sums of all samples of several parts."""
        whole = Sums(parts[0].features, len(parts[0].total) - parts[0].features)
        for part in parts:
            whole.count += part.count
            whole.total += part.total
            whole.products += part.products
        return whole

    def moments(self, centred: bool = True) -> Moments:
        """Means and covariances; second moments about zero where not centred."""
        mean = self.total / max(1, self.count)
        second = self.products / max(1, self.count)
        if centred:
            second = second - np.outer(mean, mean)
        else:
            mean = np.zeros_like(mean)
        f = self.features
        return Moments(mean[:f], mean[f:], second[:f, :f], second[f:, :f], second[f:, f:])


def solved(system: Floats, sides: Floats) -> Floats:
    """[n, k] the solution of a positive definite system [n, n] for sides [n, k]."""
    from scipy.linalg import LinAlgError, solve  # slow to import, and runs that refit nothing start without it

    try:
        return np.asarray(solve(system, sides, assume_a="pos", check_finite=False))
    except LinAlgError:  # all but singular
        return np.asarray(np.linalg.solve(system, sides))


@dataclass(frozen=True, eq=False)
class Moments:
    """E[x] [f], E[y] [t], Cov[x, x] [f, f], Cov[y, x] [t, f], Cov[y, y] [t, t]."""

    x: Floats
    y: Floats
    xx: Floats
    yx: Floats
    yy: Floats

    def of(self, kept: Ints, weight: Floats, crossed: Floats) -> Moments:
        """Targets are weight · x [u, f], features the kept ones [k]: the moments that choosing channels asks for.

        crossed: weight · Cov[x, x], whatever is kept. Of Cov[y, y], [1, 1], there is the trace alone.
        """
        total = np.einsum("uf,uf->", crossed, weight).reshape(1, 1)
        return Moments(self.x[kept], weight @ self.x, self.xx[np.ix_(kept, kept)], crossed[:, kept], total)

    def shrunk(self, other: Moments, share: float) -> Moments:
        """Features' covariances with this share of another's, brought to the same mean variance; for no targets."""
        size = float(np.trace(other.xx))
        scale = float(np.trace(self.xx)) / size if size > 0 else 0.0
        return replace(self, xx=(1 - share) * self.xx + share * scale * other.xx)

    def through(self, weight: Floats) -> Moments:
        """The moments with targets weight · y, for a weight [u, t]."""
        return Moments(self.x, weight @ self.y, self.xx, weight @ self.yx, weight @ self.yy @ weight.T)

    def loss(self, weight: Floats) -> float:
        """E|y - weight · x - b|² of a weight [t, f] for the best constant b."""
        cross = np.einsum("tf,tf->", weight @ self.xx, weight) - 2 * np.einsum("tf,tf->", weight, self.yx)
        return float(np.trace(self.yy) + cross)

    def ridge(self, prior: Floats, strength: float) -> Floats:
        """[t, f] the minimum of E|y - W x - b|² + s |W - prior|², s = strength · mean variance of the features.

        W = prior + (Cov[y, x] - prior Cov[x, x]) (Cov[x, x] + s I)⁻¹ (design, section 1, with H = Cov[x, x]): never
        toward zero, so that what the prior does exactly stays as it is. Features that never vary keep their column.
        """
        scale = float(np.trace(self.xx)) / max(1, len(self.xx))
        if scale <= 0:
            return prior
        system = self.xx + strength * scale * np.eye(len(self.xx))
        return np.asarray(prior + solved(system, (self.yx - prior @ self.xx).T).T)

    def constant(self, weight: Floats) -> Floats:
        """[t] the constant b that goes with a weight [t, f]: E[y] - weight · E[x]."""
        return np.asarray(self.y - weight @ self.x)


@dataclass(frozen=True, eq=False)
class Solution:
    """y ≈ weight · x + constant [t, f] and [t], of ridge strength `strength`: infinity for the prior's weight.

    prior: whether the constant is the prior's, too.
    """

    weight: Floats
    constant: Floats
    strength: float
    prior: bool = False


def least_squares(
    parts: Sequence[Sums],
    prior: Floats,
    constant: Floats,
    centred: bool,
    through: Floats | None = None,
    exact: float = 0.0,
) -> Solution:
    """The least squares whose strength does best on held-back samples: each part in turn.

    The prior itself, with its constant or with a new one, is among the candidates (strength infinity): few samples do
    no worse than none, as far as held-back samples can tell.

    Args:
        parts: sums over disjoint samples.
        prior: [t, f] the weight without samples.
        constant: [t] the constant that goes with it.
        centred: whether a constant may be fitted.
        through: [t, u] targets are this times what was summed.
        exact: a prior that loses at most this share of the variance of the targets is the result.
    """

    def moments(sums: Sums) -> Moments:
        found = sums.moments(centred)
        return found if through is None else found.through(through)

    filled = [part for part in parts if part.count]
    untouched = Solution(prior, constant, np.inf, prior=True)
    if len(filled) < 2:
        return untouched
    whole = moments(Sums.joined(filled))
    offset = whole.constant(prior) - constant if centred else np.zeros(1)
    if whole.loss(prior) + float(offset @ offset) <= exact * float(np.trace(whole.yy)):
        return untouched
    losses = np.zeros(2 + len(STRENGTHS))
    for held in filled:
        known = moments(Sums.joined([p for p in filled if p is not held]))
        losses += held.count * _losses(known, moments(held), prior, constant, centred)
    best = int(np.argmin(losses))
    if best == 0:
        return untouched
    strength = np.inf if best == 1 else STRENGTHS[best - 2]
    weight = prior if best == 1 else whole.ridge(prior, strength)
    return Solution(weight, whole.constant(weight), strength)


def _losses(known: Moments, held: Moments, prior: Floats, constant: Floats, centred: bool) -> Floats:
    """[2 + strengths] what held-back samples lose by the prior, by it with another constant, and by each strength."""
    candidates = [(prior, constant), (prior, known.constant(prior))]
    candidates += [(w, known.constant(w)) for w in (known.ridge(prior, s) for s in STRENGTHS)]
    missed = ((held.constant(weight) - shift if centred else np.zeros(1), weight) for weight, shift in candidates)
    return np.array([held.loss(weight) + float(offset @ offset) for offset, weight in missed])
