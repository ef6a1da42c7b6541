"""The paper's figure 4: how alike the channels of a group are, ordered by what they merged into."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from onnx_condense.arrays import Bools, Floats
from onnx_condense.merging.judging import Judgement
from onnx_condense.merging.plan import GroupPlan
from onnx_condense.planning.planned import Planned
from onnx_condense.planning.thresholds import Planner

GROUPS = 3
"""Groups that are shown at most, those that lose most."""

CHANNELS = 256
"""Channels of a group that is shown, at most."""


@dataclass(frozen=True, eq=False)
class Cosines:
    """Cosines of the channels of one group, ordered by condensation group, larger ones first.

    table: [n, n]. kept: [n] which channels stay.
    """

    layers: tuple[str, ...]
    table: Floats
    kept: Bools

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with cosines to two digits."""
        table = np.round(self.table.astype(np.float64), 2)
        return {"layers": list(self.layers), "cosines": table.tolist(), "kept": self.kept.tolist()}


def cosines_of(planner: Planner, planned: Planned) -> tuple[Cosines, ...]:
    """Of the groups that lose most, where their channels were compared and are few."""
    plans = [plan for plan in planned.twin.plans.values() if plan.width <= CHANNELS]
    plans.sort(key=lambda plan: (len(plan.keep) - plan.width, plan.index))
    found = (_ordered(planner.judgements[plan.index], plan) for plan in plans if plan.index in planner.judgements)
    return tuple(islice((one for one in found if one is not None), GROUPS))


def _ordered(judged: Judgement, plan: GroupPlan) -> Cosines | None:
    """Of the cell with most channels; None where nothing was compared."""
    cell = max(range(len(judged.members)), key=lambda place: len(judged.members[place]), default=None)
    if cell is None or len(judged.members[cell]) < 2:
        return None
    members, main = judged.members[cell], np.asarray(plan.main)
    into = main[members]
    size = np.bincount(into[into >= 0], minlength=len(main))[into] * (into >= 0)
    order = np.lexsort((into != members, into, -size))
    table = judged.alike[cell][0].table[np.ix_(order, order)]
    np.fill_diagonal(table, 1)
    return Cosines(plan.layers, table, np.isin(members[order], plan.keep))
