"""How often rows of tables are read: what was counted, and what was not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from onnx_condense.arrays import Floats
from onnx_condense.factoring.tokens import PRIOR, smoothed, zipf

ROWS = 3000
RESERVED = 300
"""Rows at the beginning of a vocabulary that no text asks for, as in BERT's."""


def language() -> Floats:
    """[rows] how often tokens occur: Zipf's law behind the reserved rows."""
    return np.concatenate([np.zeros(RESERVED), zipf(ROWS - RESERVED)])


def counted(seed: int, tokens: int = 2000) -> Floats:
    """[rows] how often each occurs in a text."""
    text = np.random.default_rng(seed).choice(ROWS, tokens, p=language())
    return np.bincount(text, minlength=ROWS).astype(np.float64)


def surprise(shares: Floats) -> float:
    """By how much shares are off the language: the Kullback-Leibler divergence."""
    truth = language()
    occurs = truth > 0
    return float((truth[occurs] * np.log(truth[occurs] / shares[occurs])).sum())


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_nearer_to_the_language_than_counts_half_and_half_with_a_law(seed: int) -> None:
    counts = counted(seed)
    found = surprise(smoothed(counts, zipf(ROWS)))
    for law, less in ((zipf(ROWS), 0.5), (np.full(ROWS, 1 / ROWS), 0.9)):
        assert found < less * surprise((counts / counts.sum() + law) / 2)


@pytest.mark.parametrize("seed", range(5))
def test_rows_that_were_not_counted_have_about_the_share_that_they_have_in_the_language(seed: int) -> None:
    counts = counted(seed)
    truth = language()[counts == 0].sum()
    assert 0.6 * truth < smoothed(counts, zipf(ROWS))[counts == 0].sum() < truth


@pytest.mark.parametrize("seed", range(5))
def test_reserved_rows_count_little(seed: int) -> None:
    assert smoothed(counted(seed), zipf(ROWS))[:RESERVED].sum() < 0.05 < 0.5 < zipf(ROWS)[:RESERVED].sum()


def test_shares_keep_the_order_of_counts_and_leave_no_row_out() -> None:
    counts = counted(0)
    shares = smoothed(counts, zipf(ROWS))
    assert shares.min() > 0
    assert_allclose(shares.sum(), 1)
    assert shares[counts > 5].min() > shares[counts == 1].max()


def test_inputs_that_are_there_twice_say_no_more() -> None:
    counts, law = counted(0), zipf(ROWS)
    assert_allclose(smoothed(2 * counts, law), smoothed(counts, law))


def test_where_nothing_was_counted_the_law_says_it() -> None:
    assert_allclose(smoothed(np.zeros(4), zipf(4)), zipf(4))


def test_rows_far_from_those_that_were_counted_have_what_the_law_says() -> None:
    counts = np.array([5.0, 3.0, *np.zeros(8)])
    near = 1 / 2 + 1 / 4 + 1 / 5 + 1 / 7  # of rows 0 to 3, in whose neighbourhoods row 1 is
    assert_allclose(smoothed(counts, zipf(10))[4:], 3 * PRIOR * zipf(10)[4:] / (8 + 3 * (near + PRIOR)))


def test_a_table_of_one_row() -> None:
    assert_allclose(smoothed(np.ones(1), zipf(1)), [1])
