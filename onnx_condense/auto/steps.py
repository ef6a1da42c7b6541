"""The steps that change a model: which layers it has, and one of them condensed."""

from __future__ import annotations

import glob
from dataclasses import replace

import onnx

from onnx_condense.auto.state import Layer
from onnx_condense.operators.answers import Role
from onnx_condense.options import Options
from onnx_condense.pipeline import condense
from onnx_condense.planning.selection import chosen_groups
from onnx_condense.prepare import open_model
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Group, Trace


def survey(model: onnx.ModelProto, options: Options, apart: bool) -> tuple[list[Layer], Layer | None]:
    """The layers of a model in topological order, and the group that the classifier reads.

    A layer is a dependency group, known by its producers' names; groups whose producers have the same names are one.
    `apart`: the classifier's group is not among the layers, whatever `include` says.
    Raises UsageError for a glob that matches nothing.
    """
    opened = open_model(model, options)
    chosen = list(dict.fromkeys(g.layers for g in chosen_groups(opened.trace, options)))
    if not apart:
        return chosen, None
    allowed = {g.layers for g in chosen_groups(opened.trace, replace(options, include=()))}
    read = _read_last(opened.trace)
    last = read.layers if read is not None and read.layers in allowed else None
    return [layer for layer in chosen if layer != last], last


def _read_last(trace: Trace) -> Group | None:
    """The group that the last layer reads: of the last weight that contracts any group, the last such group."""
    for slot in sorted((s for s in trace.slots if s.role is Role.CONTRACTED), key=lambda s: -s.node):
        units = set(trace.unit_of[atoms_of(slot.labels[slot.labels >= 0])].tolist())
        read = [g for g in trace.groups if units.intersection(g.units.tolist())]
        if read:
            return read[-1]
    return None


def reduce_layer(model: onnx.ModelProto, layer: Layer, threshold: float, options: Options) -> onnx.ModelProto:
    """The model with one layer condensed and the result proven; the model itself where nothing merges.

    A layer that is no longer there (it shrank to one channel) stays as it is, and so does any at threshold 1. Raises
    VerificationError when the surgery limit is not met.
    """
    if threshold >= 1:
        return model
    chosen = replace(options, include=tuple(glob.escape(name) for name in layer), exclude=(), threshold=threshold)
    result = condense(model, chosen)
    groups = tuple(g for g in result.plan.groups if g.layers == layer)
    if not groups:
        return model
    if len(groups) < len(result.plan.groups):  # another group has a producer of the same name
        result = condense(model, replay=replace(result.plan, groups=groups))
    return result.model
