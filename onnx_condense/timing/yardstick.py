"""A small model that is timed beside others: how fast the machine was just then."""

from __future__ import annotations

from functools import cache

import numpy as np

from onnx_condense.model.runtime import to_bytes
from onnx_condense.operators.nodes import convolution
from onnx_condense.timing.kernels import Small

CHANNELS, PIXELS = 64, 28
"""29 million multiply-accumulates: some tenths of a millisecond, of which a profile tells microseconds."""


@cache
def yardstick() -> Small:
    """A convolution, and what it is fed."""
    model = convolution(CHANNELS, CHANNELS, PIXELS)
    return Small(to_bytes(model), {"x": np.ones((1, CHANNELS, PIXELS, PIXELS), np.float32)})
