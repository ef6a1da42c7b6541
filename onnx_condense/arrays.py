"""Types of arrays, and the precision of their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
Shape = tuple[int, ...]

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def epsilon(kind: np.dtype[Any]) -> float:
    """The distance from 1 to the next number of a float type."""
    return 2.0**-7 if kind.name == "bfloat16" else float(np.finfo(kind.name).eps)


Array = NDArray[Any]
