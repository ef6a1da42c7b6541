"""Thresholds from a bound on the approximation error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from onnx_condense.merging.twin import Twin

STEPS = 8
"""Bisection steps."""


class Builder(Protocol):
    """What builds a twin from how far each group goes towards its threshold (0: nothing, 1: all the way).

    original: the twin in which nothing is merged.
    """

    original: Twin

    def build(self, towards: float | Mapping[int, float]) -> Twin: ...


def fit(builder: Builder, error: Callable[[Twin], float], tolerance: float) -> Twin:
    """The smallest twin found whose error is within the tolerance.

    One s in thresholds T + (1 - T) s is bisected for all groups; then groups get back their own threshold, the one that
    alone costs least first, as long as the error stays within the tolerance.
    """
    best = builder.build(1.0)
    if error(best) <= tolerance:
        return best
    everything = best
    low, high = 0.0, 1.0
    best = builder.build(0.0)
    if not error(best) <= tolerance:  # what is exact to rounding is still more than asked for
        return builder.original
    for _ in range(STEPS):
        middle = (low + high) / 2
        twin = builder.build(middle)
        if error(twin) <= tolerance:
            low, best = middle, twin
        else:
            high = middle
    indices = sorted(everything.plans)
    towards = dict.fromkeys(_all_groups(best), low)
    costs = sorted((error(builder.build(towards | {index: 1.0})), index) for index in indices)
    for cost, index in costs:
        if cost > tolerance:
            break
        twin = builder.build(towards | {index: 1.0})
        if error(twin) <= tolerance:
            towards[index] = 1.0
            best = twin
    return best


def _all_groups(twin: Twin) -> list[int]:
    return [group.index for group in twin.trace.groups]
