"""Pairs that are alike say what the table of all pairs says."""

from __future__ import annotations

import numpy as np
import pytest
from support import builders

from onnx_condense.algebra.stages import Rule, Stage
from onnx_condense.algebra.vectors import Vectors
from onnx_condense.merging.alike import FLOOR, Alike
from onnx_condense.merging.similarity import condensation_groups


def drawn(count: int, clusters: int, rules: tuple[Rule, ...] = (Rule.POSITIVE,)) -> list[Stage]:
    rows = [builders.clustered(count, 24, clusters, seed, noise=0.2).astype(np.float32) for seed in range(len(rules))]
    bias = np.zeros((count, 1), dtype=np.float32)
    return [
        Stage(Vectors.of(one), bias, frozenset({seed}), rule)
        for seed, (one, rule) in enumerate(zip(rows, rules, strict=True))
    ]


@pytest.mark.parametrize("rules", [(Rule.POSITIVE,), (Rule.ANY, Rule.EQUAL), (Rule.ODD,)])
@pytest.mark.parametrize("count", [600, 1200])
def test_pairs_are_those_of_the_table(count: int, rules: tuple[Rule, ...]) -> None:
    """Blocks of 512 rows and more than one of them; the same groups, bit for bit, at every threshold."""
    stages = drawn(count, count // 4, rules)
    table, pairs = Alike(stages, count), Alike(stages, count, sparse_from=1)
    assert "table" not in vars(pairs)
    assert pairs.highest == table.highest
    for threshold in (FLOOR, 0.7, 0.9, 0.99):
        np.testing.assert_array_equal(pairs.groups(threshold), condensation_groups(table.table, threshold))
    main = table.groups(0.7)
    moved = np.flatnonzero(main != np.arange(count))
    np.testing.assert_array_equal(pairs.of(moved, main[moved]), table.of(moved, main[moved]))
    odd = np.arange(1, count, 2)
    near, other = pairs.nearest(odd, odd - 1), table.nearest(odd, odd - 1)
    alike = table.of(odd, other) > FLOOR
    assert alike.any()
    np.testing.assert_array_equal(near[alike], other[alike])
    assert not (pairs.of(odd, near) > FLOOR)[~alike].any()


def test_a_confirmation_turns_members_away() -> None:
    stages = drawn(600, 100)
    for made in (Alike(stages, 600), Alike(stages, 600, sparse_from=1)):
        main = made.groups(0.7, lambda members, chosen: members % 2 == chosen % 2)
        assert (main % 2 == np.arange(600) % 2).all()
        assert (main != np.arange(600)).any()


def test_below_the_floor_or_where_most_are_alike_all_pairs_are_kept() -> None:
    stages = drawn(600, 3)
    table, pairs = Alike(stages, 600), Alike(stages, 600, sparse_from=1)
    assert "table" in vars(pairs), "too many pairs"
    few = Alike(drawn(600, 150), 600, sparse_from=1)
    np.testing.assert_array_equal(few.groups(0.2), Alike(drawn(600, 150), 600).groups(0.2))
    np.testing.assert_array_equal(pairs.groups(0.9), table.groups(0.9))
