"""Streams that normalizations read, in as few directions as their writers fill.

With B [n, m] of orthonormal columns that span what is written, y = B Bᵀ y. Writers make z = s Bᵀ y, readers multiply
with W diag(gain) B / s, and s = √(m/n) keeps the mean of squares: a normalization of z is that of y, its number against
division by zero included. Where it takes the mean off, Bᵀ takes the direction of ones to that of ones: z has the mean
of y. What is added then goes the direction of ones, which is free behind it: readers find their W · shift there.
What multiplies single channels before they are added goes into their writer.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onnx_condense.arrays import Array, Floats
from onnx_condense.factoring.residual import Residual, State
from onnx_condense.factoring.rotation import WIDEST, span
from onnx_condense.merging.twin import Twin
from onnx_condense.tracing.trace import Slot


def exact_basis(stream: Residual, twin: Twin) -> Floats | None:
    """[n, m] what the writers of a stream fill to float rounding; None where that is everything."""
    if stream.width > WIDEST:
        return None
    ones = [np.ones((stream.width, 1))] if stream.centred else []
    filled = span([*written(stream, twin), *ones], least=1.0)
    if filled is None or filled.shape[1] == stream.width:
        return None
    return basis_of(stream, filled)


def basis_of(stream: Residual, filled: Floats, size: int = 0) -> Floats:
    """[n, m] a basis of the space of some orthonormal columns [n, r], and of more directions up to `size` of them.

    Where the mean counts, the direction of ones is in it, as the mean of the new channels.
    """
    n, m = stream.width, max(size, filled.shape[1])
    if not stream.centred:
        whole, _ = np.linalg.qr(np.hstack([filled, np.eye(n)])) if m > filled.shape[1] else (filled, None)
        return np.asarray(whole[:, :m])
    ones = np.full((n, 1), n**-0.5)
    inner, _, _ = np.linalg.svd(filled - ones @ (ones.T @ filled), full_matrices=False)
    whole, _ = np.linalg.qr(np.hstack([ones, inner[:, : filled.shape[1] - 1], np.eye(n)]))
    whole[:, :1] = ones
    mirror = np.eye(m)[:, :1] - m**-0.5
    turn = np.eye(m) - 2 * mirror @ mirror.T / float(np.sum(mirror**2)) if m > 1 else np.eye(1)
    return np.asarray(whole[:, :m] @ turn)


def keeps_mean(basis: Floats) -> bool:
    """Whether what lies in a basis [n, m] has the same mean there."""
    n, m = basis.shape
    return bool(np.abs(basis.sum(0) / np.sqrt(n) - m**-0.5).max() <= 1e-6)


def written(stream: Residual, twin: Twin) -> list[Floats]:
    """[n, p] of each writer: the directions in which it writes."""
    return [_made(stream, twin, slot) for slot in stream.writers]


def shorten(stream: Residual, basis: Floats, twin: Twin) -> None:
    """Gives a twin the weights of a stream in a basis [n, m], and lets go what is no channel of it."""
    n, m = basis.shape
    scale = float(np.sqrt(m / n))
    for slot in stream.writers:
        _put(twin, slot, scale * (basis.T @ _made(stream, twin, slot)))
    for slot, state in stream.readers:
        _put(twin, slot, _read(twin, slot, state, basis) / scale)
    _take_away(twin, stream.parameters)
    twin.alive[stream.group.units[stream.order[m:]]] = False


def projected(stream: Residual, basis: Floats, twin: Twin) -> None:
    """Gives a twin, in its shapes, writers that write within a basis [n, m] alone."""
    for slot in stream.writers:
        _put(twin, slot, basis @ (basis.T @ _made(stream, twin, slot)))
    _take_away(twin, stream.scaled.values())


def _made(stream: Residual, twin: Twin, slot: Slot) -> Floats:
    """[n, p] what a writer adds to the stream."""
    gain, lines = stream.scaled.get(slot), _lines(_weight(twin, slot), axis_of(slot))
    return lines if gain is None else np.asarray(_weight(twin, gain).reshape(-1, 1) * lines)


def _take_away(twin: Twin, parameters: Iterable[Slot]) -> None:
    """Lets numbers that channels are multiplied with, or that are added to them, be ones."""
    for slot in parameters:
        twin.folded[slot.node, slot.input] = np.ones_like(twin.weight(slot.node, slot.input))


def axis_of(slot: Slot) -> int:
    """The axis of a weight along which channels lie, from the end."""
    return slot.axes[0] - slot.labels.ndim


def _read(twin: Twin, slot: Slot, state: State, basis: Floats) -> Floats:
    """[m, p] what a reader multiplies the directions of a basis with, and the ones that stand for what was added."""
    columns = _lines(_weight(twin, slot), axis_of(slot))
    gain = 1.0 if state.gain is None else _weight(twin, state.gain).reshape(-1, 1)
    rows = basis.T @ (gain * columns)
    if state.shift is None:
        return rows
    n, m = basis.shape
    shift = _weight(twin, state.shift).reshape(1, -1) @ columns
    return np.asarray(rows - rows.mean(0) + np.sqrt(m / n) * shift / m)


def _weight(twin: Twin, slot: Slot) -> Floats:
    """A weight of any shape."""
    return np.asarray(twin.weight(slot.node, slot.input), dtype=np.float64)


def _lines(value: Floats, axis: int) -> Floats:
    moved = np.moveaxis(value, axis, 0)
    return np.asarray(moved.reshape(len(moved), -1))


def _put(twin: Twin, slot: Slot, lines: Floats) -> None:
    """Holds lines [m, p] along the channels of a weight, zeros for the others. Raises FloatingPointError."""
    before, axis = twin.weight(slot.node, slot.input), axis_of(slot)
    whole = np.zeros((before.shape[axis], lines.shape[1]))
    whole[: len(lines)] = lines
    shape = np.moveaxis(before, axis, 0).shape
    with np.errstate(over="raise", invalid="raise"):
        value: Array = np.moveaxis(whole.reshape(shape), 0, axis).astype(before.dtype)
    twin.folded[slot.node, slot.input] = np.ascontiguousarray(value)
