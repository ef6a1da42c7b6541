"""The tracer: one forward pass from a graph to dependency groups.

Producers make atoms, data movement carries them, elementwise operators unite them, consumers contract them, and
whatever is not understood pins them. Every weight that the pass meets becomes a `Slot`: which atoms lie along its axes,
and in which role. That is all that similarity, merging and rewriting need; none of them knows an operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx_condense.errors import unforeseen
from onnx_condense.model.held import parts_of
from onnx_condense.operators.actions import (
    Activation,
    Contraction,
    Filter,
    Normalization,
    Padding,
    Product,
    Reader,
    Recurrent,
    Refused,
    Window,
)
from onnx_condense.operators.answers import ANYTHING, Action, Interval
from onnx_condense.operators.attention import Attending, Rotating
from onnx_condense.operators.between import Chosen, Elementwise
from onnx_condense.operators.facts import Facts
from onnx_condense.operators.moves import Concat, DepthToSpace, Move, SpaceToDepth
from onnx_condense.operators.queries import takes_shape
from onnx_condense.operators.reasons import Because, Reason
from onnx_condense.operators.table import read
from onnx_condense.tracing import attention, joins, linear, moves, products, windows
from onnx_condense.tracing.balance import balance
from onnx_condense.tracing.grouping import Holders, dependency_groups
from onnx_condense.tracing.outcomes import Declined, Outcome, Stay
from onnx_condense.tracing.pairs import partners
from onnx_condense.tracing.recurrent import recurrent
from onnx_condense.tracing.trace import Refusal, Trace, layer_name
from onnx_condense.tracing.walk import Place, Walk

LabelRule = Callable[[Walk, Place, Any], Outcome]
"""What becomes of the labels that a node reads, by its action; it may add signals, slots, atoms and unions on the way.
Raises Stay. A new class of action needs a rule in `RULES`, and one in rewriting/rules.py where it states sizes."""

RULES: Mapping[type[Action], LabelRule] = {
    Contraction: linear.contraction,
    Filter: linear.filtered,
    Normalization: linear.normalization,
    Reader: linear.reader,
    Recurrent: recurrent,
    Product: products.product,
    Attending: attention.attending,
    Rotating: attention.rotating,
    Elementwise: joins.elementwise,
    Chosen: joins.chosen,
    Activation: windows.activation,
    Window: windows.window,
    Padding: windows.padding,
    Move: moves.move,
    Concat: moves.concat,
    DepthToSpace: moves.depth_to_space,
    SpaceToDepth: moves.space_to_depth,
    Refused: lambda walk, place, action: Declined(action.reason),
}


def trace(facts: Facts, whole_heads: bool = False, through_norms: bool = False) -> Trace:
    """Finds the dependency groups of a graph.

    whole_heads: heads of attention are channels (see tracing/heads.py). through_norms: channels go on behind what
    normalizes them together, as if that changed none (see factoring/residual.py).
    """
    walk, fixed = Walk(facts, _tied(facts), whole_heads, through_norms), facts.static | facts.derived
    for index, node in enumerate(facts.nodes):
        if not all(t.name in fixed for t in node.outputs if t.name):
            _step(walk, Place(index, node))
    _pin_ends(walk)
    return _result(walk)


def _step(walk: Walk, place: Place) -> None:
    """What one node makes of labels. One at which an error of ours happens is like an operator without a row."""
    before = walk.mark()
    try:
        action = walk.actions[place.index] = read(place.node, walk.facts)
        _bound(walk, place, action)
        walk.conclude(place, outcome(walk, place, action))
    except Exception as error:  # of ours, whatever it is: it costs the node
        said = unforeseen(error, place.layer)
        walk.take_back(place, before)
        walk.actions[place.index] = Refused(Reason.FAILED)
        walk.conclude(place, Declined(Reason.FAILED, said))


def outcome(walk: Walk, place: Place, action: Action) -> Outcome:
    """What the rule for an action says of a node."""
    if _is_steered_blindly(walk, place):
        return Declined(Reason.SIZE_UNKNOWN)
    rule = next(RULES[kind] for kind in type(action).__mro__ if kind in RULES)
    try:
        return rule(walk, place, action)
    except Stay as stay:
        return stay.outcome


def _is_steered_blindly(walk: Walk, place: Place) -> bool:
    """Whether a node that reads channels reads a number, too, that maybe follows a size that could not be varied."""
    labelled = any(tensor.name in walk.labels for tensor in place.inputs)
    return labelled and any(walk.facts.may_follow(tensor.name) for tensor in place.inputs)


def _tied(facts: Facts) -> frozenset[str]:
    """Names of matrices and kernels that more than one node input reads."""
    names = set()
    for name in facts.static:
        readers = [facts.nodes[index] for index, _ in facts.consumers(name)]
        if sum(not takes_shape(node) for node in readers) > 1:
            value = facts.value_by_name(name)
            if value is not None and value.ndim >= 2:
                names.add(name)
    return frozenset(names)


def _bound(walk: Walk, place: Place, action: Action) -> None:
    """Bounds of every element of the node's outputs, as far as simple facts tell."""
    ends = [walk.intervals.get(t.name, _constant_interval(walk, t)) for t in place.inputs if t.name]
    image = action.image(ends)
    if image != ANYTHING:
        walk.intervals.update((t.name, image) for t in place.outputs)


