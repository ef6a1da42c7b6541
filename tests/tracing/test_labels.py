"""Labels, occurrences and disjoint sets against naive versions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_condense.tracing.labels import UnionFind, aligned, atoms_of, occurrence, pack, signals_of, varying

quick = settings(max_examples=100, derandomize=True)
atoms = st.integers(-1, 2**30)
signals = st.integers(0, 2**31)


@given(st.lists(st.tuples(atoms, signals), min_size=1))
@quick
def test_pack(pairs: list[tuple[int, int]]) -> None:
    first = np.array([a for a, _ in pairs], dtype=np.int64)
    second = np.array([s for _, s in pairs], dtype=np.int64)
    packed = pack(first, second)
    np.testing.assert_array_equal(atoms_of(packed), first)
    np.testing.assert_array_equal(signals_of(packed)[first >= 0], second[first >= 0])
    assert (packed[first < 0] == -1).all()


@given(st.lists(st.integers(-1, 4)))
@quick
def test_occurrence(keys: list[int]) -> None:
    expected = [keys[:i].count(key) for i, key in enumerate(keys)]
    assert occurrence(np.array(keys, dtype=np.int64)).tolist() == expected


@given(st.integers(1, 12), st.data())
@quick
def test_union_find(count: int, data: st.DataObject) -> None:
    """The root of a set is its lowest atom, whatever the order of the unions and of the growth."""
    more = data.draw(st.integers(0, 4))
    place = st.integers(0, count + more - 1)
    pairs = data.draw(st.lists(st.tuples(place, place), max_size=12))
    sets = UnionFind()
    assert sets.grow(count).tolist() == list(range(count))
    early = [(a, b) for a, b in pairs if max(a, b) < count]
    sets.unite(np.array([a for a, _ in early], dtype=np.int64), np.array([b for _, b in early], dtype=np.int64))
    assert sets.grow(more).tolist() == list(range(count, count + more))
    sets.unite(np.array([a for a, _ in pairs], dtype=np.int64), np.array([b for _, b in pairs], dtype=np.int64))
    naive = [{i} for i in range(count + more)]
    for a, b in pairs:
        merged = naive[a] | naive[b]
        for atom in merged:
            naive[atom] = merged
    assert sets.roots().tolist() == [min(s) for s in naive]


def test_varying_and_aligned() -> None:
    labels = np.zeros((3, 1, 2), dtype=np.int64)
    assert varying(labels) == (0, 2)
    assert aligned(labels, 5).shape == (1, 1, 3, 1, 2)
    assert varying(np.zeros((1, 1), dtype=np.int64)) == ()


def test_atoms_that_are_added_move_the_others_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each set stays as it was, whatever is added behind it."""
    sets, moved, concatenate = UnionFind(), [0], np.concatenate

    def counting(arrays: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        moved.append(len(arrays[0]))
        return concatenate(arrays)

    monkeypatch.setattr(np, "concatenate", counting)
    for number in range(1000):
        atoms = sets.grow(3)
        assert atoms.tolist() == [3 * number, 3 * number + 1, 3 * number + 2]
        sets.unite(atoms[:1], atoms[1:2])
    assert sum(moved) < 4 * 3000
    assert sets.roots().tolist() == [3 * (i // 3) + 2 * (i % 3 == 2) for i in range(3000)]
