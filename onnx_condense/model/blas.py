"""How many threads BLAS takes while a model is worked on."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache

import onnx
from threadpoolctl import ThreadpoolController

from onnx_condense.model.protos import tensors

LARGE = 4096
"""Rows and columns of a weight from which its products gain by every thread.

The threads of BLAS wait busily for one another. Where other programs want the cores, that takes a hundred times what a
factorization of some hundred rows computes, and ten to thirty times as long for one of two thousand.
"""


@contextmanager
def threads_for(model: onnx.ModelProto) -> Iterator[None]:
    """BLAS has one thread meanwhile, unless a weight of the model is large."""
    large = any(min(t.dims[0], math.prod(t.dims[1:])) >= LARGE for t in tensors(model) if len(t.dims) > 1)
    with limited(None if large else 1):
        yield


def limited(threads: int | None) -> AbstractContextManager[object]:
    """From now on BLAS has so many threads, None as many as before; as a context, until its end."""
    limiter: AbstractContextManager[object] = _libraries(len(sys.modules)).limit(limits=threads, user_api="blas")
    return limiter


@lru_cache(maxsize=1)
def _libraries(modules: int) -> ThreadpoolController:
    """The libraries with threads in this process, which come with its modules; finding them takes most of a limit."""
    return ThreadpoolController()
