"""Whole heads of attention that leave a model before anything else is judged.

They are channels of a trace of their own (see tracing/heads.py), merged and deleted by the usual equation. What is
written of its twin is then opened in the place of the model.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from onnx_condense.errors import PlanError, VerificationError
from onnx_condense.goals import Share
from onnx_condense.merging.methods import MANNERS
from onnx_condense.merging.plan import Heads, Plan
from onnx_condense.merging.twin import Twin
from onnx_condense.options import Options
from onnx_condense.planning.replay import replayed
from onnx_condense.planning.selection import chosen_groups
from onnx_condense.planning.thresholds import Planner
from onnx_condense.prepare import Before, Clock, Cut, Opened, reopened
from onnx_condense.proving.compare import is_told, results
from onnx_condense.proving.surgery import Case, VerificationReport, prove
from onnx_condense.rewriting.writer import Written, write
from onnx_condense.tracing.trace import Trace
from onnx_condense.tracing.tracer import trace

_log = logging.getLogger(__name__)


def traced_by_heads(opened: Opened) -> Trace | None:
    """The trace in which whole heads are channels; None where no products of data have any."""
    known = opened.trace
    if not known.has_heads:
        return None
    return replace(trace(known.facts, whole_heads=True), leave=known.leave, plain=known.plain)


def exact_heads(opened: Opened) -> Planner | None:
    """What finds the heads that may leave without loss; None where the options let none, or there are none."""
    options = opened.options
    whole = None if options.widths_only else traced_by_heads(opened)
    if whole is None:
        return None
    groups = tuple(group for group in whole.headed if group in chosen_groups(whole, options))
    exact = Options(lossless=True, depthwise=options.depthwise)
    return Planner(whole, exact, 1, groups) if groups else None


def without_heads(opened: Opened, clock: Clock) -> Opened:
    """A model without the heads that need not be there, for runs without loss and to a share; else as it was."""
    if not (opened.options.lossless or isinstance(opened.options.goal, Share)):
        return opened
    with clock("plan"):
        planner = exact_heads(opened)
        twin = None if planner is None else planner.build().twin
    if twin is None or not twin.changed:
        return opened
    try:
        return cut(opened, twin, clock)
    except VerificationError as error:
        _log.warning("whole heads are left alone: %s", error)
        return opened


def may_plan_again(opened: Opened) -> bool:
    """Whether a run may be planned once more, on a smaller model: one to a share, with enough calibration inputs."""
    options = opened.options
    narrows = isinstance(options.goal, Share) and MANNERS[options.method].calibrates
    plain = not (options.widths_only or options.ensure_faster)
    return narrows and plain and opened.calibration.chooses


def cut(opened: Opened, twin: Twin, clock: Clock, proved: bool = True) -> Opened:
    """The model that a twin describes, whose channels are whole heads, opened in the place of the model.

    Raises VerificationError where it is not what the twin says.
    """
    with clock("rewrite"):
        written = write(twin, {})
    proof = None
    if proved:
        with clock("verify"):
            proof = proof_of(opened, twin.trace, written, write(twin, {}, expanded=True))
    groups = tuple(twin.plans[index] for index in sorted(twin.plans))
    refits = tuple(twin.refits[place] for place in sorted(twin.refits))
    return reopened(opened, clock, Before(cut=Cut(Heads(groups, refits), written, proof)))


def proof_of(opened: Opened, traced: Trace, written: Written, expanded: Written) -> VerificationReport:
    """That a model which is to be opened in the place of another is what its expanded twin is.

    Raises VerificationError.
    """
    original, feeds = opened.source.proto, opened.feeds
    expected = results(original, feeds)
    told = is_told(opened.told, expected, feeds)
    case = Case(original, expected, feeds, opened.others, told, opened.unoptimized)
    return prove(case, traced, written, expanded, replace(opened.options, tolerance=None))


def recut(opened: Opened, plan: Plan, heads: Heads, clock: Clock, proved: bool = True) -> Opened:
    """The model without the heads that a plan lets go. Raises PlanError where they are not the model's."""
    whole = traced_by_heads(opened)
    if whole is None:
        raise PlanError("the plan lets heads go that the model does not have: plan it again")
    alone = replace(plan, groups=heads.groups, refits=heads.refits, factors=(), mixes=())
    return cut(opened, replayed(whole, alone), clock, proved)
