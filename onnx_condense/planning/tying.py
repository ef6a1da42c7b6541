"""Tables of embeddings that make logits, too: which of them a run holds once, and which as pairs of factors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_condense.arrays import Floats
from onnx_condense.errors import left_alone
from onnx_condense.factoring.exact import low_rank
from onnx_condense.factoring.weights import OVERHEAD, is_wide
from onnx_condense.forms.tied import Tie, may_be_pair, ties_in
from onnx_condense.goals import Share, Unit
from onnx_condense.planning.selection import is_left
from onnx_condense.prepare import Clock, Opened, reopened_where_it_fits
from onnx_condense.rewriting.shapes import name_of
from onnx_condense.tracing.trace import Trace


def held_once(opened: Opened, clock: Clock) -> Opened:
    """A model whose tables are held once, where its run counts parameters or loses nothing; as it was where none is.

    Tables that a form only made are not where that is done.
    """
    options = opened.options
    counts = options.lossless or (isinstance(options.goal, Share) and options.goal.unit is Unit.PARAMS)
    if options.widths_only or not counts:
        return opened
    with clock("plan"):
        ties = ties_of(opened)
    return reopened_where_it_fits(opened, clock, replace(opened.before, ties=ties)) if ties else opened


def ties_of(opened: Opened) -> tuple[Tie, ...]:
    """The tables that may be held once: those of which no channel may leave, which one copy could not let go alone."""
    trace, options = opened.trace, opened.options
    narrow, found = _narrowing(trace), list[Tie]()
    for tie in ties_in(trace.facts.model):
        if narrow.isdisjoint((tie.table, *tie.copies)) and is_left([tie.table, *tie.copies], options):
            whole = replace(tie, basis=_basis(trace, tie))
            if whole.copies or whole.basis is not None:
                found.append(whole)
    return tuple(found)


def _narrowing(trace: Trace) -> set[str]:
    """Names of the weights that hold channels of groups."""
    return {name_of(trace, slot) for group in trace.groups for slot in trace.slots_of(group)}


def _basis(trace: Trace, tie: Tie) -> Floats | None:
    """[width, rank] in which the rows of a table lie exactly; None where they lie in none that makes it smaller."""
    value = trace.facts.value_by_name(tie.table)
    if value is None or not is_wide(value) or not may_be_pair(tie, trace.facts.model):
        return None
    rows, width = value.shape
    most = min(width, (rows * width - OVERHEAD // value.itemsize) // (rows + width))
    with left_alone(tie.table):
        return low_rank(value.T, (np.arange(width), np.arange(rows)), most) if most > 0 else None
    return None
