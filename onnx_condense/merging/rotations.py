"""Bases of streams in plans."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from onnx_condense.arrays import Floats
from onnx_condense.forms.bases import Along, Normalized, Rotation, Writer
from onnx_condense.merging.entries import finite, whole, word
from onnx_condense.merging.long_arrays import put, take

INVERSE = 1e-6
"""How far the product of a basis and its inverse may be from one."""


def rotation_to_json(rotation: Rotation) -> dict[str, Any]:
    """As a JSON object; long arrays stand in it as they are."""
    return {
        "layer": rotation.layer,
        "writers": [asdict(writer) for writer in rotation.writers],
        "readers": [asdict(reader) for reader in rotation.readers],
        "added": [asdict(one) for one in rotation.added],
        "into": put(rotation.into),
        "back": put(rotation.back),
        "rank": rotation.rank,
        **({"idle": list(rotation.idle)} if rotation.idle else {}),
    }


def rotation_from_json(content: Mapping[str, Any]) -> Rotation:
    """The inverse. Raises ValueError, KeyError or TypeError for what no run gives."""
    into, back, rank = _matrix(content["into"]), _matrix(content["back"]), content["rank"]
    if into.shape != back.shape or not np.abs(into @ back - np.eye(len(into))).max() <= INVERSE:
        raise ValueError("a basis has another inverse")
    if type(rank) is not int or not 0 < rank <= len(into):
        raise ValueError("the rank of a basis is out of range")
    idle = content.get("idle", [])
    if any(type(place) is not int for place in idle) or not set(idle) <= set(range(rank)):
        raise ValueError("an idle channel of a basis is out of range")
    writers = tuple(_writer(writer) for writer in content["writers"])
    readers, added = (tuple(map(_along, content[name])) for name in ("readers", "added"))
    return Rotation(word(content["layer"]), writers, readers, added, into, back, rank, tuple(idle))


def _writer(content: Mapping[str, Any]) -> Writer:
    norm = None if content["normalized"] is None else _normalized(content["normalized"])
    return Writer(word(content["weight"]), whole(content["axis"], -math.inf), word(content["bias"]), norm)


def _normalized(content: Mapping[str, Any]) -> Normalized:
    scale, shift, mean, var = (word(content[name]) for name in ("scale", "shift", "mean", "var"))
    return Normalized(scale, shift, mean, var, finite(content["epsilon"]))


def _along(content: Mapping[str, Any]) -> Along:
    return Along(word(content["name"]), whole(content["axis"], -math.inf))


def _matrix(value: Any) -> Floats:
    """[n, n] finite numbers. Raises ValueError."""
    matrix = np.asarray(take(value), dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ValueError("a basis is no square matrix")
    return matrix
