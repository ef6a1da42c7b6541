"""What outputs lose, as choices between candidates are made: by their numbers, and by the classes that they name."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx

from onnx_condense.arrays import Array, Floats
from onnx_condense.model.outputs import LABELS
from onnx_condense.operators.classes import class_outputs
from onnx_condense.proving.compare import Results

TINY = float(np.finfo(float).tiny)

SURE = 0.5
"""Mean share of a row's softmax that its largest element has at least, where rows are taken for scores of classes."""

FEWEST = 3
"""Classes, at least, of rows that nothing but their numbers tells to be scores."""

WHOLE = 1e-3
"""How far from one the shares of a row may sum up to be shares: a Softmax in 16 bits rounds so."""

LEAST = 1e-7
"""What a class is given at least by a model that rules it out."""

SCALES = 0.5, 2.0
"""Between which numbers scores may be multiplied before their distributions are compared: it names the same classes."""

ROUNDS = 5
"""Steps of Newton's method toward that number."""


def lost(expected: Results, found: Results, scores: Collection[str] = ()) -> float:
    """What outputs lose: the mean over them.

    Of numbers it is the squared relative error, of labels the share that differs; of scores of classes (names) half of
    the former and half of what their distributions lose: the Kullback-Leibler divergence in nats, of scores that are
    multiplied by the number at which it is least. What is missing of every score alike says nothing about classes.
    """
    names = [name for name in expected[0] if expected[0][name].size] if expected else []
    return float(np.mean([_lost(expected, found, name, name in scores) for name in names] or [0.0]))


def scores_in(model: onnx.ModelProto, outputs: Results) -> frozenset[str]:
    """The outputs [n, classes] or [n, tokens, classes] that are scores of classes.

    Operators, names or the numbers say so: different classes lead in different rows, and by far.
    """
    named = class_outputs(model)
    floats = [name for name in outputs[0] if _may_be(outputs[0][name])] if outputs else []
    return frozenset(name for name in floats if name in named or _decided(outputs, name))


def _may_be(value: Array) -> bool:
    return value.dtype.kind == "f" and value.ndim in (2, 3) and value.shape[-1] > 1


def _decided(outputs: Results, name: str) -> bool:
    values = [feed[name] for feed in outputs]
    if values[0].ndim != 2 or values[0].shape[-1] < FEWEST or not all(np.isfinite(value).all() for value in values):
        return False
    shares = np.exp(np.concatenate([_logarithms(value) for value in values]))
    return bool(shares.max(axis=-1).mean() >= SURE and len(np.unique(shares.argmax(axis=-1))) > 1)


def _lost(expected: Results, found: Results, name: str, classes: bool) -> float:
    a, b = (np.concatenate([feed[name].reshape(-1) for feed in part]) for part in (expected, found))
    if a.shape != b.shape:
        return np.inf
    if a.dtype.kind in LABELS:
        return float(np.mean(a != b))
    x, y = a.astype(np.float64), b.astype(np.float64)
    whole = np.isfinite(x)
    gap, size = x[whole] - y[whole], float(x[whole] @ x[whole])
    squared = float(gap @ gap) / max(size, TINY) if gap.any() else 0.0
    return (squared + _divergence(expected, found, name)) / 2 if classes else squared


def _divergence(expected: Results, found: Results, name: str) -> float:
    """The mean over rows of Σ p (log p - log q), log q by the scale at which that is least."""
    p, q = (np.concatenate([_logarithms(feed[name]) for feed in part]) for part in (expected, found))
    shares, least = np.exp(p), float(np.log(LEAST))
    p = np.maximum(p, least)
    scales = 1.0, _scale(shares, q)
    return min(float(np.mean(np.sum(shares * (p - np.maximum(_scaled(q, t), least)), axis=-1))) for t in scales)


def _scale(shares: Floats, logarithms: Floats) -> float:
    """The number within `SCALES` by which logarithms of shares [rows, classes] come closest to other shares."""
    centred, scale = logarithms - logarithms.max(axis=-1, keepdims=True), 1.0
    wanted = np.sum(shares * centred, axis=-1)
    for _ in range(ROUNDS):
        made = np.exp(_scaled(centred, scale))
        mean = np.sum(made * centred, axis=-1)
        curvature = float(np.mean(np.sum(made * centred**2, axis=-1) - mean**2))
        if not (np.isfinite(curvature) and curvature > TINY):
            return 1.0
        scale = float(np.clip(scale + np.mean(wanted - mean) / curvature, *SCALES))
    return scale


def _scaled(logarithms: Floats, scale: float) -> Floats:
    """[rows, classes] logarithms of shares whose scores are multiplied by a number."""
    scaled = scale * logarithms
    shifted = scaled - scaled.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _logarithms(scores: Array) -> Floats:
    """[rows, classes] logarithms of shares: of scores [..., classes] that sum to one as they are, else of softmax."""
    rows = scores.reshape(-1, scores.shape[-1]).astype(np.float64)
    if (rows >= 0).all() and (abs(rows.sum(axis=-1) - 1) <= WHOLE).all():
        return np.asarray(np.log(np.maximum(rows, LEAST)))
    return _scaled(rows, 1.0)
