"""THE table of operations between two tensors: what each means for the channels of both, one row per operation.

An operation with an algebra of its own is a member of `Operation`, a row here, and a row of the operator table. More
than two operands are joined two by two, from the left (tracing/joins.py): a row must be right of that, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnx_condense.algebra.numbers import Numbers, Relation
from onnx_condense.algebra.signals import Activated, Combined, Modulated, Signal
from onnx_condense.algebra.stages import Rule, Stage, add, multiply
from onnx_condense.arrays import Floats
from onnx_condense.operators.actions import Activation
from onnx_condense.operators.answers import Kind
from onnx_condense.operators.between import Operation

Ends = tuple[Floats, Floats]
"""([n], [n]): the lower and the upper end of what a channel may hold."""

Function = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Operand:
    """One of two tensors that meet, for pairs (j, m) of channels.

    relation: between the two channels. constants: asks for the values of both, NaN where one is not constant.
    """

    relation: Relation
    constants: Callable[[], tuple[Floats, Floats]]

    def loosened(self, wanted: Floats) -> Relation:
        """The relation; an operand that is constant in both channels takes the ratio [k] that the other one has."""
        one, other = self.constants()
        free = ~np.isnan(one) & ~np.isnan(other)
        mine = self.relation
        constant = np.where(free, np.nan_to_num(one) - wanted * np.nan_to_num(other), mine.constant)
        return Relation(np.where(free, wanted, mine.ratio), constant, mine.exact | free, mine.scale)


def _no_affine(value: Floats, swapped: bool) -> None:
    """What is no affine beside a constant."""


def _bounded(child: Signal, number: float, function: Function) -> Signal:
    return Activated(child, Activation(Kind.BOUNDED), function)


@dataclass(frozen=True)
class Binary:
    """The algebra of one operation between two tensors.

    Attributes:
        value: [n] the value of each channel that is constant, else NaN, given what tells it of an operand.
        relate: the relation between channels of the result, from those of the operands.
        stages: those of the result, from those of the operands.
        bounds: from the bounds of both operands; None where nothing is known.
        passes_constants: whether a constant that two channels differ by stays one.
        beside_constant: (scale, shift) of the affine that it is where one operand is constant, the left one where
            `swapped`; None where it is none.
        beside_number: the signal of the other operand, where one is a number and the operation is no affine; given the
            function that it is then.
        modulates: for which of `swapped` (False, True) it multiplies channels with what is the same for all of them.
    """

    value: Callable[[Callable[[Signal], Floats], Signal, Signal], Floats]
    relate: Callable[[Numbers, Operand, Operand], Relation]
    stages: Callable[[list[Stage], list[Stage]], list[Stage]]
    bounds: Callable[[Ends, Ends], Ends] | None = None
    passes_constants: bool = False
    beside_constant: Callable[[Floats, bool], tuple[Floats, Floats] | None] = _no_affine
    beside_number: Callable[[Signal, float, Function], Signal] = _bounded
    modulates: tuple[bool, ...] = ()


# ---- values of constant channels


def _of(function: Callable[[Floats, Floats], Floats]) -> Callable[[Callable[[Signal], Floats], Signal, Signal], Floats]:
    """A value that follows from those of both operands."""
    return lambda value, left, right: function(value(left), value(right))


def _unknown(value: Callable[[Signal], Floats], left: Signal, right: Signal) -> Floats:
    return np.full(len(value(left)), np.nan)


def _product(a: Floats, b: Floats) -> Floats:
    return np.where((a == 0) | (b == 0), 0.0, a * b)


def _quotient(a: Floats, b: Floats) -> Floats:
    return a / np.where(b == 0, np.nan, b)


def _chosen(value: Callable[[Signal], Floats], condition: Signal, choices: Signal) -> Floats:
    """Where: one of the choices, by a condition that is constant."""
    if not isinstance(choices, Combined) or choices.operation is not Operation.CHOOSE:
        return _unknown(value, condition, choices)
    chosen = value(condition)
    picked = np.where(chosen != 0, value(choices.left), value(choices.right))
    return np.where(np.isnan(chosen), np.nan, picked)


# ---- exact relations


def _sum(sign: float) -> Callable[[Numbers, Operand, Operand], Relation]:
    """Both summands must have one ratio; their constants add up."""

    def relate(numbers: Numbers, left: Operand, right: Operand) -> Relation:
        a, b = left.loosened(right.relation.ratio), right.loosened(left.relation.ratio)
        size = a.scale + b.scale
        constant = numbers.clean(a.constant + sign * b.constant, size)
        return Relation(a.ratio, constant, a.exact & b.exact & numbers.same(a.ratio, b.ratio), size)

    return relate


def _relate_product(numbers: Numbers, left: Operand, right: Operand) -> Relation:
    a, b = left.relation, right.relation
    centred = (a.constant == 0) & (b.constant == 0)
    return Relation(a.ratio * b.ratio, a.constant, a.exact & b.exact & centred, a.scale + b.scale)


def _relate_quotient(numbers: Numbers, left: Operand, right: Operand) -> Relation:
    a, b = left.relation, right.relation
    centred = (a.constant == 0) & (b.constant == 0)
    ratio = a.ratio / np.where(b.ratio == 0, 1, b.ratio)
    return Relation(ratio, a.constant, a.exact & b.exact & centred & (b.ratio != 0), a.scale + b.scale)


def _relate_choice(numbers: Numbers, left: Operand, right: Operand) -> Relation:
    """One and the same relation must hold for both."""
    a, b = left.relation, right.relation
    same = numbers.same(a.ratio, b.ratio) & (a.constant == b.constant)
    return Relation(a.ratio, a.constant, a.exact & b.exact & same, a.scale + b.scale)


def _relate_extreme(numbers: Numbers, left: Operand, right: Operand) -> Relation:
    """The larger or smaller of two stays that times a positive number."""
    chosen = _relate_choice(numbers, left, right)
    return replace(chosen, exact=chosen.exact & (chosen.ratio > 0))


def _relate_comparison(numbers: Numbers, left: Operand, right: Operand) -> Relation:
    """What is compared may be scaled, the result may not."""
    a, b = left.relation, right.relation
    centred = (a.constant == 0) & (b.constant == 0)
    same = numbers.same(a.ratio, b.ratio) & (a.ratio > 0)
    exact = a.exact & b.exact & centred & same
    return Relation(np.ones_like(a.ratio), np.zeros_like(a.ratio), exact, a.scale + b.scale)


def _relate_condition(numbers: Numbers, condition: Operand, choices: Operand) -> Relation:
    a, b = condition.relation, choices.relation
    return replace(b, exact=b.exact & a.exact & numbers.is_one(a.ratio) & (a.constant == 0))


# ---- stages


def _difference(left: list[Stage], right: list[Stage]) -> list[Stage]:
    negative = [replace(f, vectors=f.vectors.scaled(-np.ones((len(f.bias), 1))), bias=-f.bias) for f in right[-1:]]
    return add(left, [*right[:-1], *negative])


def _choice(left: list[Stage], right: list[Stage]) -> list[Stage]:
    return [replace(f, open=False) for f in add(left, right)]


def _comparison(left: list[Stage], right: list[Stage]) -> list[Stage]:
    return [replace(f, rule=Rule.EQUAL, open=False, virtual=False) for f in add(left, right)]


def _extreme(left: list[Stage], right: list[Stage]) -> list[Stage]:
    return [replace(f, rule=f.rule.meet(Rule.POSITIVE), open=False) for f in add(left, right)]


# ---- beside a constant


def _shifted(sign: float) -> Callable[[Floats, bool], tuple[Floats, Floats]]:
    """x + constant, or their difference."""

    def affine(value: Floats, swapped: bool) -> tuple[Floats, Floats]:
        one = np.ones_like(value)
        return (sign * one, value) if swapped else (one, sign * value)

    return affine


def _scaled(value: Floats, swapped: bool) -> tuple[Floats, Floats]:
    return value, np.zeros_like(value)


def _divided(value: Floats, swapped: bool) -> tuple[Floats, Floats] | None:
    with np.errstate(divide="ignore", invalid="ignore"):
        return None if swapped else (1 / value, np.zeros_like(value))


def _clipped(below: bool) -> Callable[[Signal, float, Function], Signal]:
    """Max with a number clips below, Min above."""

    def signal(child: Signal, number: float, function: Function) -> Signal:
        kind = Kind.HOMOGENEOUS if number == 0 else Kind.UNBOUNDED
        flat = (number, np.inf) if below else (-np.inf, number)
        return Activated(child, Activation(kind, *flat, flat), function)

    return signal


def _choice_beside(child: Signal, number: float, function: Function) -> Signal:
    """Zero or the other one, place by place, is that times zero or one."""
    return Modulated(child) if number == 0 else _bounded(child, number, function)


OPERATIONS: Mapping[Operation, Binary] = {
    Operation.ADD: Binary(
        value=_of(np.add),
        relate=_sum(1.0),
        stages=add,
        bounds=lambda a, b: (a[0] + b[0], a[1] + b[1]),
        passes_constants=True,
        beside_constant=_shifted(1.0),
    ),
    Operation.SUB: Binary(
        value=_of(np.subtract),
        relate=_sum(-1.0),
        stages=_difference,
        passes_constants=True,
        beside_constant=_shifted(-1.0),
    ),
    Operation.MUL: Binary(
        value=_of(_product),
        relate=_relate_product,
        stages=multiply,
        beside_constant=_scaled,
        modulates=(False, True),
    ),
    Operation.DIV: Binary(
        value=_of(_quotient),
        relate=_relate_quotient,
        stages=multiply,
        beside_constant=_divided,
        modulates=(False,),
    ),
    Operation.MAX: Binary(
        value=_of(np.maximum), relate=_relate_extreme, stages=_extreme, beside_number=_clipped(below=True)
    ),
    Operation.MIN: Binary(
        value=_of(np.minimum), relate=_relate_extreme, stages=_extreme, beside_number=_clipped(below=False)
    ),
    Operation.COMPARE: Binary(value=_unknown, relate=_relate_comparison, stages=_comparison),
    Operation.CHOOSE: Binary(
        value=_of(lambda a, b: np.where(a == b, a, np.nan)),
        relate=_relate_choice,
        stages=_choice,
        bounds=lambda a, b: (np.minimum(a[0], b[0]), np.maximum(a[1], b[1])),
        beside_number=_choice_beside,
    ),
    Operation.WHERE: Binary(value=_chosen, relate=_relate_condition, stages=multiply),
}
