"""What a model gives, as arrays of numbers and of labels, and whether that says anything about its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from onnx_condense.arrays import FLOAT32, FLOATS, Array

Outputs = Mapping[str, Array]
"""Output name -> value; sequences and maps as `arrays` flattens them."""

LABELS = "iubU"
"""Kinds of arrays that are counted, not measured: integers, truth values, strings."""

KINDS = "fV" + LABELS
"""Kinds of arrays that can be compared; V: short floats that numpy does not know."""


def samples_in(values: Outputs) -> int:
    """How many samples inputs or outputs have: the length of the first axis found, 1 where none has one."""
    return next((len(value) for value in values.values() if value.ndim), 1)


def batch_in(values: Outputs) -> int:
    """The length of the longest first axis, 1 where there is none: what shapes are divided by for those of a sample."""
    return max([1, *(len(value) for value in values.values() if value.ndim)])


def sample_size(values: Outputs) -> int:
    """How many numbers a sample of the largest input or output has, 1 where none has an axis for samples."""
    return max([1, *(value.size // max(1, len(value)) for value in values.values() if value.ndim)])


def arrays(names: Iterable[str], values: Iterable[Any]) -> dict[str, Array]:
    """Outputs of onnxruntime as arrays.

    The tensors of a sequence are stacked, or put in a row where their shapes differ. Maps give their values, sorted by
    key, and beside them their keys.
    """
    found: dict[str, Array] = {}
    for name, value in zip(names, values, strict=True):
        maps = [value] if isinstance(value, dict) else value
        if isinstance(maps, list) and maps and all(isinstance(one, dict) for one in maps):
            found[name] = _single([_joined([one[key] for key in sorted(one)]) for one in maps])
            found[f"{name} (keys)"] = _joined([_joined(sorted(one)) for one in maps])
        elif isinstance(value, list):
            found[name] = _joined(value)
        else:
            found[name] = _array(value)
    return {name: value for name, value in found.items() if value.dtype.kind in KINDS}


def _array(value: Any) -> Array:
    found = np.asarray(value)
    words = found.dtype.kind == "O" and all(isinstance(one, str) for one in found.flat)
    return found.astype(str) if words else found


def _joined(values: Sequence[Any]) -> Array:
    """The values one after the other, along an axis of their own where they have the same shape."""
    found = [_array(value) for value in values]
    if not found:
        return np.zeros(0, dtype=np.float32)
    return np.stack(found) if len({one.shape for one in found}) == 1 else np.concatenate([np.ravel(f) for f in found])


def _single(rows: Sequence[Array]) -> Array:
    """Values of maps: Python has no short floats, and so hides which of them were."""
    joined = _joined(rows)
    short = joined.astype(np.float32) if joined.dtype == np.float64 else joined
    return short if np.array_equal(short, joined, equal_nan=short.dtype.kind == "f") else joined


def share_told(first: Outputs, second: Outputs) -> float:
    """The share of all outputs that two inputs make finite and different."""
    pairs = [(value, second[name]) for name, value in first.items() if name in second]
    total = sum(max(a.size, b.size) for a, b in pairs)
    return sum(_told(a, b) for a, b in pairs) / max(1, total)


def tells(found: Sequence[Outputs], samples: Sequence[int]) -> bool:
    """Whether any output is finite and not the same for all samples; of a single one, finite is all one can ask.

    `found`: feed by feed. `samples`: in each feed.
    """
    alike = [(a, b) for (a, m), (b, n) in pairwise(zip(found, samples, strict=True)) if m == n]
    if any(share_told(a, b) > 0 for a, b in alike):
        return True
    pairs = zip(found, samples, strict=True)
    return any(_tells(value, count, not alike) for one, count in pairs for value in one.values())


def finite(found: Outputs) -> bool:
    """Whether any output holds a label or a finite number."""
    return any(_finite(value).any() for value in found.values())


def _tells(value: Array, samples: int, alone: bool) -> bool:
    axes = [axis for axis, size in enumerate(value.shape) if size == samples > 1]
    axes = axes[:1] if axes[:1] == [0] else axes  # others are as long by chance
    moved = (np.moveaxis(value, axis, 0) for axis in axes)
    return any(_told(one[1:], one[:-1]) for one in moved) if axes else alone and bool(_finite(value).any())


def _told(a: Array, b: Array) -> int:
    """How many numbers are finite in both, and differ by more than rounding."""
    if a.shape != b.shape:
        return int(np.count_nonzero(_finite(max(a, b, key=np.size))))
    if a.dtype.kind in LABELS:
        return int(np.count_nonzero(a != b))
    both = _finite(a) & _finite(b)
    x, y = a[both].astype(np.float64), b[both].astype(np.float64)
    unit = FLOATS.get(a.dtype.name, FLOAT32).rounding * max(np.abs(x).max(initial=0), np.abs(y).max(initial=0))
    return int(np.count_nonzero(np.abs(x - y) > unit))


def _finite(value: Array) -> Array:
    return np.ones(value.shape, bool) if value.dtype.kind in LABELS else np.isfinite(value.astype(np.float64))
