"""Streams that normalizations read under a budget: fewer directions where they cost less than what goes otherwise."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx

from onnx_condense.arrays import Floats
from onnx_condense.errors import VerificationError
from onnx_condense.factoring.residual import Residual, State
from onnx_condense.factoring.rotation import WIDEST
from onnx_condense.factoring.shorter import basis_of
from onnx_condense.goals import Share
from onnx_condense.merging.twin import Twin
from onnx_condense.planning.shortening import Short, opened_so, shortened, streams_of, traced_through_norms
from onnx_condense.planning.units import Units
from onnx_condense.prepare import Clock, Opened
from onnx_condense.refitting.consumer import Consumer, consumer_of
from onnx_condense.refitting.moments import Sums
from onnx_condense.refitting.summing import measured
from onnx_condense.rewriting.checks import check_shapes
from onnx_condense.rewriting.kept import Disagreement
from onnx_condense.rewriting.writer import write
from onnx_condense.tracing.trace import Trace

_log = logging.getLogger(__name__)

STEPS = 16
"""Parts of a stream's width that it may be shorter by."""

FAINTEST = 1e-3
"""Share of the largest gain of a normalization that its gains are taken for at least, where one is divided by them."""


def shorter_streams(
    opened: Opened, clock: Clock, kept: float, loss: float, lost: Callable[[onnx.ModelProto], float]
) -> Opened | None:
    """A model whose streams lie in fewer directions, as far as those are cheaper than what goes otherwise; else None.

    kept: the share of the model that is left otherwise. loss: what its outputs lose then. lost: what those of any do.
    """
    whole = traced_through_norms(opened) if loss > 0 and kept < 1 else None
    if whole is None:
        return None
    with clock("plan"):
        found = [stream for _, stream, _ in streams_of(whole, opened) if isinstance(stream, Residual)]
        directions = _directions(opened, whole, [stream for stream in found if stream.width <= WIDEST])
        price = loss / (1 - kept)
        short = _cheaper(opened, whole, directions, kept, lambda spared, model: lost(model) <= price * spared)
    if not short:
        return None
    try:
        return opened_so(opened, whole, short, clock)
    except VerificationError as error:
        _log.warning("streams that normalizations read are left alone: %s", error)
        return None


def _cheaper(
    opened: Opened,
    whole: Trace,
    directions: Mapping[Residual, Floats],
    kept: float,
    is_cheap: Callable[[float, onnx.ModelProto], bool],
) -> Sequence[Short]:
    """As few directions as are asked for, or as are cheap for the share of the model that goes with the others."""
    chosen: Sequence[Short] = ()
    goal = opened.options.goal
    if not isinstance(goal, Share) or not directions:
        return chosen
    units = Units(goal.unit)
    size, before = units.size(Twin(opened.whole)), units.size(Twin(whole))
    for step in range(1, STEPS - 1):
        short = [(stream, _first(stream, found, step)) for stream, found in directions.items()]
        twin = shortened(whole, short)
        try:
            check_shapes(twin)
            now = units.size(twin)
        except Disagreement:
            break
        if now >= before or not is_cheap((before - now) / size, write(twin, {}).model):
            break
        chosen = short
        if now <= kept * size:
            break
    return chosen


def _first(stream: Residual, directions: Floats, step: int) -> Floats:
    """[width, rank] the basis of the first of the directions [width, width]."""
    rank = max(2, stream.width - max(1, stream.width * step // STEPS))
    ones = np.full((stream.width, 1), stream.width**-0.5)
    return basis_of(stream, np.hstack([ones, directions[:, : rank - 1]]) if stream.centred else directions[:, :rank])


def _directions(opened: Opened, whole: Trace, streams: Sequence[Residual]) -> dict[Residual, Floats]:
    """[width, width] of each stream, those first in which what its readers see of it is largest; all count alike.

    By the calibration inputs that do not judge.
    """
    readers = {stream: [(consumer_of(whole, slot), state) for slot, state in stream.readers] for stream in streams}
    asked = [one for found in readers.values() for one, _ in found if one is not None]
    sums = measured(whole, opened.calibration.judges()[1], opened.options.seed)(asked) if asked else []
    known = dict(zip([one.key for one in asked], sums, strict=True))
    result, twin = dict[Residual, Floats](), Twin(whole)
    for stream, found in readers.items():
        total = np.zeros((stream.width, stream.width))
        for consumer, state in found:
            seconds = None if consumer is None else _seconds(consumer, state, known[consumer.key], twin)
            if seconds is not None and np.trace(seconds) > 0:
                total += seconds / np.trace(seconds)
        if total.any():
            _, vectors = np.linalg.eigh(total)
            result[stream] = vectors[:, ::-1]
    return result


def _seconds(consumer: Consumer, state: State, sums: Sums | None, twin: Twin) -> Floats | None:
    """[n, n] second moments of a stream as a reader sees it, before gain and shift; None where they are not known."""
    n = consumer.channels
    if sums is None or not sums.is_finite:
        return None
    moments, taps = sums.moments(), consumer.layout.taps
    mean = moments.x.reshape(n, taps).mean(1)
    shift, gain = np.zeros(n), np.ones(n)
    if state.shift is not None:
        shift = twin.weight(state.shift.node, state.shift.input).reshape(-1).astype(np.float64)
    if state.gain is not None:
        gain = np.abs(twin.weight(state.gain.node, state.gain.input).reshape(-1).astype(np.float64))
        gain = np.maximum(gain, FAINTEST * max(gain.max(), np.finfo(float).tiny))
    varies = np.einsum("itjt->ij", moments.xx.reshape(n, taps, n, taps)) / taps
    return np.asarray((varies + np.outer(mean - shift, mean - shift)) / np.outer(gain, gain))
