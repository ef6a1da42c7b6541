"""The table of operations between two tensors, against what numpy computes."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_condense.algebra.operations import OPERATIONS
from onnx_condense.algebra.signals import Activated, Modulated, Shared, Signal
from onnx_condense.operators.answers import Kind
from onnx_condense.operators.between import Operation

NUMPY = {
    Operation.ADD: np.add,
    Operation.SUB: np.subtract,
    Operation.MUL: np.multiply,
    Operation.DIV: np.divide,
    Operation.MAX: np.maximum,
    Operation.MIN: np.minimum,
}
A, B = np.array([2.0, -3.0, 0.5, 0.0]), np.array([-1.5, 4.0, 8.0, 2.0])


def test_every_operation_of_two_tensors_has_a_row() -> None:
    assert set(OPERATIONS) == set(Operation) - {Operation.NEG}


@pytest.mark.parametrize("operation", NUMPY)
def test_values_of_constant_channels(operation: Operation) -> None:
    left, right = Shared(), Shared()
    known: dict[Signal, np.ndarray] = {left: A, right: B}
    np.testing.assert_array_equal(OPERATIONS[operation].value(known.__getitem__, left, right), NUMPY[operation](A, B))


def test_a_product_with_zero_is_constant_and_a_quotient_by_zero_is_not() -> None:
    left, right = Shared(), Shared()
    known: dict[Signal, np.ndarray] = {left: np.array([0.0, np.nan]), right: np.array([np.nan, 0.0])}
    assert OPERATIONS[Operation.MUL].value(known.__getitem__, left, right).tolist() == [0.0, 0.0]
    known[left] = np.ones(2)
    assert np.isnan(OPERATIONS[Operation.DIV].value(known.__getitem__, left, right)).all()


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("operation", [Operation.ADD, Operation.SUB, Operation.MUL, Operation.DIV])
def test_beside_a_constant_it_is_an_affine(operation: Operation, swapped: bool) -> None:
    affine = OPERATIONS[operation].beside_constant(B, swapped)
    if operation is Operation.DIV and swapped:
        assert affine is None
        return
    assert affine is not None
    expected = NUMPY[operation](B, A) if swapped else NUMPY[operation](A, B)
    np.testing.assert_allclose(affine[0] * A + affine[1], expected)


@pytest.mark.parametrize("operation", [op for op in OPERATIONS if OPERATIONS[op].beside_constant(B, False) is None])
def test_beside_a_number_it_is_a_function(operation: Operation) -> None:
    child = Shared()
    signal = OPERATIONS[operation].beside_number(child, 0.0, np.negative)
    if operation is Operation.CHOOSE:
        assert isinstance(signal, Modulated)
        signal = OPERATIONS[operation].beside_number(child, 1.0, np.negative)
    assert isinstance(signal, Activated)
    assert signal.child is child
    assert signal.function is np.negative
    ends = {Operation.MAX: (0.0, np.inf), Operation.MIN: (-np.inf, 0.0)}
    assert signal.action.flat == ends.get(operation, (-np.inf, np.inf))
    assert signal.action.kind is (Kind.HOMOGENEOUS if operation in ends else Kind.BOUNDED)
