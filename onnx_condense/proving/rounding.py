"""What rounding does to a model's outputs, also where no optimization of onnxruntime shows it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_condense.arrays import FLOATS, Array
from onnx_condense.model.held import Spill, by_rows, holds, numbers
from onnx_condense.model.protos import FLOAT_TYPES, tensors

DRAWS = 3
"""Times that the weights are shaken."""


def shaken(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """The model with weights that are a unit of rounding larger or smaller, by chance, several times.

    Weights of one axis stay: they may state sizes. Large ones lie in a file that goes when the next model is asked for.
    """
    for seed in range(DRAWS):
        generator, spill = np.random.default_rng(seed), Spill() if holds(model) else None
        result = onnx.ModelProto()
        result.CopyFrom(model)
        for tensor in tensors(result):
            if tensor.data_type in FLOAT_TYPES and len(tensor.dims) > 1:
                value = by_rows(numbers(tensor), partial(_moved, generator=generator))
                held = None if spill is None else spill.keep(tensor.name, value)
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name) if held is None else held)
        yield result


def _moved(value: Array, generator: np.random.Generator) -> Array:
    """Numbers of any shape, each a unit of rounding larger or smaller."""
    signs = generator.integers(0, 2, value.shape, dtype=np.int8) * 2 - 1
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray((value * (1 + signs * FLOATS[value.dtype.name].eps)).astype(value.dtype))
