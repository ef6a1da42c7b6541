"""Twins at thresholds: every group judged and decided, in the order that the options ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from onnx_condense.arrays import Ints
from onnx_condense.errors import unforeseen
from onnx_condense.factoring.exact import factor_exactly
from onnx_condense.merging.deciding import plan_group, plan_keeping
from onnx_condense.merging.judging import Judgement, judge, unjudged
from onnx_condense.merging.methods import Manner, manner_of
from onnx_condense.merging.plan import GroupPlan
from onnx_condense.merging.twin import Twin
from onnx_condense.model.held import let_go
from onnx_condense.options import Method, Options
from onnx_condense.planning.planned import NOTHING, Aside, Planned
from onnx_condense.planning.selection import chosen_weights, thresholds_of
from onnx_condense.rewriting.checks import check_shapes, check_size
from onnx_condense.rewriting.kept import Disagreement, Failed
from onnx_condense.tracing.trace import Group, Trace

STAYS = 0
"""In `Planner.multiples`: the group stays as it is."""

Refine = Callable[[Twin], None]
"""What is done to every twin."""


def untouched(twin: Twin) -> None:
    """Leaves a twin as the merges made it."""


@dataclass(frozen=True, eq=False)
class Planner:
    """From a traced model and options to twins.

    Attributes:
        trace: the model.
        options: what to do.
        align: the multiple that widths of convolutions are kept at.
        groups: those that the options choose, in topological order.
        refine: what is done to every twin that is built.
        multiples: group index -> its multiple where that is not `align`; STAYS keeps all channels.
        exact: group index -> merges that are exact, whatever is asked for; for budgets, which make them first. steps:
            the same one after the other: some are exact only after others.
        judgements: group index -> how its channels compare on the original weights, as far as anyone asked.
    """

    trace: Trace
    options: Options
    align: int
    groups: tuple[Group, ...]
    refine: Refine = untouched
    multiples: Mapping[int, int] = field(default_factory=dict)
    exact: Mapping[int, GroupPlan] = field(default_factory=dict, repr=False)
    steps: Mapping[int, Sequence[GroupPlan]] = field(default_factory=dict, repr=False)
    judgements: dict[int, Judgement] = field(default_factory=dict, repr=False)

    def widened(self, multiples: Mapping[int, int]) -> Planner:
        """The same with other multiples."""
        return replace(self, multiples=multiples)

    def with_exact(self) -> Planner:
        """The same, knowing which merges are exact."""
        options = Options(lossless=True, depthwise=self.options.depthwise)
        cleared: dict[str, Any] = {"multiples": {}, "exact": {}, "steps": {}, "judgements": {}}
        twin = replace(self, options=options, align=1, refine=untouched, **cleared).build().twin
        steps: dict[int, list[GroupPlan]] = {}
        for group, plan in twin.exact:
            steps.setdefault(group.index, []).append(plan)
        return replace(self, exact=twin.plans, steps=steps)

    @cached_property
    def original(self) -> Twin:
        """The twin in which nothing is merged."""
        return Twin(self.trace)

    @cached_property
    def thresholds(self) -> Mapping[int, float]:
        """Group index -> threshold."""
        return thresholds_of(self.trace, self.groups, self.options)

    @cached_property
    def quantized(self) -> frozenset[int]:
        """Indices of groups with weights that are stored as integers, which are only merged as --lossless does."""
        return frozenset(g.index for g in self.groups if self.trace.is_quantized(g))

    def method(self, group: Group) -> Method:
        """How a group is condensed: as the options say, or exactly."""
        return Method.LOSSLESS if group.index in self.quantized else self.options.method

    def manner(self, group: Group) -> Manner:
        """The row of that method."""
        return manner_of(self.options, self.method(group))

    def multiple(self, group: Group) -> int:
        """The multiple that the group's width is kept at."""
        return self.multiples.get(group.index, self.align)

    # ---- twins

    def build(self, towards: float | Mapping[int, float] = 1.0, aside: Aside = NOTHING) -> Planned:
        """A twin whose thresholds go from 1 (nothing merges, towards = 0) to what was asked for (towards = 1).

        Groups whose shapes do not work out stay as they are.

        Args:
            towards: one number, or one per group.
            aside: groups that stay in any case.
        """
        share = dict.fromkeys(self.thresholds, towards) if isinstance(towards, float) else towards
        wanted = {index: 1 - (1 - t) * share[index] for index, t in self.thresholds.items()}
        while True:
            try:
                twin, held = self._merged(wanted, aside)
                check_shapes(twin)
                check_size(twin)
            except Disagreement as problem:
                aside = aside.after(problem, self.trace)
                continue
            self.refine(twin)
            return Planned(twin, held, aside)

    def unchanged(self, aside: Aside = NOTHING) -> Planned:
        """Nothing is merged."""
        return Planned(self.original, {}, aside)

    def factored(self, planned: Planned) -> Planned:
        """The same with weights as pairs of factors that lose nothing by it."""
        twin = Twin(self.trace) if planned.twin is self.original else planned.twin
        factor_exactly(twin, chosen_weights(self.trace, self.options))
        return replace(planned, twin=twin)

    def without(self, gone: Mapping[int, Ints], checked: bool = True) -> Twin:
        """The twin without these channels of groups (index -> [k]), consumers not refitted.

        Raises Disagreement where shapes do not work out, if that is checked.
        """
        twin = Twin(self.trace)
        for group in self.groups:
            if group.index in gone:
                judgement = self.judged(group)  # before anything is folded, which takes memory
                for step in self.steps.get(group.index, ()):
                    twin.apply_exactly(group, step.of(gone[group.index]))
                    let_go()
                keep = np.setdiff1d(np.arange(len(group.units)), gone[group.index])
                with costing(group):
                    plan = plan_keeping(_told(judgement), keep)
                    let_go()  # of what was compared, before more is folded
                    twin.apply(group, plan)
        if checked:
            check_shapes(twin)
            check_size(twin)
        return twin

    def _merged(self, wanted: Mapping[int, float], aside: Aside) -> tuple[Twin, dict[int, tuple[int, ...]]]:
        """One pass over the groups, and what alignment held back; exact merges repeat until nothing changes.

        Raises Disagreement where a group must stay.
        """
        repeats = manner_of(self.options).exact
        cascading = repeats or self.options.sequential
        twin, held = Twin(self.trace), dict[int, tuple[int, ...]]()
        changed = True
        while changed:
            changed = False
            for group in self.groups:
                if group.index in aside.groups or self.multiple(group) == STAYS:
                    continue
                anew = twin.plans and (cascading or group.index in self.quantized)
                judgement = self._judge(twin, group) if anew else self.judged(group)
                with costing(group):
                    plan = _decide(_told(judgement), wanted[group.index], self.multiple(group))
                    if plan.shrinks:
                        (twin.apply_exactly if repeats else twin.apply)(group, plan)
                        changed = repeats
                held[group.index] = plan.held
        return twin, held

    # ---- groups

    def freely(self, group: Group) -> Ints:
        """[k] the channels that merge exactly, or go so, in an order in which they may."""
        found = [np.zeros(0, dtype=np.int64)]
        for step in self.steps.get(group.index, ()):
            going = np.setdiff1d(np.arange(step.width), step.keep)
            found.append(np.setdiff1d(going, np.concatenate(found)))
        return np.concatenate(found)

    def judged(self, group: Group) -> Judgement:
        """How the group's channels compare on the original weights."""
        if group.index not in self.judgements:
            self.judgements[group.index] = self._judge(self.original, group)
        return self.judgements[group.index]

    def width_at(self, group: Group, threshold: float) -> int:
        """Channels that stay at a threshold, before alignment. Raises Disagreement where that cannot be said."""
        with costing(group):
            return len(_decide(_told(self.judged(group)), threshold, 1).keep)

    # weights near the largest float overflow in norms: such channels are not alike, and that is no error
    @np.errstate(over="ignore", invalid="ignore")
    def _judge(self, twin: Twin, group: Group) -> Judgement:
        let_go()  # of what was folded before
        try:
            return judge(twin, group, self.manner(group))
        except Exception as error:  # of ours, whatever it is: it costs the group
            return unjudged(twin, group, self.manner(group), unforeseen(error, group.layers[0]))
        finally:
            let_go()


@contextmanager
def costing(group: Group) -> Iterator[None]:
    """An error of ours costs a group what it could lose, not the run: raises Disagreement."""
    try:
        yield
    except Disagreement:
        raise
    except Exception as error:  # the same
        raise Failed(group.units, group.layers[0], unforeseen(error, group.layers[0])) from error


def _told(judgement: Judgement) -> Judgement:
    """A judgement that says something. Raises Disagreement."""
    if judgement.error:
        raise Failed(judgement.group.units, judgement.group.layers[0], judgement.error)
    return judgement


@np.errstate(over="ignore", invalid="ignore")
def _decide(judgement: Judgement, threshold: float, align: int) -> GroupPlan:
    return plan_group(judgement, threshold, align)
