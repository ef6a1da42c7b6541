"""The rules of data movement: what is done to data is done to labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_condense.arrays import Array, Floats, Labels, Shape
from onnx_condense.operators import moves
from onnx_condense.operators.answers import Role
from onnx_condense.operators.moves import Concat, DepthToSpace, Move, SpaceToDepth, Unmovable
from onnx_condense.operators.reasons import Reason
from onnx_condense.tracing.labels import varying
from onnx_condense.tracing.outcomes import Carried, Declined, Outcome, Stay
from onnx_condense.tracing.parameters import affine, carry, carry_rows, constant_channels, per_position
from onnx_condense.tracing.regrouping import regrouped_otherwise
from onnx_condense.tracing.trace import Slot
from onnx_condense.tracing.uniting import uniform
from onnx_condense.tracing.walk import Place, Walk, along


def move(walk: Walk, place: Place, action: Move) -> Outcome:
    """One tensor of data, moved by constants."""
    labels, facts = walk.at(place, 0), walk.facts
    if labels is None:
        steered = any(t.name in walk.labels for t in place.inputs)
        return Declined(Reason.MOVES_BY_DATA) if steered else Carried()
    unfit = _unfit(walk, place, action, labels)
    if unfit is not None:
        return Declined(unfit)
    source = place.inputs[0]
    resized = [a for a in action.indexed if facts.is_resized(source.name, a)]
    labels = uniform(walk, place, labels, resized)  # which places are taken is another matter at other sizes
    walk.fixed.append((labels, action.barred))
    try:
        made = action.moved(labels, walk.shape(source))
    except Unmovable as error:
        return Declined(error.reason)
    reason = regrouped_otherwise(walk.facts, (source.name, place.output), action, labels) if action.regroups else None
    if reason is not None:
        return Declined(reason)
    return Carried({t.name: result for t, result in zip(place.outputs, made, strict=True)})


def _unfit(walk: Walk, place: Place, action: Move, labels: Labels) -> Reason | None:
    """Why channels are not moved alike at every size of the inputs."""
    facts, stated = walk.facts, place.inputs[1:]
    taken = any(labels.shape[axis] > 1 for axis in action.indexed)
    if taken and any(t.name in facts.derived and facts.follows_inputs(t.name) for t in stated):
        return Reason.TAKES_BY_SIZE
    if action.states_shape and stated and facts.value(stated[0]) is None:
        return Reason.MOVES_BY_DATA
    return None


def space_to_depth(walk: Walk, place: Place, action: SpaceToDepth) -> Outcome:
    """Places that become a block repeat their channel."""
    labels = walk.at(place, 0)
    if labels is None:
        return Carried()
    (moved,) = action.moved(uniform(walk, place, labels, (2, 3)), walk.shape(place.inputs[0]))
    return Carried({place.output: moved})


def depth_to_space(walk: Walk, place: Place, action: DepthToSpace) -> Outcome:
    """Places that a block of channels becomes are united."""
    labels = walk.at(place, 0)
    if labels is None:
        return Carried()
    (moved,) = action.moved(uniform(walk, place, labels, (2, 3)), walk.shape(place.inputs[0]))
    return Carried({place.output: uniform(walk, place, moved, (1,))[:, 0]})


@dataclass(frozen=True, eq=False)
class Part:
    """One input of a Concat. value: where it follows from constants alone."""

    position: int
    tensor: gs.Tensor
    labels: Labels | None
    shape: Shape
    value: Array | None


def concat(walk: Walk, place: Place, action: Concat) -> Outcome:
    """Constant parts are channels of their own along an axis of channels, and of the others along another one."""
    axis = action.axis
    parts = [Part(i, t, walk.at(place, i), walk.shape(t), walk.constant(t)) for i, t in enumerate(place.inputs)]
    labelled = [part.labels for part in parts if part.labels is not None]
    constants = [part for part in parts if part.labels is None]
    if not labelled:
        return Carried()
    if any(part.shape[axis] == 0 for part in constants):
        return Declined(Reason.APPENDS_EMPTY)
    across = any(set(varying(labels)) - {axis} for labels in labelled)
    extended = _extended(walk, place, axis, labelled, constants) if across and constants else None
    return Carried({place.output: _beside(walk, place, axis, parts, across) if extended is None else extended})


def _beside(walk: Walk, place: Place, axis: int, parts: list[Part], across: bool) -> Labels:
    """The labels of all parts. across: whether one has channels along another axis."""
    pieces = [_channels(walk, place, axis, part, across) for part in parts]
    joined = moves.concatenated(pieces, [part.shape for part in parts], axis)
    return uniform(walk, place, joined, [axis] if _may_be_empty(walk, parts, axis) else [])


def _may_be_empty(walk: Walk, parts: list[Part], axis: int) -> bool:
    """Whether a part follows the sizes of the inputs along an axis, and is maybe empty at other sizes."""
    names = (part.tensor.name for part in parts if part.tensor.name in walk.facts.shapes)
    return any(walk.facts.is_resized(name, axis) for name in names)


def _channels(walk: Walk, place: Place, axis: int, part: Part, across: bool) -> Labels:
    """The labels of a part; a constant's are new where no other axis has channels."""
    if part.labels is not None:
        return part.labels
    rank, value = len(part.shape), part.value
    filled = None if across or value is not None else _filled(walk, axis, part)
    if filled is not None:
        return along(constant_channels(walk, filled), rank, axis)
    if across or value is None or value.dtype.kind != "f" or not np.isfinite(value).all():
        return np.full([1] * rank, -1)
    rows = np.moveaxis(value, axis, 0).reshape(part.shape[axis], -1)
    labels = along(constant_channels(walk, np.asarray(rows, dtype=np.float64)), rank, axis)
    walk.hold(Slot(place.index, part.position, Role.CARRIED, labels, axis))
    return labels


