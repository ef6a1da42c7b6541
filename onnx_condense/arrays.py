"""Types of arrays, and what is known of the types of floats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Shape = tuple[int, ...]

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Array = NDArray[Any]


@dataclass(frozen=True)
class FloatType:
    """A type of weights and outputs.

    name: numpy's. eps: the distance from 1 to the next number. surgery: what the outputs of two graphs of the same
    numbers may differ by, relative L2. folding: error that rounding folded weights to it may make, layer after layer.
    coarse: whether it is a short type, whose weights are rounded results of wider ones.
    """

    name: str
    eps: float
    surgery: float
    folding: float = 0.0
    coarse: bool = False

    @property
    def rounding(self) -> float:
        """How far apart numbers may lie, relative to their size, that count as equal: so many units of precision."""
        return (2 if self.coarse else 16) * self.eps


FLOAT32 = FloatType("float32", 2.0**-23, surgery=1e-5)

FLOATS: Mapping[str, FloatType] = {
    kind.name: kind
    for kind in (
        FloatType("bfloat16", 2.0**-7, surgery=4e-2, folding=1e-1, coarse=True),
        FloatType("float16", 2.0**-10, surgery=5e-3, folding=2e-2, coarse=True),
        FLOAT32,
        FloatType("float64", 2.0**-52, surgery=1e-10),
    )
}
"""By name. The surgery limits of the short types are 5 units of their precision."""
