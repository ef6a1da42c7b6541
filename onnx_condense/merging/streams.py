"""Streams that normalizations read, in fewer directions, in plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnx_condense.arrays import Floats
from onnx_condense.merging.entries import word
from onnx_condense.merging.factors import orthonormal
from onnx_condense.merging.long_arrays import put, take


@dataclass(frozen=True, eq=False)
class ShortStream:
    """The layers that write to a stream, and the basis [width, rank], of orthonormal columns, in which it lies then."""

    layers: tuple[str, ...]
    basis: Floats = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; long arrays stand in it as they are."""
        return {"layers": list(self.layers), "basis": put(self.basis)}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> ShortStream:
        """The inverse. Raises ValueError, KeyError or TypeError for what no run gives."""
        basis = orthonormal(np.asarray(take(content["basis"]), dtype=np.float64))
        return ShortStream(tuple(map(word, content["layers"])), basis)
