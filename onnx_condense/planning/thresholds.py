"""Builds states: every group judged and decided, in the order that the options ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

import numpy as np

from onnx_condense.errors import PlanError, UsageError
from onnx_condense.merging.deciding import decide
from onnx_condense.merging.judging import Judgement, Method, judge
from onnx_condense.merging.paths import paths
from onnx_condense.merging.plan import GroupPlan, Plan
from onnx_condense.merging.twin import Twin
from onnx_condense.operators.actions import Role
from onnx_condense.options import DEFAULT_THRESHOLD, Options
from onnx_condense.rewriting.checks import check_shapes, check_size
from onnx_condense.rewriting.kept import Disagreement, Enlarged
from onnx_condense.tracing.trace import Group, Trace, layer_name

STAYS = 0
"""In `Builder.multiples`: the group stays as it is."""


class Builder:
    """From a trace and options to states.

    Attributes:
        groups: the groups that --include and --exclude leave, in topological order.
        thresholds: group index -> threshold.
        original: the twin in which nothing is merged.
        uneven: tensors whose channels could not be removed evenly; their groups stay.
        enlarging: weights that the file only describes and that would make it larger; their groups stay.
        quantized: indices of groups with weights that are stored as integers, which are only merged as --lossless does.
        multiples: group index -> multiple that a convolution's width is kept at; STAYS keeps all channels.
        held: group index -> channels whose merges alignment undid in the last build.
        stay: indices of those groups.
        refine: what is done to every twin that is built.
    """

    def __init__(self, traced: Trace, options: Options, align: int) -> None:
        """Raises UsageError when a glob matches no group."""
        self.trace = traced
        self.options = options
        self.align = align
        self.original = Twin(traced)
        self._named: dict[int, list[str]] = {}
        self._check_globs()
        self.groups = [g for g in traced.groups if self._chosen(g)]
        self.quantized = {g.index for g in self.groups if traced.is_quantized(g)}
        self.thresholds = self._thresholds()
        self.multiples = dict.fromkeys(self.thresholds, align)
        self.uneven: list[str] = []
        self.enlarging: list[str] = []
        self.held: dict[int, tuple[int, ...]] = {}
        self.refine: Callable[[Twin], None] | None = None
        self._judged: dict[int, Judgement] = {}
        self.stay: set[int] = set()

    def build(self, towards: float | Mapping[int, float]) -> Twin:
        """A twin whose thresholds go from 1 (nothing merges, towards = 0) to what was asked for (towards = 1).

        `towards` is one number, or one per group. Groups whose shapes do not work out stay as they are.
        """
        share = dict.fromkeys(self.thresholds, towards) if isinstance(towards, float) else towards
        wanted = {index: 1 - (1 - t) * share[index] for index, t in self.thresholds.items()}
        while True:
            twin = self._pass(wanted)
            try:
                check_shapes(twin)
                check_size(twin)
            except Disagreement as problem:
                self.set_aside(problem)
                continue
            if self.refine is not None:
                self.refine(twin)
            return twin

    def replayed(self, plan: Plan) -> Twin:
        """The twin that a plan describes. Raises PlanError when the groups are not the plan's."""
        twin = Twin(self.trace)
        by_index = {g.index: g for g in self.trace.groups}
        for decided in plan.groups:
            group = by_index.get(decided.index)
            if group is None or group.layers != decided.layers or len(group.units) != decided.width:
                at = decided.layers[0]
                raise PlanError(f"the plan does not fit the model at {at}: plan it again with this version")
            known = {(p.slot.node, p.slot.input, p.number) for p in paths(self.trace, group)}
            if known != {(r.node, r.input, r.path) for r in decided.reads}:
                raise PlanError(f"the plan's consumers of {group.layers[0]} are not the model's: plan it again")
            twin.apply(group, decided)
        for refit in plan.refits:
            try:
                twin.refit(refit)
            except (ValueError, AssertionError) as problem:
                raise PlanError(f"the plan does not fit the model ({problem}): plan it again") from problem
        try:
            check_shapes(twin)
        except Disagreement as problem:
            raise PlanError(f"the plan leaves {problem.name} without a shape: plan the model again") from problem
        return twin

    def judged(self, group: Group) -> Judgement:
        """How the group's channels compare on the original weights."""
        if group.index not in self._judged:
            self._judged[group.index] = self._judge(self.original, group)
        return self._judged[group.index]

    def width_at(self, group: Group, threshold: float) -> int:
        """Channels that stay at a threshold, before alignment."""
        plan = self._decide(self.judged(group), threshold, 1)
        return len(plan.keep)

    def rule(self, group: Group) -> Method:
        """How a group is condensed: as the options say, or exactly."""
        return "lossless" if group.index in self.quantized else self.options.rule

    # weights near the largest float overflow in norms: such channels are not alike, and that is no error
    @np.errstate(over="ignore", invalid="ignore")
    def _judge(self, twin: Twin, group: Group) -> Judgement:
        return judge(twin, group, self.rule(group), self.options.depthwise)

    @np.errstate(over="ignore", invalid="ignore")
    def _decide(self, judgement: Judgement, threshold: float, align: int) -> GroupPlan:
        method = self.rule(judgement.group)
        return decide(judgement, self.trace, method, self.options.depthwise, threshold, align)

    def _pass(self, wanted: Mapping[int, float]) -> Twin:
        """One pass over the groups; --lossless repeats until nothing changes."""
        method = self.options.method
        cascading = method == "lossless" or self.options.sequential
        twin = Twin(self.trace)
        repeat = True
        while repeat:
            repeat = False
            for group in self.groups:
                multiple = self.multiples[group.index]
                if group.index in self.stay or multiple == STAYS:
                    self.held[group.index] = ()
                    continue
                judgement = (
                    self._judge(twin, group) if cascading or group.index in self.quantized else self.judged(group)
                )
                plan = self._decide(judgement, wanted[group.index], multiple)
                self.held[group.index] = plan.held
                if plan.shrinks:
                    twin.apply(group, plan)
                    repeat = method == "lossless"
        return twin

    def set_aside(self, problem: Disagreement) -> None:
        """Lets the groups whose shapes do not work out stay as they are. Raises the problem where none is concerned."""
        concerned = {g.index for g in self.trace.groups if np.isin(g.units, problem.units).any()} - self.stay
        if not concerned:
            raise problem
        self.stay |= concerned
        (self.enlarging if isinstance(problem, Enlarged) else self.uneven).append(problem.name)

    def _thresholds(self) -> dict[int, float]:
        result = {group.index: self.options.threshold or DEFAULT_THRESHOLD for group in self.groups}
        for pattern, value in self.options.layer_threshold:
            result.update((g.index, value) for g in self.groups if _matches(self._names(g), pattern))
        return result

    def _names(self, group: Group) -> list[str]:
        """What a glob may match: the nodes that make or carry the group's channels, and their weights."""
        if group.index not in self._named:
            places = [(s.node, s.input) for s in self.trace.slots_of(group) if s.role is not Role.CONTRACTED]
            nodes = self.trace.facts.nodes
            names = [nodes[node].name for node, _ in places] + [nodes[node].inputs[i].name for node, i in places]
            self._named[group.index] = [*group.layers, *names]
        return self._named[group.index]

    def _check_globs(self) -> None:
        """Raises UsageError for a glob that matches no node and no weight of the model."""
        nodes = self.trace.facts.nodes
        known = {n.name for n in nodes} | {layer_name(n, i) for i, n in enumerate(nodes)} | self.trace.facts.static
        thresholds = [pattern for pattern, _ in self.options.layer_threshold]
        options = {
            "--include": self.options.include,
            "--exclude": self.options.exclude,
            "--layer-threshold": thresholds,
        }
        for option, patterns in options.items():
            for pattern in patterns:
                if not _matches(list(known), pattern):
                    raise UsageError(f"{option} {pattern} matches no node or weight: onnx-condense inspect names them")

    def _chosen(self, group: Group) -> bool:
        if not (self.options.include or self.options.exclude):
            return True
        names = self._names(group)
        included = not self.options.include or any(_matches(names, p) for p in self.options.include)
        return included and not any(_matches(names, p) for p in self.options.exclude)


def _matches(names: list[str], pattern: str) -> bool:
    return any(name and fnmatchcase(name, pattern) for name in names)
