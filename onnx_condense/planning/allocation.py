"""Widths from a budget: which channels of which group go, by what their consumers lose per unit saved. Numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True, eq=False)
class PricedWeight:
    """A weight: `price` times the product of the sizes of its axes.

    slices: (axis, group, places that each of the group's channels takes on that axis, on average over lines).
    """

    price: float
    sizes: tuple[int, ...]
    slices: tuple[tuple[int, int, float], ...]

    def sliced(self, piece: tuple[int, int, float]) -> PricedWeight:
        """With one more slice, where it is not known."""
        return self if piece in self.slices else replace(self, slices=(*self.slices, piece))


def cost(parts: Sequence[PricedWeight], removed: Mapping[int, int]) -> float:
    """What all parts cost together when so many channels of each group are gone."""
    total = 0.0
    for part in parts:
        sizes = np.array(part.sizes, dtype=np.float64)
        for axis, group, places in part.slices:
            sizes[axis] -= places * removed.get(group, 0)
        total += part.price * float(np.prod(sizes))
    return total


def allocate(
    curves: Mapping[int, Curve], parts: Sequence[PricedWeight], limit: float, slack: float = np.inf
) -> dict[int, int]:
    """How many channels of each group go, so that all parts cost at most `limit` or no group can give more.

    Where the last step loses something and saves so much that more than `slack` is left of the limit, it is not taken,
    and other groups give instead if that comes closer.
    """
    capped = dict(curves)
    best, last = _descend(capped, parts, limit)
    total = cost(parts, best)
    for _ in range(EXCHANGES):
        if last is None or total >= limit - slack:
            break
        group, taken = last
        curve = capped[group]
        capped[group] = replace(curve, steps=curve.steps[curve.steps < taken])
        if curve.lost(taken) == curve.lost(int(capped[group].steps.max(initial=0))):
            break
        removed, last = _descend(capped, parts, limit)
        found = cost(parts, removed)
        if total < found <= limit:
            best, total = removed, found
    return best


def _descend(
    curves: Mapping[int, Curve], parts: Sequence[PricedWeight], limit: float
) -> tuple[dict[int, int], tuple[int, int] | None]:
    """(channels of each group that go, the group of the last step and how many of its channels had gone by then).

    Greedy: every step is taken by the group that loses least per unit that it saves now. What the last step saved
    too much goes back to the group that gains most of it.
    """
    mine = {g: [p for p in parts if any(s[1] == g for s in p.slices)] for g in curves}
    neighbours = {g: {s[1] for p in mine[g] for s in p.slices} & set(curves) for g in curves}
    removed = dict.fromkeys(curves, 0)
    total = cost(parts, removed)

    def offer(group: int) -> tuple[float, int, float] | None:
        """(loss per unit saved, channels gone after the step, units saved) of the best next step."""
        curve, now = curves[group], removed[group]
        before = curve.lost(now)
        best = None
        base = cost(mine[group], removed)
        for step in curve.steps[curve.steps > now][:LOOK_AHEAD].tolist():
            saved = base - cost(mine[group], removed | {group: step})
            if saved > 0:
                price = (curve.lost(step) - before) / saved
                if best is None or price < best[0]:
                    best = price, step, saved
        return best

    offers = {group: offer(group) for group in curves}
    last = None
    while total > limit:
        open_ = [(o[0], group) for group, o in offers.items() if o is not None]
        if not open_:
            break
        group = min(open_)[1]
        taken = offers[group]
        assert taken is not None
        removed[group] = taken[1]
        last = group, taken[1]
        total -= taken[2]
        for other in neighbours[group]:
            offers[other] = offer(other)

    def returned(group: int) -> tuple[float, int, int, float] | None:
        """(loss undone, group, channels gone after it, units that it costs) of the group's last step, where it fits."""
        curve, now = curves[group], removed[group]
        earlier = int(curve.steps[curve.steps < now].max(initial=0))
        if not now:
            return None
        undone = curve.lost(now) - curve.lost(earlier)
        needed = cost(mine[group], removed | {group: earlier}) - cost(mine[group], removed)
        return (undone, group, earlier, needed) if undone > 0 and 0 < needed <= limit - total else None

    while found := [back for group in curves if (back := returned(group)) is not None]:
        _, group, earlier, needed = max(found)
        removed[group] = earlier
        total += needed
    return removed, last


LOOK_AHEAD = 2
"""Steps that a group may take at once: one step can be dear and the next one cheap."""

EXCHANGES = 16
"""Times that a last step is replaced by steps of other groups."""
