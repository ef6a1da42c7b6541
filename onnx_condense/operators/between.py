"""Operators between tensors: which operation each is, and what follows from that; see `algebra.operations`, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from onnx_condense.operators.answers import ANYTHING, Action, Interval, Row, fixed


class Operation(StrEnum):
    """How values of two tensors become one, element by element."""

    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    MAX = "max"
    MIN = "min"
    COMPARE = "compare"
    """What stays the same when both sides are multiplied by one positive number: Greater, Equal; of truths, And."""
    NEG = "neg"
    """Of one tensor."""
    CHOOSE = "choose"
    """One or the other, place by place."""
    WHERE = "where"
    """A condition, and what is chosen by it."""


@dataclass(frozen=True)
class Elementwise(Action):
    """Neg, or add, sub, mul, div, max, min or compare with broadcasting; more than two operands are joined two by two.

    What each operation means for channels is a row of algebra/operations.py.
    """

    operation: Operation

    @property
    def adds(self) -> bool:
        return self.operation is Operation.ADD

    @property
    def shifts(self) -> bool:
        return self.operation in (Operation.ADD, Operation.SUB)

    @property
    def pointwise(self) -> bool:
        return True

    def image(self, ends: Sequence[Interval]) -> Interval:
        if self.operation is Operation.ADD:
            return sum(low for low, _ in ends), sum(high for _, high in ends)
        if self.operation is Operation.MUL and all(low >= 0 for low, _ in ends):
            return 0.0, np.inf
        return ANYTHING


@dataclass(frozen=True)
class Chosen(Action):
    """Where: data (input 1 or 2) chosen by a condition (input 0)."""


OPERATORS: Mapping[str, Row] = {
    "Add": fixed(Elementwise(Operation.ADD)),
    "Sum": fixed(Elementwise(Operation.ADD)),
    "Sub": fixed(Elementwise(Operation.SUB)),
    "Mul": fixed(Elementwise(Operation.MUL)),
    "Div": fixed(Elementwise(Operation.DIV)),
    "Max": fixed(Elementwise(Operation.MAX)),
    "Min": fixed(Elementwise(Operation.MIN)),
    "Neg": fixed(Elementwise(Operation.NEG)),
    "Where": fixed(Chosen()),
    "Greater": fixed(Elementwise(Operation.COMPARE)),
    "GreaterOrEqual": fixed(Elementwise(Operation.COMPARE)),
    "Less": fixed(Elementwise(Operation.COMPARE)),
    "LessOrEqual": fixed(Elementwise(Operation.COMPARE)),
    "Equal": fixed(Elementwise(Operation.COMPARE)),
    "And": fixed(Elementwise(Operation.COMPARE)),
    "Or": fixed(Elementwise(Operation.COMPARE)),
    "Xor": fixed(Elementwise(Operation.COMPARE)),
}
"""Their part of the operator table."""
