"""The twin that a plan describes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from onnx_condense.errors import PlanError, VerificationError
from onnx_condense.merging.measured import Measured
from onnx_condense.merging.paths import paths
from onnx_condense.merging.plan import Plan
from onnx_condense.merging.twin import Twin
from onnx_condense.rewriting.checks import check_shapes
from onnx_condense.rewriting.kept import Disagreement
from onnx_condense.tracing.trace import Trace

FAR = 3.0
"""A replay that begins with the inputs of the plan's own run may have so many times the error that it states ..."""

SLACK = 0.01
"""... and so much more: another host rounds in another way, and a label tips over."""

ELSEWHERE = 10.0
"""On other inputs it may have so many times that error, and one as large as the outputs themselves."""

ALTERED = "is it altered? write it again with --plan"


def check_error(planned: Measured | None, found: Measured) -> None:
    """Raises VerificationError where the error says that a plan is not what its run wrote.

    `found`: what the replay measured; its error is None where that is not finite.
    """
    if planned is not None and planned.error is None:
        return
    most = math.inf
    if planned is not None and planned.error is not None:
        same = planned.inputs == found.inputs
        most = FAR * planned.error + SLACK if same else max(ELSEWHERE * planned.error, 1.0)
    if found.error is not None and found.error <= most:
        return
    own = f", where its own run had {planned.error:.3g}" if planned is not None else ""
    if planned is not None and planned.inputs != found.inputs:
        own += " on other inputs (give those with --data)"
    by = "beyond all numbers" if found.error is None else f"by {found.error:.3g}"
    raise VerificationError(f"the plan changes the outputs {by}{own}: {ALTERED}")


@contextmanager
def _fitting() -> Iterator[None]:
    """Raises PlanError for a part of a plan that is another model's."""
    try:
        yield
    except (ValueError, AssertionError) as problem:
        raise PlanError(f"the plan does not fit the model ({problem}): plan it again") from problem


@contextmanager
def _numbers(of: str) -> Iterator[None]:
    """Raises VerificationError where weights would leave their type."""
    try:
        with np.errstate(over="raise"):
            yield
    except FloatingPointError as problem:
        raise VerificationError(f"the plan gives {of} weights beyond all numbers: {ALTERED}") from problem


def replayed(trace: Trace, plan: Plan) -> Twin:
    """The twin that a plan describes.

    Raises PlanError when the groups are not the plan's, VerificationError when weights would leave their type.
    """
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
        with _numbers(f"what reads {decided.layers[0]}"):
            twin.apply(group, decided)
    for refit in plan.refits:
        with _fitting(), _numbers(refit.layer):
            twin.refit(refit)
            refit.shift.astype(np.float32)  # as it is written
    for factor in plan.factors:
        with _fitting(), _numbers(factor.layer):
            twin.factor(factor)
    for mix in plan.mixes:
        with _fitting(), _numbers("products of data"):
            twin.mix(mix)
            for place in twin.mixes[mix.group].blends:
                twin.weight(*place)  # made when it is asked for
    try:
        check_shapes(twin)
    except Disagreement as problem:
        raise PlanError(f"the plan leaves {problem.name} without a shape: plan the model again") from problem
    return twin
