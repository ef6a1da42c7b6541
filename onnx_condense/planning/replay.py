"""The twin that a plan describes."""

from __future__ import annotations

from onnx_condense.errors import PlanError
from onnx_condense.merging.paths import paths
from onnx_condense.merging.plan import Plan
from onnx_condense.merging.twin import Twin
from onnx_condense.rewriting.checks import check_shapes
from onnx_condense.rewriting.kept import Disagreement
from onnx_condense.tracing.trace import Trace


def replayed(trace: Trace, plan: Plan) -> Twin:
    """The twin that a plan describes. Raises PlanError when the groups are not the plan's."""
    twin = Twin(trace)
    by_index = {g.index: g for g in trace.groups}
    for decided in plan.groups:
        group = by_index.get(decided.index)
        if group is None or group.layers != decided.layers or len(group.units) != decided.width:
            at = decided.layers[0]
            raise PlanError(f"the plan does not fit the model at {at}: plan it again with this version")
        known = {(p.slot.node, p.slot.input, p.number) for p in paths(trace, group)}
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
