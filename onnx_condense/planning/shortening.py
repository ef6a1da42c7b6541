"""Streams that normalizations read, in fewer directions, before anything else is judged.

They are groups of a trace of their own, through normalizations (see factoring/residual.py), sliced by the usual
rewriter. What is written is then opened in the place of the model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from onnx_condense.arrays import Floats
from onnx_condense.errors import PlanError, VerificationError, left_alone
from onnx_condense.factoring.residual import Residual, residuals
from onnx_condense.factoring.shorter import basis_of, exact_basis, keeps_mean, projected, shorten
from onnx_condense.forms.tied import tied
from onnx_condense.goals import Share
from onnx_condense.merging.streams import ShortStream
from onnx_condense.merging.twin import Twin
from onnx_condense.operators.queries import count_parameters, normalizes
from onnx_condense.operators.reasons import Because
from onnx_condense.planning.alignment import width_multiple
from onnx_condense.planning.hardware import Hardware
from onnx_condense.planning.heads import proof_of
from onnx_condense.planning.selection import chosen_groups
from onnx_condense.planning.tying import ties_of
from onnx_condense.prepare import Clock, Opened, Shortened, reopened
from onnx_condense.rewriting.checks import check_shapes
from onnx_condense.rewriting.kept import Disagreement
from onnx_condense.rewriting.sizes import parameters_of
from onnx_condense.rewriting.writer import write
from onnx_condense.tracing.trace import Group, Trace
from onnx_condense.tracing.tracer import trace

_log = logging.getLogger(__name__)

Short = tuple[Residual, Floats]
"""A stream, and the basis [width, rank] in which it is to lie."""


def has_norms(opened: Opened) -> bool:
    """Whether a model normalizes channels together."""
    return any(map(normalizes, opened.trace.actions.values()))


def traced_through_norms(opened: Opened) -> Trace | None:
    """The trace in which channels go on behind normalizations; None where there are none."""
    known = opened.trace
    if opened.options.widths_only or not has_norms(opened):
        return None
    return replace(trace(known.facts, through_norms=True), leave=known.leave, plain=known.plain)


def streams_of(whole: Trace, opened: Opened) -> Iterator[tuple[Group, Residual | Because, Twin]]:
    """The streams that normalizations read, and why some of them stay."""
    twin = Twin(whole)
    for group, stream in residuals(whole, chosen_groups(whole, opened.options)):
        yield group, stream, twin


def in_fewer_directions(opened: Opened, clock: Clock, hardware: Hardware) -> Opened:
    """A model whose streams lie in as many directions as are filled, without loss and to a share; else as it was."""
    asked = opened.options.lossless or isinstance(opened.options.goal, Share)
    whole = traced_through_norms(opened) if asked else None
    if whole is None:
        return opened
    try:
        with left_alone("streams that normalizations read"):
            with clock("plan"):
                found = [s for _, s, _ in streams_of(whole, opened) if isinstance(s, Residual)]
                short = _that_fit(whole, [(s, b) for s in found if (b := _exact(s, opened, hardware)) is not None])
            other = opened_so(opened, whole, short, clock) if short else opened
            return other if short and _held_once(other) < _held_once(opened) else opened
    except VerificationError as error:
        _log.warning("streams that normalizations read are left alone: %s", error)
    return opened


def _held_once(opened: Opened) -> int:
    """Parameters of a model whose tables are held once: copies of a table are none in another basis."""
    return count_parameters(tied(ties_of(opened), opened.trace.facts.model).graph)[0]


def exact_rank(stream: Residual, twin: Twin) -> int:
    """How many directions the writers of a stream fill."""
    basis = exact_basis(stream, twin)
    return stream.width if basis is None else basis.shape[1]


def reshortened(opened: Opened, streams: Sequence[ShortStream], clock: Clock, proved: bool = True) -> Opened:
    """The model with streams in the bases that a plan states. Raises PlanError where they are not the model's."""
    whole = traced_through_norms(opened)
    known = {} if whole is None else {g.layers: s for g, s, _ in streams_of(whole, opened)}
    short = []
    for one in streams:
        stream = known.get(one.layers)
        if not isinstance(stream, Residual) or len(one.basis) != stream.width:
            raise PlanError("the plan shortens streams that the model does not have: plan it again")
        if stream.centred and not keeps_mean(one.basis):
            raise PlanError(f"the plan's basis for {one.layers[0]} does not keep its mean: plan it again")
        short.append((stream, one.basis))
    assert whole is not None
    try:
        return opened_so(opened, whole, short, clock, proved)
    except Disagreement as problem:
        raise PlanError(f"the plan leaves {problem.name} without a shape: plan the model again") from problem


def _exact(stream: Residual, opened: Opened, hardware: Hardware) -> Floats | None:
    """[width, rank] the basis in which nothing of a stream is lost, as wide as alignment asks; None of a full one."""
    twin = Twin(stream.trace)
    basis = exact_basis(stream, twin)
    if basis is None:
        return None
    multiple = width_multiple(opened.options, hardware.block_width)[0] if stream.convolved else 1
    size = -(-basis.shape[1] // multiple) * multiple
    if size >= stream.width:
        return None
    return basis if size == basis.shape[1] else basis_of(stream, basis, size)


def _that_fit(whole: Trace, short: Sequence[Short]) -> list[Short]:
    """Those of the streams with whose bases the model has shapes, and is smaller."""
    chosen = list(short)
    while chosen:
        twin = shortened(whole, chosen)
        try:
            check_shapes(twin)
            smaller = parameters_of(twin) < parameters_of(Twin(whole))
        except Disagreement as problem:
            left = [(s, b) for s, b in chosen if not np.isin(s.group.units, problem.units).any()]
            chosen = left if len(left) < len(chosen) else []
            continue
        return chosen if smaller else []
    return []


def shortened(whole: Trace, short: Sequence[Short]) -> Twin:
    """The twin of a model with streams in these bases."""
    twin = Twin(whole)
    for stream, basis in short:
        shorten(stream, basis, twin)
    return twin


def opened_so(opened: Opened, whole: Trace, short: Sequence[Short], clock: Clock, proved: bool = True) -> Opened:
    """The model with streams in these bases, opened in the place of the model.

    Raises VerificationError where it is not what its twin, whose writers write in these bases alone, says it is.
    """
    with clock("rewrite"):
        written = write(shortened(whole, short), {})
    proof = None
    if proved:
        with clock("verify"):
            twin = Twin(whole)
            for stream, basis in short:
                projected(stream, basis, twin)
            proof = proof_of(opened, whole, written, write(twin, {}, expanded=True))
    streams = tuple(ShortStream(stream.group.layers, basis) for stream, basis in short)
    return reopened(opened, clock, replace(opened.before, short=Shortened(streams, written, proof)))
