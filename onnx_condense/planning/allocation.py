"""Widths from a budget: which channels of which group go, by what their consumers lose per unit saved. Numpy only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import heapify, heappop, heappush
from math import prod
from typing import Protocol

import numpy as np

from onnx_condense.arrays import Floats, Ints


@dataclass(frozen=True, eq=False)
class Curve:
    """The order in which a group's channels go [m], and what has been lost after each [m], never falling.

    steps: after how many of them the group may stop (widths that alignment allows), ascending.
    """

    order: Ints
    losses: Floats
    steps: Ints

    def lost(self, gone: int) -> float:
        """What has been lost when so many channels are gone."""
        return float(self.losses[gone - 1]) if gone else 0.0


class Priced(Protocol):
    """A part of a model: what it costs, and what makes it cheaper."""

    @property
    def keys(self) -> set[int]:
        """What makes it cheaper: groups, and ranks."""

    def cost(self, removed: Mapping[int, int]) -> float:
        """What it costs when so many channels of each group are gone."""


@dataclass(frozen=True)
class PricedPair:
    """How a weight counts as a pair of factors: of [m, ...], [r, ...] and [m, r].

    key: what ranks go by, as groups go by their index. full: the rank that none are gone from. axis: that of m.
    second: the price of an element of the second factor.
    """

    key: int
    full: int
    axis: int
    second: float

    def cost(self, whole: float, outputs: float, price: float, gone: int) -> float:
        """What a weight of so many elements, of so many outputs, costs when so many of its ranks are gone."""
        pair = (self.full - gone) * (price * whole / max(outputs, 1.0) + self.second * outputs)
        return min(price * whole, pair) if gone else price * whole


@dataclass(frozen=True, eq=False)
class PricedWeight:
    """A weight: `price` times the product of the sizes of its axes.

    slices: (axis, group, places that each of the group's channels takes on that axis, on average over lines).
    pair: where it may become a pair of factors.
    """

    price: float
    sizes: tuple[int, ...]
    slices: tuple[tuple[int, int, float], ...]
    pair: PricedPair | None = None

    def sliced(self, piece: tuple[int, int, float]) -> PricedWeight:
        """With one more slice, where it is not known."""
        return self if piece in self.slices else replace(self, slices=(*self.slices, piece))

    @cached_property
    def _sizes(self) -> list[float]:
        return [float(size) for size in self.sizes]

    @property
    def keys(self) -> set[int]:
        """What makes it cheaper: groups, and its rank."""
        return {piece[1] for piece in self.slices} | ({self.pair.key} if self.pair is not None else set())

    def cost(self, removed: Mapping[int, int]) -> float:
        """What it costs when so many channels of each group are gone."""
        sizes = self._sizes.copy()
        for axis, group, places in self.slices:
            gone = removed.get(group)
            if gone:
                sizes[axis] -= places * gone
        whole, pair = prod(sizes), self.pair
        if pair is None:
            return self.price * whole
        return pair.cost(whole, sizes[pair.axis], self.price, removed.get(pair.key, 0))


LOOK_AHEAD = 2
"""Steps that a group may take at once: one step can be dear and the next one cheap."""

RECONSIDERED = 4
"""Times that pairs of factors which came to spare little, because other axes shrank, are given up."""

DEARER = 10.0
"""How many times as much may be lost where that comes closer to the limit; beyond, what is smaller is better."""

EXCHANGES = 16
"""Times that a last step is replaced by steps of other groups."""


def cost(weights: Sequence[Priced], removed: Mapping[int, int]) -> float:
    """What all weights cost together when so many channels of each group are gone."""
    total = 0.0
    for weight in weights:
        total += weight.cost(removed)
    return total


def by_key(weights: Sequence[Priced], keys: Collection[int]) -> dict[int, list[Priced]]:
    """The weights that each of some keys makes cheaper, in their order."""
    found: dict[int, list[Priced]] = {key: [] for key in keys}
    for weight in weights:
        for key in weight.keys:
            if key in found:
                found[key].append(weight)
    return found


def allocate(
    curves: Mapping[int, Curve], weights: Sequence[Priced], limit: float, slack: float = np.inf
) -> dict[int, int]:
    """How many channels of each group go, so that all weights cost at most `limit` or no group can give more.

    Where the last step loses something and saves so much that more than `slack` is left of the limit, it is not taken,
    and other groups give instead if that comes closer and does not lose many times as much (`DEARER`).
    """
    capped = dict(curves)
    descent = _Descent(capped, weights, limit)
    for _ in range(RECONSIDERED):
        dear = descent.dear()
        if not dear:
            break
        fewer = {key: curve for key, curve in capped.items() if key not in dear}
        again = _Descent(fewer, weights, limit)
        if again.total > limit or again.lost() > descent.lost():
            break
        capped, descent = fewer, again
    best, last, least = descent.removed, descent.last, descent.lost()
    total = cost(weights, best)
    for _ in range(EXCHANGES):
        if last is None or total >= limit - slack:
            break
        group, taken = last
        curve = capped[group]
        capped[group] = replace(curve, steps=curve.steps[curve.steps < taken])
        if curve.lost(taken) == curve.lost(int(capped[group].steps.max(initial=0))):
            break
        descent = _Descent(capped, weights, limit)
        last = descent.last
        found = cost(weights, descent.removed)
        if total < found <= limit and descent.lost() <= DEARER * least:
            best, total = descent.removed, found
    return best


class _Descent:
    """Channels that go, one step after the other.

    Greedy: every step is taken by the group that loses least per unit that it saves now. What the last step saved
    too much goes back to the group that gains most of it.

    Attributes:
        removed: group -> how many of its channels have gone.
        total: what all weights cost now.
        last: the group of the last step, and how many of its channels had gone by then.
    """

    def __init__(self, curves: Mapping[int, Curve], weights: Sequence[Priced], limit: float) -> None:
        self.removed = dict.fromkeys(curves, 0)
        self.last: tuple[int, int] | None = None
        self._price = 0.0
        pairs = [weight.pair for weight in weights if isinstance(weight, PricedWeight)]
        self._pairs = [pair.key for pair in pairs if pair is not None]
        self._curves, self._limit = curves, limit
        self._mine = by_key(weights, curves)
        self._near = dict[int, tuple[set[int], set[int]]]()
        self.total = cost(weights, self.removed)
        self._descend()
        while found := [back for group in curves if (back := self._returned(group)) is not None]:
            _, group, earlier, needed = max(found)
            self.removed[group] = earlier
            self.total += needed

    def _descend(self) -> None:
        """Takes steps. An offer that others made dearer since is made again when it comes up."""
        offers = {group: self._offer(group) for group in self._curves}
        waiting = [(offer[0], group) for group, offer in offers.items() if offer is not None]
        heapify(waiting)
        stale: set[int] = set()
        while self.total > self._limit and waiting:
            price, group = heappop(waiting)
            taken = offers[group]
            if taken is None or taken[0] != price:  # another one was made
                continue
            again = {group}
            if group not in stale:
                self.removed[group] = taken[1]
                self.last, self._price = (group, taken[1]), max(self._price, taken[0])
                self.total -= taken[2]
                dearer, others = self._neighbours(group)
                stale |= dearer
                again |= others
            for one in again:
                offers[one] = offer = self._offer(one)
                stale.discard(one)
                if offer is not None:
                    heappush(waiting, (offer[0], one))

    def lost(self) -> float:
        """What is lost in all."""
        return sum(self._curves[key].lost(gone) for key, gone in self.removed.items())

    def dear(self) -> set[int]:
        """Pairs of factors that lose more per unit that they spare in the end than the dearest step."""
        found = set()
        for key in self._pairs:
            gone = self.removed.get(key, 0)
            if gone and self._curves[key].lost(gone) > self._price * (self._cost(key, 0) - self._cost(key, gone)):
                found.add(key)
        return found

    def _neighbours(self, group: int) -> tuple[set[int], set[int]]:
        """The other groups whose steps save less by now, and those whose steps may save more: of pairs of factors."""
        if group not in self._near:
            dearer, others = set[int](), set[int]()
            for weight in self._mine[group]:
                plain = isinstance(weight, PricedWeight) and weight.pair is None
                (dearer if plain else others).update(key for key in weight.keys if key in self._curves)
            self._near[group] = dearer - others - {group}, others - {group}
        return self._near[group]

    def _cost(self, group: int, gone: int) -> float:
        """What the group's weights cost when so many of its channels are gone."""
        now, self.removed[group] = self.removed[group], gone
        found = cost(self._mine[group], self.removed)
        self.removed[group] = now
        return found

    def _offer(self, group: int) -> tuple[float, int, float] | None:
        """(loss per unit saved, channels gone after the step, units saved) of the best next step."""
        curve, now = self._curves[group], self.removed[group]
        before = curve.lost(now)
        best = None
        base = self._cost(group, now)
        first = int(curve.steps.searchsorted(now, "right"))
        for step in curve.steps[first : first + LOOK_AHEAD].tolist():
            saved = base - self._cost(group, step)
            if saved > 0:
                price = (curve.lost(step) - before) / saved
                if best is None or price < best[0]:
                    best = price, step, saved
        return best

    def _returned(self, group: int) -> tuple[float, int, int, float] | None:
        """(loss undone, group, channels gone after it, units that it costs) of the group's last step, where it fits."""
        curve, now = self._curves[group], self.removed[group]
        if not now:
            return None
        earlier = int(curve.steps[curve.steps < now].max(initial=0))
        undone = curve.lost(now) - curve.lost(earlier)
        needed = self._cost(group, earlier) - self._cost(group, now)
        return (undone, group, earlier, needed) if undone > 0 and 0 < needed <= self._limit - self.total else None
