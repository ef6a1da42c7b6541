"""What was decided of the widths of all groups, and which groups could not be narrowed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnx_condense.merging.twin import Twin
from onnx_condense.planning.candidates import SearchReport
from onnx_condense.planning.latencies import TargetReport
from onnx_condense.rewriting.kept import Disagreement, Enlarged, Failed
from onnx_condense.timing.costs import Costs
from onnx_condense.tracing.trace import Trace

Multiples = Mapping[int, int]
"""Group index -> the multiple that its width is kept at (see `Planner.multiples`)."""


@dataclass(frozen=True)
class Aside:
    """Groups that stay as they are because their shapes do not work out.

    Attributes:
        groups: their indices.
        uneven: tensors whose channels could not be removed evenly.
        enlarging: weights that the file only describes and that would make it larger.
        failed: layers where an error of ours happened, with it.
    """

    groups: frozenset[int] = frozenset()
    uneven: tuple[str, ...] = ()
    enlarging: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    def after(self, problem: Disagreement, trace: Trace) -> Aside:
        """With the groups that a problem concerns. Raises the problem where they are all set aside already."""
        concerned = {g.index for g in trace.groups if np.isin(g.units, problem.units).any()} - self.groups
        if not concerned:
            raise problem
        return self.with_groups(concerned, problem)

    def also(self, other: Aside) -> Aside:
        """With those of another."""
        return Aside(
            self.groups | other.groups,
            self.uneven + other.uneven,
            self.enlarging + other.enlarging,
            self.failed + other.failed,
        )

    def with_groups(self, groups: Collection[int], problem: Disagreement) -> Aside:
        """With some groups, because of a problem."""
        match problem:
            case Enlarged():
                more = replace(self, enlarging=(*self.enlarging, problem.name))
            case Failed():
                more = replace(self, failed=(*self.failed, f"{problem.name} ({problem.text})"))
            case _:
                more = replace(self, uneven=(*self.uneven, problem.name))
        return replace(more, groups=self.groups | set(groups))


NOTHING = Aside()


@dataclass(frozen=True, eq=False)
class Planned:
    """What a strategy decided.

    Attributes:
        twin: the weights, with all merges folded in.
        held: group index -> channels whose merges alignment undid.
        aside: the groups that could not be narrowed.
        calibrated: whether the twin is refitted on the calibration inputs, where there are any.
        lost: what its outputs lose, where that was asked when it was calibrated (see `Run.lost`).
        search: what was tried, where models were evaluated.
        target: what was aimed at, and costs: the table by which, where that was a latency.
    """

    twin: Twin
    held: Mapping[int, tuple[int, ...]]
    aside: Aside
    calibrated: bool = False
    lost: float | None = None
    search: SearchReport | None = None
    target: TargetReport | None = None
    costs: Costs | None = None
