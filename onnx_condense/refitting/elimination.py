"""Backward greedy elimination of channels: the order in which they go, and what that costs. Numpy only, float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_condense.arrays import Bools, Floats, Ints

DELAY = 64
"""Channels after which the matrices are brought up to date, by one product for all of them."""

Reader = tuple[Floats, Floats]
"""Of a consumer: the covariance C [n, n] of the channels as it reads them, and G = WᵀW [n, n]."""


def eliminate(readers: Sequence[Reader], strength: float) -> tuple[Ints, Floats]:
    """The order in which channels go, and what their consumers lost after each, the sum of E|W (x - M x_K - c)|²; [n].

    Backward greedy. With P = (C_KK + λI)⁻¹ and A = C[:, K] P, leaving out channel j costs a consumer a_jᵀ G a_j / P_jj,
    since the residual covariance grows by a_j a_jᵀ / P_jj (a Schur complement). O(n³) per consumer, nearly all of it in
    products of matrices.

    `strength`: λ as a share of the mean variance.
    """
    n = len(readers[0][0])
    states = [_State(covariance, gram, strength) for covariance, gram in readers]
    left, order, losses, total = np.arange(n), list[int](), list[float](), 0.0
    while len(left):
        open_ = np.ones(len(left), dtype=bool)
        for _ in range(min(DELAY, len(left))):
            cost = np.where(open_, sum(state.costs() for state in states), np.inf)
            cheapest = int(np.argmin(cost))
            total += float(cost[cheapest])
            order.append(int(left[cheapest]))
            losses.append(total)
            open_[cheapest] = False
            for state in states:
                state.leave_out(cheapest)
        left = left[open_]
        for state in states:
            state.settle(open_)
    return np.array(order, dtype=np.int64), np.array(losses)


class _State:
    """P and AᵀGA of one consumer, from which A itself is never needed, but for updates that wait.

    A channel takes r rᵀ / r_j from P, r its row there, and h sᵀ + s hᵀ from AᵀGA, where s = r / r_j.
    """

    def __init__(self, covariance: Floats, gram: Floats, strength: float) -> None:
        n = len(covariance)
        scale = float(np.trace(covariance)) / n
        self._precision = np.linalg.inv(covariance + (strength * scale or 1.0) * np.eye(n))
        self._weighed = np.array(gram, dtype=np.float64)
        self._begin()

    def _begin(self) -> None:
        self._diagonals = self._precision.diagonal().copy(), self._weighed.diagonal().copy()
        shape = min(DELAY, len(self._precision)), len(self._precision)
        self._rows, self._steps, self._changes = np.empty(shape), np.empty(shape), np.empty(shape)
        self._waiting = 0

    def costs(self) -> Floats:
        """[n] what it costs to leave each channel out; of those that have been, anything."""
        precision, weighed = self._diagonals
        return np.asarray(weighed / precision)

    def leave_out(self, channel: int) -> None:
        """Takes a channel out of the others' rows and columns."""
        k = self._waiting
        rows, steps, changes = self._rows[:k], self._steps[:k], self._changes[:k]
        row = self._precision[channel] - rows[:, channel] @ steps
        column = self._weighed[channel] - changes[:, channel] @ steps - steps[:, channel] @ changes
        step = row / row[channel]
        change = column - 0.5 * column[channel] * step
        self._rows[k], self._steps[k], self._changes[k] = row, step, change
        self._waiting += 1
        precision, weighed = self._diagonals
        precision -= row * step
        weighed -= 2 * change * step
        precision[channel], weighed[channel] = 1.0, 0.0

    def settle(self, stay: Bools) -> None:
        """Makes the updates that wait; [n] which channels stay."""
        rows, steps, changes = self._rows[:, stay], self._steps[:, stay], self._changes[:, stay]
        stays = np.ix_(stay, stay)
        self._precision = self._precision[stays] - rows.T @ steps
        mixed = changes.T @ steps
        self._weighed = self._weighed[stays] - mixed - mixed.T
        self._begin()
