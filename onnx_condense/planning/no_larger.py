"""Merges that make a file larger are not made: consumers may get biases, and constants that nodes share, copies."""

from __future__ import annotations

from dataclasses import replace

from onnx_condense.merging.twin import Twin
from onnx_condense.planning.planned import Planned
from onnx_condense.rewriting.sizes import parameters_of


def no_larger(planned: Planned) -> Planned:
    """What was decided; its merges alone, or nothing, where the model would hold more parameters than before."""
    twin = planned.twin
    if not twin.plans or not _may_grow(twin):
        return planned
    before = parameters_of(Twin(twin.trace))
    if parameters_of(twin) <= before:
        return planned
    merged = Twin(twin.trace)
    for index, plan in twin.plans.items():
        merged.apply(twin.trace.groups[index], plan)
    if parameters_of(merged) <= before:
        return replace(planned, twin=merged)
    return replace(planned, twin=Twin(twin.trace), held={})


def _may_grow(twin: Twin) -> bool:
    """Whether a linear map gets a bias that it lacked, or nodes share constants that hold channels."""
    facts, maps = twin.trace.facts, [twin.trace.linear_map(node) for node in twin.shift]
    names = (facts.nodes[slot.node].inputs[slot.input].name for slot in twin.trace.slots)
    return any(map_ is None or map_.bias is None for map_ in maps) or any(len(facts.consumers(n)) > 1 for n in names)
