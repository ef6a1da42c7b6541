"""What a plan says is done to a model before anything else, done again."""

from __future__ import annotations

from dataclasses import replace

from onnx_condense.merging.plan import Plan
from onnx_condense.planning.heads import recut
from onnx_condense.planning.shortening import reshortened
from onnx_condense.prepare import Clock, Opened, reopened


def again(opened: Opened, plan: Plan, clock: Clock, proved: bool = True) -> Opened:
    """The model after what a plan says is done before anything else. Raises PlanError where that is not the model's."""
    if not plan.done_before:
        return opened
    found = opened if plan.heads is None else recut(opened, plan, plan.heads, clock, proved)
    if plan.streams:
        found = reshortened(found, plan.streams, clock, proved)
    if not (plan.rotations or plan.ties):
        return found
    return reopened(found, clock, replace(found.before, rotations=plan.rotations, ties=plan.ties))
