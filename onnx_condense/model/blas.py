"""How many threads BLAS takes while a model is worked on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
from threadpoolctl import threadpool_limits

from onnx_condense.model.protos import tensors

LARGE = 1024
"""Rows and columns of a weight from which its products gain by every thread.

The threads of BLAS wait busily for one another: on matrices of some hundred rows that takes several times what they
compute, most of all where other programs want the cores.
"""


@contextmanager
def threads_for(model: onnx.ModelProto) -> Iterator[None]:
    """BLAS has one thread meanwhile, unless a weight of the model is large."""
    large = any(min(t.dims[0], math.prod(t.dims[1:])) >= LARGE for t in tensors(model) if len(t.dims) > 1)
    with threadpool_limits(None if large else 1, "blas"):
        yield
