"""The rules of operators between tensors: branches keep the same channels, and constants follow them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial, reduce
from math import prod

import numpy as np

from onnx_condense.algebra.operations import OPERATIONS
from onnx_condense.algebra.signals import Combined, Modulated, Restricted, Shared, Signal
from onnx_condense.arrays import Array, Labels, Shape
from onnx_condense.operators.between import Chosen, Elementwise, Operation
from onnx_condense.operators.reasons import Reason
from onnx_condense.operators.tables import whole_table
from onnx_condense.operators.view import INTEGER_TYPES
from onnx_condense.tracing.labels import aligned, atoms_of, pack, signals_of, varying
from onnx_condense.tracing.outcomes import Carried, Declined, Outcome, Stay
from onnx_condense.tracing.parameters import MOST_OCCURRENCES, affine, carry, carry_rows, per_position
from onnx_condense.tracing.walk import Place, Walk, unknown


@dataclass(frozen=True, eq=False)
class Side:
    """One side of an operation, or what several inputs became.

    shape: with the rank of the result. value, position: of a constant, and the input that it is.
    """

    labels: Labels | None
    shape: Shape
    value: Array | None = None
    position: int = -1


@dataclass(frozen=True, eq=False)
class Join:
    """An operation at a node."""

    walk: Walk
    place: Place
    operation: Operation


def elementwise(walk: Walk, place: Place, action: Elementwise) -> Outcome:
    """Operands one after the other; of a single one, what Neg makes of it."""
    kind = walk.facts.types.get(place.inputs[0].name)
    if action.operation is not Operation.COMPARE and kind in INTEGER_TYPES:
        return Declined(Reason.INTEGERS)
    if len(place.inputs) == 1:
        return _single(walk, place, action.operation)
    join = Join(walk, place, action.operation)
    return _carried(place, reduce(partial(_pair, join), _sides(walk, place)))


def chosen(walk: Walk, place: Place, action: Chosen) -> Outcome:
    """Where: a channel's relation must hold for the condition and for both choices."""
    condition, left, right = _sides(walk, place)
    choices = _pair(Join(walk, place, Operation.CHOOSE), left, right)
    return _carried(place, _pair(Join(walk, place, Operation.WHERE), condition, choices))


def _carried(place: Place, result: Side) -> Outcome:
    return Carried({} if result.labels is None else {place.output: result.labels})


def _single(walk: Walk, place: Place, operation: Operation) -> Outcome:
    """Neg, or a Sum, Max or Min of one tensor."""
    labels = walk.at(place, 0)
    if labels is None:
        return Carried()
    if operation is Operation.NEG:
        zero = np.zeros((labels.size, 1))
        labels = affine(walk, place, labels, zero - 1, zero)
    return Carried({place.output: labels})


def _sides(walk: Walk, place: Place) -> list[Side]:
    rank = len(walk.shape(place.outputs[0]))
    found = []
    for position, tensor in enumerate(place.inputs):
        labels, shape = walk.at(place, position), walk.shape(tensor)
        full = (1,) * (rank - len(shape)) + shape
        labels = None if labels is None else aligned(labels, rank)
        found.append(Side(labels, full, walk.constant(tensor), position))
    return found


def _pair(join: Join, left: Side, right: Side) -> Side:
    """What two operands become; without labels where those must stay."""
    whole = np.broadcast_shapes(left.shape, right.shape)
    try:
        return Side(_joined(join, left, right), whole)
    except Stay as stay:
        join.walk.conclude(join.place, stay.outcome)
        return Side(None, whole)


def _joined(join: Join, left: Side, right: Side) -> Labels | None:
    """Labels of the result. Raises Stay."""
    if left.labels is not None and right.labels is not None:
        return _met(join, left, right, left.labels, right.labels)
    labels, other = (left.labels, right) if left.labels is not None else (right.labels, left)
    if labels is None:
        return None
    value = other.value if other.value is not None else _settled(join, labels, other)
    if value is not None:
        return _with_constant(join, labels, other, value, swapped=other is left)
    if other.position >= 0 and carry_rows(join.walk, join.place.inputs[other.position].name, labels):
        return join.walk.mapped(labels, Modulated)
    table = _table(join, labels, other)
    if table is not None:
        return _with_table(join, labels, other, table)
    return _with_data(join, labels, other, swapped=other is left)


def _settled(join: Join, labels: Labels, other: Side) -> Array | None:
    """Numbers along channels that follow from shapes of the model's inputs, and are the same at all sizes of those."""
    if other.position < 0 or not any(other.shape[axis] > 1 for axis in varying(labels)):
        return None
    facts, tensor = join.walk.facts, join.place.inputs[other.position]
    return facts.value(tensor) if facts.is_settled(tensor.name) else None


def _table(join: Join, labels: Labels, other: Side) -> Array | None:
    """Numbers along one axis of channels of which as many rows are taken as an input is long, all of them."""
    apart = [axis for axis in varying(labels) if other.shape[axis] > 1]
    if other.position < 0 or len(apart) != 1 or join.operation is not Operation.MUL:
        return None
    facts, name = join.walk.facts, join.place.inputs[other.position].name
    value = facts.value_by_name(name) if name in facts.derived else None
    return None if value is None else whole_table(facts, name, value.ndim, apart[0] - (labels.ndim - value.ndim))


