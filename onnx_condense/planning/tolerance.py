"""Thresholds from a bound on the approximation error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from onnx_condense.merging.twin import Twin
from onnx_condense.planning.planned import NOTHING, Aside, Planned

STEPS = 8
"""Bisection steps."""


class Builds(Protocol):
    """What builds a twin from how far each group goes towards its threshold (0: nothing, 1: all the way)."""

    def build(self, towards: float | Mapping[int, float], aside: Aside) -> Planned:
        """A twin, without merges in the groups that are set aside."""

    def unchanged(self, aside: Aside) -> Planned:
        """Nothing is merged."""


def smallest_within(
    builds: Builds, error: Callable[[Twin], float], tolerance: float, aside: Aside = NOTHING
) -> Planned:
    """The smallest twin found whose error is within the tolerance.

    One s in thresholds T + (1 - T) s is bisected for all groups; then groups get back their own threshold, the one that
    alone costs least first, as long as the error stays within the tolerance. What cannot be narrowed on the way is not
    tried again.
    """
    everything = best = builds.build(1.0, aside)
    aside = best.aside
    if error(best.twin) <= tolerance:
        return best
    low, high = 0.0, 1.0
    best = builds.build(0.0, aside)
    aside = best.aside
    if not error(best.twin) <= tolerance:  # what is exact to rounding is still more than asked for
        return builds.unchanged(aside)
    for _ in range(STEPS):
        middle = (low + high) / 2
        planned = builds.build(middle, aside)
        aside = planned.aside
        if error(planned.twin) <= tolerance:
            low, best = middle, planned
        else:
            high = middle
    towards = dict.fromkeys((group.index for group in best.twin.trace.groups), low)
    costs = []
    for index in sorted(everything.twin.plans):
        planned = builds.build(towards | {index: 1.0}, aside)
        aside = planned.aside
        costs.append((error(planned.twin), index))
    for cost, index in sorted(costs):
        if cost > tolerance:
            break
        planned = builds.build(towards | {index: 1.0}, aside)
        aside = planned.aside
        if error(planned.twin) <= tolerance:
            towards[index] = 1.0
            best = planned
    return replace(best, aside=aside)
