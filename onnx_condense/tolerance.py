"""Thresholds from a bound on the approximation error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from onnx_condense.state import State

STEPS = 8
"""Bisection steps."""


class Builder(Protocol):
    """What builds a state from how far each group goes towards its threshold (0: nothing, 1: all the way).

    original: the state in which nothing is merged.
    """

    original: State

    def build(self, towards: float | Mapping[int, float]) -> State: ...


def fit(builder: Builder, error: Callable[[State], float], tolerance: float) -> State:
    """The smallest state found whose error is within the tolerance.

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
        state = builder.build(middle)
        if error(state) <= tolerance:
            low, best = middle, state
        else:
            high = middle
    indices = sorted(everything.plans)
    towards = dict.fromkeys(_all_groups(best), low)
    costs = sorted((error(builder.build(towards | {index: 1.0})), index) for index in indices)
    for cost, index in costs:
        if cost > tolerance:
            break
        state = builder.build(towards | {index: 1.0})
        if error(state) <= tolerance:
            towards[index] = 1.0
            best = state
    return best


def _all_groups(state: State) -> list[int]:
    return [group.index for group in state.trace.groups]