def _with_table(join: Join, labels: Labels, other: Side, table: Array) -> Labels:
    """All lines keep the same channels: rows of a table are taken once for all of them. Raises Stay.

    Where whole heads may leave, all rows stay.
    """
    walk = join.walk
    for axis in (a for a in varying(labels) if other.shape[a] == 1 and not walk.whole_heads):
        first, rest = np.broadcast_arrays(labels.take([0], axis), labels)
        both = (first >= 0) & (rest >= 0)
        walk.pin(rest[~both], join.place.because(Reason.MEETS_OTHERS))
        walk.sets.unite(atoms_of(first[both]), atoms_of(rest[both]))
    scales = per_position(labels, table)
    if not np.isfinite(scales).all():
        raise Stay(labels, join.place.because(Reason.MEETS_NOT_FINITE))
    return affine(walk, join.place, labels, scales, np.zeros_like(scales))


def _met(join: Join, left: Side, right: Side, mine: Labels, other: Labels) -> Labels:
    """Channels of both operands meet. Those that lie on fewer axes stay, and are data to the others. Raises Stay."""
    ours, theirs = set(varying(mine)), set(varying(other))
    if ours < theirs:
        join.walk.pin(mine, join.place.because(Reason.MEETS_ALONG_OTHERS))
        return _with_data(join, other, left, swapped=True)
    if theirs < ours:
        join.walk.pin(other, join.place.because(Reason.MEETS_ALONG_OTHERS))
        return _with_data(join, mine, right, swapped=False)
    return united(join, mine, other)


def _with_data(join: Join, labels: Labels, other: Side, swapped: bool) -> Labels:
    """The other operand is data. Where it differs along an axis that channels lie on too, it is another for each line.

    Lines lose equally many channels then, and none goes. Raises Stay.
    """
    walk = join.walk
    apart = [axis for axis in varying(labels) if other.shape[axis] > 1]
    if not apart:
        return _with_shared(join, labels, swapped)
    lines = prod(labels.shape[axis] for axis in apart)
    if len(apart) == len(varying(labels)) or lines > MOST_OCCURRENCES:
        raise Stay(labels, join.place.because(Reason.MEETS_OTHERS))
    walk.fixed.append((labels, tuple(apart)))
    result = np.empty_like(labels)
    for line in np.ndindex(*(labels.shape[axis] for axis in apart)):
        spot: list[slice] = [slice(None)] * labels.ndim
        for axis, place in zip(apart, line, strict=True):
            spot[axis] = slice(place, place + 1)
        result[tuple(spot)] = _with_shared(join, labels[tuple(spot)], swapped)
    return result


def united(join: Join, left: Labels, right: Labels) -> Labels:
    """Channels that meet in labels of one shape are one from here on; those that meet none stay. Raises Stay."""
    walk, place = join.walk, join.place
    if varying(left) != varying(right):
        walk.pin(left, place.because(Reason.MEETS_ALONG_OTHERS))
        raise Stay(right, place.because(Reason.MEETS_ALONG_OTHERS))
    a, b = left.reshape(-1), right.reshape(-1)
    x, y = atoms_of(a), atoms_of(b)
    both = (x >= 0) & (y >= 0)
    for row in (a, b):
        walk.pin(row[~both], place.because(Reason.MEETS_OTHERS))
    walk.sets.unite(x[both], y[both])
    result, count = np.full(len(a), -1, dtype=np.int64), len(walk.signals)
    keys = np.where(both, signals_of(a) * count + signals_of(b), -1)
    for key in np.unique(keys[both]).tolist():
        mask = keys == key
        one, other = walk.signals[key // count], walk.signals[key % count]
        if not np.array_equal(x[mask], y[mask]):
            one, other = Restricted(one, x[mask]), Restricted(other, y[mask])
        result[mask] = pack(x[mask], walk.signal(Combined(join.operation, one, other)))
    return result.reshape(left.shape)


def _with_shared(join: Join, labels: Labels, swapped: bool) -> Labels:
    """The other operand is data, and the same for every channel."""
    operation, shared = join.operation, Shared()
    if swapped in OPERATIONS[operation].modulates:
        return join.walk.mapped(labels, Modulated)

    def make(child: Signal) -> Signal:
        return Combined(operation, shared, child) if swapped else Combined(operation, child, shared)

    return join.walk.mapped(labels, make)


def _with_constant(join: Join, labels: Labels, other: Side, constant: Array, swapped: bool) -> Labels:
    """The other operand is a constant. Raises Stay."""
    walk, place = join.walk, join.place
    value = np.asarray(constant, dtype=np.float64)
    value = value.reshape((1,) * (labels.ndim - value.ndim) + value.shape)
    rule = OPERATIONS[join.operation]
    line = rule.beside_constant(value, swapped)
    if line is None:
        if value.size > 1:
            raise Stay(labels, place.because(Reason.READ, Reason.BY_CHANNEL))
        number = float(value.reshape(-1)[0])
        alone = sum(t.name not in walk.facts.static for t in place.inputs) == 1
        function = walk.function(place) if alone else unknown
        return walk.mapped(labels, lambda child: rule.beside_number(child, number, function))
    scales, shifts = (per_position(labels, part) for part in line)
    if not (np.isfinite(scales).all() and np.isfinite(shifts).all()):
        raise Stay(labels, place.because(Reason.MEETS_NOT_FINITE))
    result = labels
    if (scales != 1).any() or shifts.any():
        result = affine(walk, place, labels, scales, shifts)
    carry(walk, place, other.position, labels, constant)
    return result
