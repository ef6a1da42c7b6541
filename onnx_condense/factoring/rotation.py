"""The basis of a stream in which its readers need the fewest channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_condense.arrays import FLOAT32, Floats
from onnx_condense.factoring.streams import Stream
from onnx_condense.forms.bases import Rotation
from onnx_condense.merging.paths import by_channel
from onnx_condense.merging.twin import Twin
from onnx_condense.refitting.consumer import Consumer, consumer_of
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.moments import Moments
from onnx_condense.tracing.trace import Slot

RIDGE = 1e-3
"""Share of the mean by which every direction counts for readers at least: it bounds how far a basis stretches."""

VANISHING = 1e-6
"""Share of the largest singular value below which a direction may be nothing but float rounding."""

WIDEST = 2048
"""Channels of a stream at most: a basis takes their square, and their cube in time."""


def balanced(stream: Stream, twin: Twin, estimate: Estimate) -> list[Rotation]:
    """The basis in which channels do not vary together, and readers count them all alike: those that vary least go.

    With C the covariance of the channels and G = WᵀW of all readers, E|W (y - y')|² is least for the first eigenvectors
    of G^½ C G^½, whose channels are z = Uᵀ G^½ y. Nothing where it is not known how they vary.
    """
    if stream.width > WIDEST:
        return []
    consumers = [consumer_of(twin.trace, slot) for slot in stream.slots]
    asked = [consumer for consumer in consumers if consumer is not None]
    known = dict(zip([one.key for one in asked], estimate.moments(asked), strict=True))
    covariance, gram = np.zeros((2, stream.width, stream.width))
    for slot, consumer in zip(stream.slots, consumers, strict=True):
        moments = None if consumer is None else known[consumer.key]
        if consumer is None or moments is None:
            return []
        varies, reads = _by_channel(moments, consumer), _gram(twin, slot)
        size, felt = float(np.trace(varies)), float(np.sum(varies * reads))
        if size <= 0 or felt <= 0:
            return []
        covariance += varies / size
        gram += reads * size / felt
    root, inverse = _roots(gram)
    _, vectors = np.linalg.eigh(root @ covariance @ root)
    vectors = vectors[:, ::-1]
    return [_rotation(stream, vectors.T @ root, inverse @ vectors, stream.width)]


def _by_channel(moments: Moments, consumer: Consumer) -> Floats:
    """[n, n] how channels vary together, on average over taps."""
    taps, n = consumer.layout.taps, consumer.channels
    return np.asarray(np.einsum("itjt->ij", moments.xx.reshape(n, taps, n, taps)) / taps)


def _gram(twin: Twin, slot: Slot) -> Floats:
    """[n, n] WᵀW of a reader."""
    columns = _columns(twin, slot)
    return columns @ columns.T


def _roots(gram: Floats) -> tuple[Floats, Floats]:
    """The square root of a Gram matrix [n, n], no direction without some of it, and its inverse."""
    values, vectors = np.linalg.eigh(gram)
    values = np.sqrt(np.maximum(values, 0.0) + RIDGE * values.mean())
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T


def _rotation(stream: Stream, into: Floats, back: Floats, rank: int) -> Rotation:
    return Rotation(stream.group.layers[0], stream.writers, stream.readers, stream.added, into, back, rank)


def deficient(stream: Stream, twin: Twin) -> list[Rotation]:
    """An orthogonal basis whose last channels are never written to, or never read; nothing where there are none."""
    if stream.width > WIDEST:
        return []
    written, read = written_to(stream, twin), [_columns(twin, slot) for slot in stream.slots]
    filled = span(written)
    if filled is None:
        return []
    inner = span([filled.T @ columns for columns in read])
    if inner is None or inner.shape[1] == stream.width:
        return []
    inside = filled @ inner
    basis, _ = np.linalg.qr(np.hstack([inside, np.eye(stream.width)]))
    return [_rotation(stream, basis.T, basis, inside.shape[1])]


def written_to(stream: Stream, twin: Twin) -> list[Floats]:
    """[n, p] of each writer: the directions in which it writes, constants among them; and of what is added."""
    facts = twin.trace.facts
    values = {name: facts.value_by_name(name) for name in _rotation(stream, np.eye(1), np.eye(1), 1).names}
    wide = {name: value.astype(np.float64) for name, value in values.items() if value is not None}
    found = []
    for writer in stream.writers:
        rows = _lines(wide[writer.weight], writer.axis)
        constant = wide[writer.bias].reshape(-1) if writer.bias else np.zeros(len(rows))
        norm = writer.normalized
        if norm is not None:
            gain = norm.gain(wide)
            rows, constant = rows * gain[:, None], (constant - wide[norm.mean]) * gain + wide[norm.shift]
        found += [rows, constant[:, None]]
    return found + [_lines(wide[one.name], one.axis) for one in stream.added]


def _lines(value: Floats, axis: int) -> Floats:
    moved = np.moveaxis(value, axis, 0)
    return moved.reshape(len(moved), -1)


def _columns(twin: Twin, slot: Slot) -> Floats:
    """[n, p] what a reader multiplies each channel with."""
    columns = by_channel(twin.weight(slot.node, slot.input), slot.axes, slot.groups)
    return columns.reshape(len(columns), -1).astype(np.float64)


def span(parts: Sequence[Floats], least: float = 0.0) -> Floats | None:
    """[n, r] an orthonormal basis of the columns of all parts [n, p], each equal to float rounding; None of zeros.

    Rows are, too; one that is smaller than this share of the mean one of its part need not be so to its own rounding.
    """
    scaled = [part / np.linalg.norm(part) for part in parts if part.any()]
    if not scaled:
        return None
    values, vectors = np.linalg.eigh(sum(part @ part.T for part in scaled))
    basis = vectors[:, values > (VANISHING**2) * values[-1]]
    if basis.shape[1] == len(basis):
        return np.asarray(basis)
    for part in scaled:
        gap = part - basis @ (basis.T @ part)
        rows = np.maximum(np.linalg.norm(part, axis=1), least * len(part) ** -0.5)
        sizes = np.linalg.norm(part, axis=0), rows
        gaps = np.linalg.norm(gap, axis=0), np.linalg.norm(gap, axis=1)
        if any((one > FLOAT32.rounding * size).any() for one, size in zip(gaps, sizes, strict=True)):
            return np.eye(len(part))
    return np.asarray(basis)
