"""BLAS takes as many threads as the weights are worth."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.networks import residual
from threadpoolctl import threadpool_info, threadpool_limits

import onnx_condense as oc
from onnx_condense.model.blas import threads_for


def threads() -> set[int]:
    return {int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"}


def with_weight(*dims: int) -> onnx.ModelProto:
    weight = onnx.numpy_helper.from_array(np.zeros(dims, np.float32), "W")
    return onnx.ModelProto(graph=onnx.GraphProto(initializer=[weight]))


@pytest.mark.parametrize(("dims", "taken"), [((4095, 8192), 1), ((4096, 64, 8, 8), 2), ((4096,), 1), ((), 1)])
def test_only_large_matrices_are_worth_a_second_thread(dims: tuple[int, ...], taken: int) -> None:
    with threadpool_limits(2, "blas"):
        with threads_for(with_weight(*dims)):
            assert threads() == {taken}
        assert threads() == {2}


def test_a_small_model_is_condensed_on_one_thread() -> None:
    seen: list[set[int]] = []
    with threadpool_limits(2, "blas"):
        oc.condense(residual(), oc.Options(threshold=0.8), progress=lambda stage: seen.append(threads()))
        assert {1} in seen
        assert threads() == {2}
