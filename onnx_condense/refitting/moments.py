"""Second moments of what a consumer reads, and the least squares that follow from them. Numpy only, float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_condense.arrays import Floats, Ints

STRENGTHS = (1.0, 0.1, 1e-2, 1e-3, 1e-4)
"""Ridge strengths tried on held-back samples, as shares of the mean variance of the features: until they lose more."""


class Sums:
    """Streaming sums of features x [rows, f] and targets y [rows, t]; nothing else of the samples is kept.

    Attributes:
        count: rows. samples: images that they are of; 0 where they are of none, or that is not asked.
    """

    def __init__(self, features: int, targets: int, crossed: bool = True) -> None:
        """`crossed`: whether targets are multiplied with each other; else their squares alone are summed."""
        self.features = features
        self.count = self.samples = 0
        self.total = np.zeros(features + targets)
        self.xx = np.zeros((features, features))
        self.yx = np.zeros((targets, features))
        self.yy = np.zeros((targets, targets) if crossed else targets)

    @property
    def is_finite(self) -> bool:
        """Whether all sums are."""
        return all(np.isfinite(part).all() for part in (self.total, self.xx, self.yx, self.yy))

    def add(self, x: Floats, y: Floats) -> None:
        """Takes rows of samples: x [rows, f] and y [rows, t]."""
        x, y = x.astype(np.float64), y.astype(np.float64)
        self.count += len(x)
        self.total += np.concatenate([x.sum(axis=0), y.sum(axis=0)])
        self.xx += x.T @ x
        self.yx += y.T @ x
        self.yy += y.T @ y if self.yy.ndim == 2 else np.einsum("rt,rt->t", y, y)

    @staticmethod
    def joined(parts: Sequence[Sums]) -> Sums:
        """The sums of all samples of several parts."""
        first = parts[0]
        whole = Sums(first.features, len(first.yx), first.yy.ndim == 2)
        for part in parts:
            whole.count += part.count
            whole.samples += part.samples
            for name in ("total", "xx", "yx", "yy"):
                setattr(whole, name, getattr(whole, name) + getattr(part, name))
        return whole

    def moments(self, centred: bool = True) -> Moments:
        """Means and covariances; second moments about zero where not centred."""
        count, f = max(1, self.count), self.features
        mean = self.total / count if centred else np.zeros_like(self.total)
        x, y = mean[:f], mean[f:]
        yy = self.yy / count - (np.outer(y, y) if self.yy.ndim == 2 else y**2)
        seconds = self.xx / count - np.outer(x, x), self.yx / count - np.outer(y, x)
        return Moments(x, y, *seconds, yy if yy.ndim == 2 else np.diag(yy))


@dataclass(frozen=True, eq=False)
class Moments:
    """E[x] [f], E[y] [t], Cov[x, x] [f, f], Cov[y, x] [t, f], Cov[y, y] [t, t], whose diagonal alone may be known."""

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

    def apart(self, share: float) -> Moments:
        """With this share of the variance in features that vary apart, those that vary at all alike; for no targets."""
        if not share:
            return self
        varying = np.diag(self.xx) > 0
        mean = float(np.trace(self.xx)) / max(1, int(varying.sum()))
        return replace(self, xx=(1 - share) * self.xx + share * mean * np.diag(varying.astype(self.xx.dtype)))

    def narrow(self) -> Moments:
        """The same with covariances of features in 32 bits, which take half the memory."""
        return replace(self, xx=self.xx.astype(np.float32))

    def through(self, weight: Floats) -> Moments:
        """The moments with targets weight · y, for a weight [u, t]."""
        return Moments(self.x, weight @ self.y, self.xx, weight @ self.yx, weight @ self.yy @ weight.T)

    def mixed(self, mix: Floats) -> Moments:
        """The same of a mix [k, t] of the targets, whose own variance is left out: losses are less by that."""
        return Moments(self.x, mix @ self.y, self.xx, mix @ self.yx, np.zeros((1, 1)))

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
        return np.asarray(prior + np.linalg.solve(system, (self.yx - prior @ self.xx).T).T)

    def constant(self, weight: Floats) -> Floats:
        """[t] the constant b that goes with a weight [t, f]: E[y] - weight · E[x]."""
        return np.asarray(self.y - weight @ self.x)


@dataclass(frozen=True, eq=False)
class Fold:
    """Samples that are known, and `count` that are held back."""

    known: Moments
    held: Moments
    count: int

    def lost(self, weight: Floats, constant: Floats, centred: bool) -> float:
        """What those held back lose by a weight [t, f] and a constant [t]."""
        missed = self.held.constant(weight) - constant if centred else np.zeros(1)
        return self.count * (self.held.loss(weight) + float(missed @ missed))


@dataclass(frozen=True, eq=False)
class Solution:
    """y ≈ weight · x + constant [t, f] and [t], of ridge strength `strength`: infinity for the prior's weight.

    prior: whether the constant is the prior's, too. exact: whether it is because that loses nothing.
    """

    weight: Floats
    constant: Floats
    strength: float
    prior: bool = False
    exact: bool = False


@dataclass(frozen=True)
class Care:
    """How closely a least squares is looked at.

    exact: a prior that loses at most this share of the variance of the targets is the result. mixes: how many mixes of
    the targets, drawn at random, choose the strength in their place where they are more, since what they lose is about
    the same, on every other part of the samples; 0 for the targets themselves, on all.
    """

    exact: float = 0.0
    mixes: int = 0

    def mixed(self, targets: int) -> Floats | None:
        """[mixes, targets] by which they are mixed; None where they are taken as they are."""
        if not 0 < self.mixes < targets:
            return None
        drawn = np.random.default_rng(0).standard_normal((self.mixes, targets))
        return np.asarray(drawn / self.mixes**0.5)

    def held(self, parts: Sequence[Sums]) -> Sequence[Sums]:
        """The parts that are held back in turn."""
        return parts[::2] if self.mixes else parts


def least_squares(
    parts: Sequence[Sums],
    prior: Floats,
    constant: Floats,
    centred: bool,
    through: Floats | None = None,
    care: Care | None = None,
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
        care: how closely it is looked at.
    """

    def moments(sums: Sums) -> Moments:
        found = sums.moments(centred)
        return found if through is None else found.through(through)

    def mixed(sums: Sums) -> Moments:
        return moments(sums) if mix is None else sums.moments(centred).mixed(mix if through is None else mix @ through)

    care = care or Care()
    filled, mix = [part for part in parts if part.count], care.mixed(len(prior))
    untouched = Solution(prior, constant, np.inf, prior=True)
    if len(filled) < 2:
        return untouched
    whole = moments(Sums.joined(filled))
    offset = whole.constant(prior) - constant if centred else np.zeros(1)
    if whole.loss(prior) + float(offset @ offset) <= care.exact * float(np.trace(whole.yy)):
        return replace(untouched, exact=True)
    held = care.held(filled)
    folds = [Fold(mixed(Sums.joined([p for p in filled if p is not h])), mixed(h), h.count) for h in held]
    few, added = (prior, constant) if mix is None else (mix @ prior, mix @ constant)
    strength = _chosen(folds, few, added, centred)
    if strength is None:
        return untouched
    weight = prior if np.isinf(strength) else whole.ridge(prior, strength)
    return Solution(weight, whole.constant(weight), strength)


def _chosen(folds: Sequence[Fold], prior: Floats, constant: Floats, centred: bool) -> float | None:
    """The strength that does best on held-back samples: infinity for the prior with a new constant, None with its own.

    prior: [t, f] the weight without samples. constant: [t] that goes with it. centred: whether one may be fitted.
    """
    losses = [
        sum(fold.lost(prior, constant, centred) for fold in folds),
        sum(fold.lost(prior, fold.known.constant(prior), centred) for fold in folds),
    ]
    for strength in STRENGTHS:
        found = ((fold, fold.known.ridge(prior, strength)) for fold in folds)
        losses.append(sum(fold.lost(weight, fold.known.constant(weight), centred) for fold, weight in found))
        if not losses[-1] <= losses[-2]:
            break
    return (None, np.inf, *STRENGTHS)[int(np.argmin(losses))]