def _filled(walk: Walk, axis: int, part: Part) -> Floats | None:
    """[channels, 1] the numbers that a part which is computed from shapes holds at every size; None for any other."""
    values = [walk.facts.value(part.tensor), *walk.facts.other_values(part.tensor.name)]
    rows = []
    for value in values:
        if value is None or value.dtype.kind != "f" or not value.size or value.shape[axis] != part.shape[axis]:
            return None
        lines = np.moveaxis(value, axis, 0).reshape(part.shape[axis], -1).astype(np.float64)
        rows.append(lines[:, :1])
        if not np.isfinite(lines).all() or (lines != rows[0]).any():
            return None
    return rows[0]


def _extended(walk: Walk, place: Place, axis: int, labelled: list[Labels], constants: list[Part]) -> Labels | None:
    """One tensor with constants along another axis than its channels, as seen by those; None where it is not that."""
    labels, *others = labelled
    if others or labels.shape[axis] > 1:
        return None
    if all(carry_rows(walk, part.tensor.name, labels) for part in constants):
        return labels
    known = _known(walk, labels, axis, constants)
    if known is None:
        return None
    shifts = np.hstack([np.zeros((labels.size, 1)), *known])
    scales = np.zeros_like(shifts)
    scales[:, 0] = 1
    try:
        result = affine(walk, place, labels, scales, shifts)
    except Stay:
        return None
    for part in constants:
        if part.value is not None:
            carry(walk, place, part.position, labels, part.value)
    return result


def _known(walk: Walk, labels: Labels, axis: int, constants: list[Part]) -> list[Floats] | None:
    """[places, q] of each constant: its values at each labelled place; None where one is not finite or not the same."""
    values = [_along(walk, labels, part.tensor) for part in constants if _same_length(walk, part.tensor.name, axis)]
    known = [v for v in values if v is not None and np.isfinite(v).all()]
    return known if len(known) == len(constants) else None


def _same_length(walk: Walk, name: str, axis: int) -> bool:
    """Whether a constant that is computed from shapes is as long along an axis at every size of the inputs."""
    value, others = walk.facts.value_by_name(name), walk.facts.other_values(name)
    return value is None or (value.shape[axis] > 0 and all(v.shape[axis] == value.shape[axis] for v in others))


def _along(walk: Walk, labels: Labels, tensor: gs.Tensor) -> Floats | None:
    """[places, q]: a constant's values at each labelled place, the same at every size of the inputs; else None."""
    value, others = walk.facts.value(tensor), list[Array]()
    if value is None or value.dtype.kind != "f":
        return None
    found = per_position(labels, value)
    if tensor.name in walk.facts.derived:
        others = walk.facts.other_values(tensor.name)
        found = found[:, :1] if (found == found[:, :1]).all() else found
    if others and found.shape[1] > 1:
        return None
    return found if all((per_position(labels, other) == found).all() for other in others) else None
