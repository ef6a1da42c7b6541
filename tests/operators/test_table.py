"""Every row of the operator table on graphs with planted redundancy: what is exact merges, what is nearly
exact does not.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.cases import CASES
from support.lossless import LOSSLESS
from support.planted.cases import RELATIONS, Case
from support.planted.net import (
    assert_close,
    joined,
    run,
    signed_feed,
    widths,
)

from onnx_condense import VerificationError, condense
from onnx_condense.operators.table import TABLE

TESTS = {case.name: [relation for relation in RELATIONS if relation not in case.silent] for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_planted_redundancy(case: Case) -> None:
    """Of every relation, in graphs side by side."""
    model = joined({relation: case.build(relation) for relation in TESTS[case.name]})
    expected = {f"{relation}/{name}": w for relation in TESTS[case.name] for name, w in case.expected(relation).items()}
    result = condense(model, LOSSLESS)
    if result.plan.rotations or result.plan.streams:  # in another basis, of fewer directions than channels are left
        found = widths(result.model)
        assert all(found[name] <= width for name, width in expected.items())
        assert_close(model, result.model, 2e-5)
        result = condense(model, replace(LOSSLESS, widths_only=True))
    found = widths(result.model)
    assert {name: found[name] for name in expected} == expected
    assert_close(model, result.model, 2e-5)


NO_NUMBERS = {("MeanVarianceNormalization-along another axis", "dead")}
"""Cases whose outputs are not numbers: nothing can be said of them."""

SILENT = [
    (case, relation)
    for case in CASES
    for relation in RELATIONS
    if relation in case.silent and (case.name, relation) not in NO_NUMBERS
]


@pytest.mark.parametrize(("case", "relation"), SILENT, ids=[f"{c.name}-{r}-silent" for c, r in SILENT])
def test_what_is_not_promised_is_right_at_least(case: Case, relation: str) -> None:
    """Whether it merges or not: no error, and the same outputs, infinite ones too."""
    model = case.build(relation)
    small = condense(model, LOSSLESS).model
    feed = signed_feed(model)
    for a, b in zip(run(model, feed), run(small, feed), strict=True):
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
        finite = np.isfinite(a)
        assert np.linalg.norm(a[finite] - b[finite]) <= 2e-5 * np.linalg.norm(a[finite])


@pytest.mark.parametrize(("name", "relation"), sorted(NO_NUMBERS))
def test_what_gives_no_numbers_is_not_condensed(name: str, relation: str) -> None:
    (case,) = (case for case in CASES if case.name == name)
    model = case.build(relation)
    assert not any(np.isfinite(value).any() for value in run(model, signed_feed(model)))
    with pytest.raises(VerificationError, match="nothing comparable was seen"):
        condense(model, LOSSLESS)


def test_every_row_of_the_table_has_a_planted_case() -> None:
    assert {case.row for case in CASES} == set(TABLE)


def test_every_row_of_the_table_has_a_near_miss() -> None:
    """Each row must refuse something, else its planted case could pass by merging too much."""
    refused = {case.row for case in CASES if set(TESTS[case.name]) - case.passes}
    assert refused == set(TABLE)
