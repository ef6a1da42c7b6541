"""How groups are narrowed together: what the outputs lose by each step, measured where the steps before have led."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heapify, heappop, heappush

import numpy as np

from onnx_condense.arrays import Floats
from onnx_condense.planning.allocation import Curve, Priced, by_key, cost

CHUNK = 0.015
"""Share of all that a step saves at least, as far as half of what is left of its group allows."""

STEPS = 20
"""But no more than one in so many parts of what is to be saved."""

FINEST = 16
"""A step takes at least one in so many of a group's channels."""

FURTHER = 0.04
"""Share of all that groups which save time are narrowed by beyond what is asked, where others save none."""

LOST = 1.0
"""What outputs lose where no step says anything any more."""

TINY = float(np.finfo(float).tiny)

Lose = Callable[[Mapping[int, int]], float]
"""What the outputs lose where so many channels of each group are gone."""


@dataclass(frozen=True, order=True)
class Step:
    """A group goes on to `end` channels gone; price: what the outputs lose per unit that it saves.

    age: how many steps had been taken when that was measured.
    """

    price: float
    group: int
    start: int
    end: int
    saved: float
    after: float
    age: int


@dataclass(eq=False)
class _Together:
    """Groups on their way: the step that is the cheapest now is taken; others are measured again when they come up."""

    curves: Mapping[int, Curve]
    widths: Mapping[int, int]
    weights: Sequence[Priced]
    lose: Lose
    gone: dict[int, int] = field(default_factory=dict)
    now: float = 0.0
    least: float = 0.0
    taken: list[Step] = field(default_factory=list)
    open: list[Step] = field(default_factory=list)

    @cached_property
    def _mine(self) -> Mapping[int, Sequence[Priced]]:
        """The weights that each group makes cheaper."""
        return by_key(self.weights, self.curves)

    def go(self, limit: float, timeless: Collection[int]) -> None:
        """As far as this cost, or as the outputs still say something; and somewhat further where that saves time."""
        self.gone = {group: _free(curve) for group, curve in self.curves.items()}
        whole = cost(self.weights, {})
        self.least = min(CHUNK * whole, (whole - limit) / STEPS)
        for group in self.curves:
            self._offer(group)
        self._down(limit)
        resting = [step for step in self.open if step.group in timeless]
        if resting:
            self.open = [step for step in self.open if step.group not in timeless]
            heapify(self.open)
            self._down(limit - FURTHER * whole)
            self.open += resting

    def _down(self, limit: float) -> None:
        """Steps are taken until all weights cost at most `limit`."""
        while self.open and cost(self.weights, self.gone) > limit and self.now < LOST:
            step = heappop(self.open)
            if step.age == len(self.taken):
                self.gone[step.group], self.now = step.end, step.after
                self.taken.append(step)
            self._offer(step.group)

    def _offer(self, group: int) -> None:
        curve, start, width = self.curves[group], self.gone[group], self.widths[group]
        mine = self._mine[group]
        before, left = cost(mine, self.gone), width - start
        ends = curve.steps[curve.steps > start]
        large = ends[(ends - start) * FINEST >= width]
        for end in (large if len(large) else ends[-1:]).tolist():
            saved = before - cost(mine, self.gone | {group: end})
            if saved >= self.least or 2 * (end - start) >= left or end == ends[-1]:
                break
        else:
            return
        after = self.lose(self.gone | {group: end}) if saved > 0 else np.inf
        if np.isfinite(after):
            price = max(after - self.now, TINY) / saved
            heappush(self.open, Step(price, group, start, end, saved, after, len(self.taken)))


def _free(curve: Curve) -> int:
    """Channels that go at no cost."""
    steps = curve.steps[curve.losses[curve.steps - 1] <= 0] if len(curve.steps) else curve.steps
    return int(steps.max(initial=0))


def narrowed_together(
    curves: Mapping[int, Curve],
    widths: Mapping[int, int],
    weights: Sequence[Priced],
    lose: Lose,
    limit: float,
    timeless: Collection[int] = (),
) -> dict[int, Curve]:
    """The curves of groups (index -> what its consumers lose) as the outputs mind them where all are narrowed.

    Steps are taken one after the other, each by the group whose step costs the outputs least per unit that it saves,
    until all weights cost at most `limit`. Between and beyond the ends of steps, what consumers lose tells the way.
    timeless: what saves no time; the others are narrowed further, so that they can be taken in its place.
    """
    together = _Together(curves, widths, weights, lose)
    together.go(limit, timeless)
    dearest, steps = 0.0, dict[int, list[tuple[int, float]]]()
    for step in (*together.taken, *sorted(together.open)):
        dearest = max(dearest, step.price)
        steps.setdefault(step.group, []).append((step.end, dearest * step.saved))
    return {group: _repriced(curve, widths[group], steps.get(group, ())) for group, curve in curves.items()}


def _repriced(curve: Curve, width: int, steps: Sequence[tuple[int, float]]) -> Curve:
    """A curve along steps (channels gone at the end, what is lost by it), and beyond them in proportion."""
    losses: Floats = np.zeros(len(curve.losses))
    start, total, rate = _free(curve), 0.0, 1.0
    for end, lost in steps:
        losses[start:end] = total + lost * np.arange(1, end - start + 1) / (end - start)
        part = curve.lost(end) - curve.lost(start)
        rate = lost / part if part > 0 else rate
        start, total = end, total + lost
    left = width - start
    rest = np.diff(curve.losses[start:], prepend=curve.lost(start))
    dearer = left / np.maximum(1, left - np.arange(len(rest)))
    losses[start:] = total + np.cumsum(rate * rest * dearer)
    return Curve(curve.order, losses, curve.steps)
