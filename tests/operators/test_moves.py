"""Data movement on labels against numpy on full arrays."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_condense.arrays import Labels, Shape
from onnx_condense.operators import moves

quick = settings(max_examples=150, derandomize=True)


@st.composite
def shapes(draw: st.DrawFn, rank: int = 4) -> Shape:
    return tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=rank)))


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[Shape, Shape]:
    """Two shapes of equal product: the factors of both are the same, cut at other places, with ones strewn
    in.
    """
    factors = draw(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=6))

    def cut() -> Shape:
        cuts = draw(st.sets(st.integers(1, len(factors)), max_size=4))
        parts = [factors[a:b] for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), len(factors)], strict=True)]
        return tuple(prod(part) for part in parts)

    return cut(), cut()


def labels_for(draw: Callable[..., Any], shape: Shape) -> Labels:
    """Labels that vary along some of the axes, some places without an atom."""
    axes = [n if draw(st.booleans()) else 1 for n in shape]
    values = draw(st.lists(st.integers(-1, 3), min_size=prod(axes), max_size=prod(axes)))
    return np.array(values, dtype=np.int64).reshape(axes)


def full(labels: Labels, shape: Shape) -> Labels:
    return np.broadcast_to(labels, shape)


def assert_moved(result: Labels, expected: Labels) -> None:
    """The result stands for the expected array, and has length 1 along every axis on which nothing varies."""
    assert result.ndim == expected.ndim
    assert all(n in (1, m) for n, m in zip(result.shape, expected.shape, strict=True))
    np.testing.assert_array_equal(full(result, expected.shape), expected)


def assert_minimal(result: Labels) -> None:
    for axis, size in enumerate(result.shape):
        if size > 1:
            assert not np.array_equal(full(result.take([0], axis), result.shape), result)


@given(st.data())
@quick
def test_reshape(data: st.DataObject) -> None:
    source, target = data.draw(reshapes())
    labels = labels_for(data.draw, source)
    result = moves.regrouped(labels, source, target)
    assert_moved(result, full(labels, source).reshape(target))
    assert_minimal(result)


def test_reshape_never_expands_what_does_not_vary() -> None:
    labels = np.arange(8).reshape(1, 8, 1, 1)
    assert moves.regrouped(labels, (2**20, 8, 2**15, 2**15), (2**20, 8, 2**30)).shape == (1, 8, 1)


def test_reshape_splits_and_joins_channels() -> None:
    channels = np.arange(6).reshape(1, 6, 1)
    assert moves.regrouped(channels, (5, 6, 7), (5, 2, 3, 7)).tolist() == [[[[0], [1], [2]], [[3], [4], [5]]]]
    joined = moves.regrouped(channels, (5, 6, 7), (5, 42))
    assert joined.tolist() == [np.repeat(np.arange(6), 7).tolist()]


def test_reshape_of_nothing_is_refused() -> None:
    with pytest.raises(moves.Unmovable, match="empty"):
        moves.regrouped(np.zeros((1, 1), dtype=np.int64), (0, 3), (3, 0))


@given(reshapes())
@quick
def test_blocks(pair: tuple[Shape, Shape]) -> None:
    """Blocks take every axis once, in order, have equal products, and cannot be cut further."""
    source, target = pair
    found = moves.blocks(source, target)
    assert [a for left, _ in found for a in left] == list(range(len(source)))
    assert [a for _, right in found for a in right] == list(range(len(target)))
    for left, right in found:
        sizes, others = [source[a] for a in left], [target[a] for a in right]
        assert prod(sizes) == prod(others)
        inner = set(np.cumprod(sizes[:-1]).tolist()) & set(np.cumprod(others[:-1]).tolist())
        assert not {p for p in inner if 1 < p < prod(sizes)}


@given(st.data())
@quick
def test_concat(data: st.DataObject) -> None:
    shape = data.draw(shapes())
    axis = data.draw(st.integers(0, len(shape) - 1))
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    all_shapes = [tuple(n if a == axis else m for a, m in enumerate(shape)) for n in sizes]
    parts = [labels_for(data.draw, s) for s in all_shapes]
    expected = np.concatenate([full(p, s) for p, s in zip(parts, all_shapes, strict=True)], axis)
    result = moves.concatenated(parts, all_shapes, axis)
    assert_moved(result, expected)
    assert_minimal(result)


@given(st.data())
@quick
def test_transpose(data: st.DataObject) -> None:
    shape = data.draw(shapes())
    order = tuple(data.draw(st.permutations(range(len(shape)))))
    labels = labels_for(data.draw, shape)
    (result,) = moves.Transpose(order).moved(labels, shape)
    assert_moved(result, full(labels, shape).transpose(order))


@given(st.data())
@quick
def test_split(data: st.DataObject) -> None:
    shape = list(data.draw(shapes()))
    axis = data.draw(st.integers(0, len(shape) - 1))
    sizes = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    shape[axis] = sum(sizes)
    labels = labels_for(data.draw, tuple(shape))
    results = moves.Split(axis, sizes).moved(labels, tuple(shape))
    expected = np.split(full(labels, tuple(shape)), np.cumsum(sizes)[:-1], axis)
    assert len(results) == len(expected)
    for result, part in zip(results, expected, strict=True):
        assert_moved(result, part)


@given(st.data())
@quick
def test_slice(data: st.DataObject) -> None:
    """As ONNX does it: ends beyond the border are clamped, negative ones count from the end, steps go both
    ways.
    """
    shape = data.draw(shapes())
    axis = data.draw(st.integers(0, len(shape) - 1))
    size, step = shape[axis], data.draw(st.sampled_from([1, 2, -1, -2]))
    start = data.draw(st.integers(-size, size - 1))
    stops = [2**31 - 1] if step > 0 else [-(2**31)]
    stop = data.draw(st.sampled_from([*range(-size, size + 1), *stops]))
    labels = labels_for(data.draw, shape)
    index: list[slice] = [slice(None)] * len(shape)
    index[axis] = slice(start, None if stop == -(2**31) else stop, step)
    expected = full(labels, shape)[tuple(index)]
    if not expected.size:
        return
    (result,) = moves.Slice(((axis, start, stop, step),)).moved(labels, shape)
    assert_moved(result, expected)


@given(st.data())
@quick
def test_gather(data: st.DataObject) -> None:
    shape = data.draw(shapes())
    axis = data.draw(st.integers(0, len(shape) - 1))
    index_shape = data.draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    picks = st.integers(-shape[axis], shape[axis] - 1)
    drawn = data.draw(st.lists(picks, min_size=prod(index_shape), max_size=prod(index_shape)))
    indices = np.array(drawn, dtype=np.int64).reshape(index_shape)
    labels = labels_for(data.draw, shape)
    (result,) = moves.Gather(axis, indices).moved(labels, shape)
    assert_moved(result, full(labels, shape).take(indices, axis))


@given(st.data())
@quick
def test_compress(data: st.DataObject) -> None:
    shape = data.draw(shapes())
    labels = labels_for(data.draw, shape)
    result = moves.compress(labels)
    assert_moved(result, full(labels, labels.shape))
    assert_minimal(result)


@pytest.mark.parametrize(
    ("stated", "small_source", "small_target", "expected"),
    [
        ([0, -1], (2, 5, 4), (2, 20), [0, -1]),
        ([2, 32], (2, 5, 4), (2, 20), [2, 20]),
        ([-1, 32], (2, 5, 4), (2, 20), [-1, 20]),
        ([0, 8, 4], (2, 20), (2, 5, 4), [0, 5, 4]),
        ([2, 0, 4], (2, 5, 2, 2), (2, 5, 4), [2, 0, 4]),
        (None, (2, 20), (2, 5, 4), [2, 5, 4]),
    ],
)
def test_reshape_target(
    stated: list[int] | None,
    small_source: Shape,
    small_target: Shape,
    expected: list[int],
) -> None:
    """-1 stays, 0 stays where the axis is still copied, other numbers become the small ones."""
    found = moves.reshape_target(stated, small_source, small_target)
    assert found == expected
    sizes = [small_source[i] if n == 0 else n for i, n in enumerate(found)]
    assert np.zeros(small_source).reshape(sizes).shape == small_target


@pytest.mark.parametrize("deep_first", [True, False], ids=["DCR", "CRD"])
def test_places_become_channels_in_either_order(deep_first: bool) -> None:
    """Against the definition: [n, c, h, 2, w, 2] with the places of a block before the channels, or behind them."""
    data = np.arange(3).reshape(1, 3, 1, 1) * np.ones((1, 3, 4, 6), dtype=np.int64)
    blocks = data.reshape(1, 3, 2, 2, 3, 2).transpose((0, 3, 5, 1, 2, 4) if deep_first else (0, 1, 3, 5, 2, 4))
    (made,) = moves.SpaceToDepth(2, deep_first).moved(np.arange(3).reshape(1, 3, 1, 1), (1, 12, 2, 3))
    assert np.array_equal(np.broadcast_to(made, (1, 12, 2, 3)), blocks.reshape(1, 12, 2, 3))
