"""Bases of streams in plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from onnx_condense.arrays import Floats
from onnx_condense.forms.bases import Along, Normalized, Rotation, Writer
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
    }


def rotation_from_json(content: Mapping[str, Any]) -> Rotation:
    """The inverse. Raises ValueError, KeyError or TypeError for what no run gives."""
    into, back, rank = _matrix(content["into"]), _matrix(content["back"]), content["rank"]
    if into.shape != back.shape or not np.abs(into @ back - np.eye(len(into))).max() <= INVERSE:
        raise ValueError("a basis has another inverse")
    if type(rank) is not int or not 0 < rank <= len(into):
        raise ValueError("the rank of a basis is out of range")
    writers = tuple(_writer(writer) for writer in content["writers"])
    readers, added = (tuple(Along(**one) for one in content[name]) for name in ("readers", "added"))
    return Rotation(content["layer"], writers, readers, added, into, back, rank)


def _writer(content: Mapping[str, Any]) -> Writer:
    norm = content["normalized"]
    return Writer(content["weight"], content["axis"], content["bias"], None if norm is None else Normalized(**norm))


def _matrix(value: Any) -> Floats:
    """[n, n] finite numbers. Raises ValueError."""
    matrix = np.asarray(take(value), dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ValueError("a basis is no square matrix")
    return matrix
