"""Widths from a budget: which channels of which group go, by what their consumers lose per unit saved. Numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_condense.signals import Floats, Ints


@dataclass(frozen=True, eq=False)
class Curve:
    """The order in which a group's channels go [m], and what has been lost after each [m], never falling.

    steps: after how many of them the group may stop (widths that alignment allows), ascending.
    """

    order: Ints
    losses: Floats
    steps: Ints


@dataclass(frozen=True, eq=False)
class Part:
    """A weight: `price` times the product of the sizes of its axes.

    slices: (axis, group, places that each of the group's channels takes on that axis, on average over lines).
    """

    price: float
    sizes: tuple[int, ...]
    slices: tuple[tuple[int, int, float], ...]


def cost(parts: Sequence[Part], removed: Mapping[int, int]) -> float:
    """What all parts cost together when so many channels of each group are gone."""
    total = 0.0
    for part in parts:
        sizes = np.array(part.sizes, dtype=np.float64)
        for axis, group, places in part.slices:
            sizes[axis] -= places * removed.get(group, 0)
        total += part.price * float(np.prod(sizes))
    return total


def allocate(curves: Mapping[int, Curve], parts: Sequence[Part], limit: float) -> dict[int, int]:
    """How many channels of each group go, so that all parts cost at most `limit` or no group can give more.

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
        before = float(curve.losses[now - 1]) if now else 0.0
        best = None
        base = cost(mine[group], removed)
        for step in curve.steps[curve.steps > now][:LOOK_AHEAD].tolist():
            saved = base - cost(mine[group], removed | {group: step})
            if saved > 0:
                price = (float(curve.losses[step - 1]) - before) / saved
                if best is None or price < best[0]:
                    best = price, step, saved
        return best

    offers = {group: offer(group) for group in curves}
    while total > limit:
        open_ = [(o[0], group) for group, o in offers.items() if o is not None]
        if not open_:
            break
        group = min(open_)[1]
        taken = offers[group]
        assert taken is not None
        removed[group] = taken[1]
        total -= taken[2]
        for other in neighbours[group]:
            offers[other] = offer(other)

    def returned(group: int) -> tuple[float, int, int, float] | None:
        """(loss undone, group, channels gone after it, units that it costs) of the group's last step, where it fits."""
        curve, now = curves[group], removed[group]
        earlier = int(curve.steps[curve.steps < now].max(initial=0))
        if not now:
            return None
        undone = float(curve.losses[now - 1]) - (float(curve.losses[earlier - 1]) if earlier else 0.0)
        needed = cost(mine[group], removed | {group: earlier}) - cost(mine[group], removed)
        return (undone, group, earlier, needed) if undone > 0 and 0 < needed <= limit - total else None

    while found := [back for group in curves if (back := returned(group)) is not None]:
        _, group, earlier, needed = max(found)
        removed[group] = earlier
        total += needed
    return removed


LOOK_AHEAD = 2
"""Steps that a group may take at once: one step can be dear and the next one cheap."""
