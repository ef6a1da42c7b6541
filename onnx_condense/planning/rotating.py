"""Which streams are turned into another basis before anything is judged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from onnx_condense.errors import unforeseen
from onnx_condense.factoring.rotation import balanced, deficient
from onnx_condense.factoring.streams import Stream, streams
from onnx_condense.forms.bases import Rotation
from onnx_condense.goals import Share
from onnx_condense.merging.methods import MANNERS
from onnx_condense.merging.twin import Twin
from onnx_condense.planning.selection import chosen_groups
from onnx_condense.prepare import Opened
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.summing import measured

ENOUGH = 32
"""Calibration samples from which on they say how the channels of a stream vary together."""


Choose = Callable[[Stream], Rotation | None]


def rotations_of(opened: Opened) -> tuple[Rotation, ...]:
    """The bases that a run asks for: exact ones with --lossless, balanced ones for shares with calibration inputs."""
    options, trace = opened.options, opened.trace
    manner = MANNERS[options.method]
    narrows = isinstance(options.goal, Share) and manner.calibrates and opened.calibration.samples >= ENOUGH
    if not (options.lossless or narrows):
        return ()
    found = list(streams(trace, chosen_groups(trace, options)))
    if not found:
        return ()
    twin = Twin(trace)
    choose: Choose = partial(deficient, twin=twin)
    if narrows:
        real = measured(trace, opened.calibration, options.seed)
        prior = Estimate(trace, opened.feeds[0], options.seed)
        choose = partial(balanced, twin=twin, estimate=Estimate(trace, opened.feeds[0], options.seed, real, prior))
    return tuple(rotation for stream in found if (rotation := _chosen(stream, choose)) is not None)


def _chosen(stream: Stream, choose: Choose) -> Rotation | None:
    try:
        return choose(stream)
    except Exception as error:  # of ours, whatever it is: the stream stays in its basis
        unforeseen(error, stream.group.layers[0])
        return None
