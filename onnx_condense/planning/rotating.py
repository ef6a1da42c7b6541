"""Which streams are turned into another basis before anything is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from onnx_condense.errors import unforeseen
from onnx_condense.factoring.rotation import balanced, deficient
from onnx_condense.factoring.streams import Stream, streams
from onnx_condense.forms.bases import Rotation
from onnx_condense.goals import Share
from onnx_condense.merging.methods import MANNERS
from onnx_condense.merging.twin import Twin
from onnx_condense.options import Options
from onnx_condense.planning.selection import chosen_groups
from onnx_condense.planning.thresholds import Planner
from onnx_condense.planning.units import Units
from onnx_condense.prepare import Clock, Opened, reopened_where_it_fits
from onnx_condense.refitting.consumer import consumer_of
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.summing import measured

Choose = Callable[[Stream], Rotation | None]


def turned(opened: Opened, clock: Clock) -> Opened:
    """A model with its streams in the bases that its run asks for; as it was where there are none.

    Weights that a form only made (copies of bodies, members of stacks) are not where streams are turned.
    """
    with clock("plan"):
        rotations = rotations_of(opened)
    return reopened_where_it_fits(opened, clock, replace(opened.before, rotations=rotations)) if rotations else opened


def rotations_of(opened: Opened) -> tuple[Rotation, ...]:
    """The bases that a run asks for: exact ones with --lossless, balanced ones for shares with calibration inputs."""
    options, trace = opened.options, opened.trace
    manner = MANNERS[options.method]
    narrows = isinstance(options.goal, Share) and manner.calibrates and opened.calibration.chooses
    if options.widths_only or not (options.lossless or narrows):
        return ()
    found = list(streams(trace, chosen_groups(trace, options)))
    if not found:
        return ()
    twin = Twin(trace)
    choose: Choose = partial(deficient, twin=twin)
    if narrows:
        readers = [consumer_of(trace, slot) for stream in found for slot in stream.slots]
        ahead = [reader for reader in readers if reader is not None]
        real = measured(trace, opened.calibration, options.seed, ahead)
        prior = Estimate(trace, opened.feeds[0], options.seed)
        choose = partial(balanced, twin=twin, estimate=Estimate(trace, opened.feeds[0], options.seed, real, prior))
    chosen = {stream: rotation for stream in found if (rotation := _chosen(stream, choose)) is not None}
    if not chosen or (isinstance(options.goal, Share) and _is_reached(opened, options.goal)):
        return ()
    return tuple(chosen.values()) if narrows else tuple(_needed(opened, chosen))


def _is_reached(opened: Opened, goal: Share) -> bool:
    """Whether merges of the channels as they are reach a share without loss."""
    exact, size = Options(lossless=True, depthwise=opened.options.depthwise), Units(goal.unit).size
    groups = chosen_groups(opened.trace, opened.options)
    return size(Planner(opened.trace, exact, 1, groups).build().twin) <= goal.share * size(Twin(opened.whole))


def _needed(opened: Opened, chosen: Mapping[Stream, Rotation]) -> Iterator[Rotation]:
    """Those bases in which fewer channels are left than channels merge into as they are."""
    planner = Planner(opened.trace, opened.options, 1, chosen_groups(opened.trace, opened.options))
    plans = planner.build().twin.plans
    for stream, rotation in chosen.items():
        plan = plans.get(stream.group.index)
        if rotation.rank < (stream.width if plan is None else len(plan.keep)):
            yield rotation


def _chosen(stream: Stream, choose: Choose) -> Rotation | None:
    try:
        return choose(stream)
    except Exception as error:  # of ours, whatever it is: the stream stays in its basis
        unforeseen(error, stream.group.layers[0])
        return None
