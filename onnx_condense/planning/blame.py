"""Which groups change the outputs most, each on its own, and the thresholds that would spare them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from onnx_condense.merging.plan import GroupPlan
from onnx_condense.merging.twin import Twin
from onnx_condense.planning.planned import Planned
from onnx_condense.planning.thresholds import Planner

ASKED = 8
"""Groups that are tried alone at most: those that merged most of what is least alike."""

NAMED = 3
"""Groups that are named at most."""

DIGITS = 1000
"""Thresholds are told in parts of this."""


@dataclass(frozen=True)
class Blame:
    """A group, the error of the outputs where it alone merges, and the threshold at which it does not."""

    layer: str
    error: float
    threshold: float


def blamed(planner: Planner, planned: Planned, error: Callable[[Twin], float]) -> tuple[Blame, ...]:
    """The groups of a twin at thresholds whose merges change the outputs most, the worst one first.

    `error`: of the outputs of a twin.
    """
    indices = frozenset(group.index for group in planner.groups)
    suspects = sorted(planned.twin.plans.items(), key=lambda item: -_unlike(item[1]))[:ASKED]
    found = []
    for index, plan in suspects:
        if not _unlike(plan):
            continue
        aside = replace(planned.aside, groups=planned.aside.groups | (indices - {index}))
        alone = error(planner.build(aside=aside).twin)
        threshold = min(1.0, math.ceil(plan.highest * DIGITS) / DIGITS)
        found.append(Blame(plan.layers[0], alone, threshold))
    return tuple(sorted(found, key=lambda blame: -blame.error)[:NAMED])


def _unlike(plan: GroupPlan) -> float:
    """What the merges of a group were not alike, summed up."""
    pairs = zip(plan.main, plan.cosine, strict=True)
    return sum(1 - cosine**2 for i, (main, cosine) in enumerate(pairs) if main not in (i, -1))