def _constant_interval(walk: Walk, tensor: gs.Tensor) -> Interval:
    value = walk.constant(tensor)
    if value is None or value.dtype.kind not in "fiu" or not value.size:
        return ANYTHING
    ends = [(float(part.min()), float(part.max())) for part in parts_of(value) if part.size]
    return float(np.min(ends)), float(np.max(ends))


def _pin_ends(walk: Walk) -> None:
    """What leaves the graph stays: its outputs, what their shapes follow from, and what bodies read."""
    facts = walk.facts
    for tensor in facts.graph.outputs:
        inside = facts.is_inside(tensor.name)
        walk.pin(walk.labels.get(tensor.name), Because(Reason.OUTPUT_OF_BODY if inside else Reason.OUTPUT))
        if tensor.name in facts.static:
            walk.refused.append(Refusal(tensor.name, Because(Reason.CONSTANT), 0))
        for name in facts.measured(tensor.name):
            walk.pin(walk.labels.get(name), Because(Reason.SHAPE_IS_OUTPUT))
    for name in facts.captured():
        walk.pin(walk.labels.get(name), Because(Reason.READ_IN_BODY))


def _result(walk: Walk) -> Trace:
    pairs = partners(walk)
    unit_of = walk.sets.roots()
    pinned = {int(unit): because for atoms, because in reversed(walk.pins) for unit in np.unique(unit_of[atoms])}
    names = {index: layer_name(node, index) for index, node in enumerate(walk.facts.nodes)}
    tensors = [*walk.labels.values(), *(slot.labels for slot in walk.slots)]
    balanced = balance(tensors, walk.fixed, walk.blocks, unit_of)
    holders = Holders([*walk.slots, *pairs], list(walk.labels.values()), balanced.partitions)
    groups, refused = dependency_groups(walk.producers, unit_of, pinned, holders, names)
    traced = Trace(
        walk.facts,
        tuple(groups),
        (),
        tuple(walk.slots),
        tuple(walk.signals),
        unit_of,
        walk.labels,
        walk.actions,
        balanced,
        pairs,
        tuple(walk.pairings),
        heads=np.concatenate([np.zeros(0, dtype=np.int64), *walk.heads]) if walk.whole_heads else None,
        has_heads=walk.has_heads,
        followed=frozenset(walk.followed),
    )
    refusals, counted = list(walk.refused), set[str]()
    for node, because in refused:
        refusals.append(Refusal(names[node], because, traced.size(node, counted)))
        counted.update(tensor.name for tensor in traced.facts.nodes[node].inputs)  # what layers share counts once
    return replace(traced, refusals=tuple(refusals))
