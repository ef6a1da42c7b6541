"""What a small model takes, from the profile of its runs."""

from __future__ import annotations

import numpy as np

from onnx_condense.timing.kernels import typical


def test_a_run_that_slept_outside_its_kernels_does_not_look_fast() -> None:
    """Two of eight runs were put to sleep between kernels: their kernels took what those of others did."""
    seconds = np.full(8, 1e-4)
    awake = np.array([1.0, 1.0, 0.1, 1.0, 0.2, 1.0, 1.0, 1.0])
    assert typical(seconds, awake) == 1e-4


def test_a_run_that_slept_in_a_kernel_counts_as_long_as_it_was_awake() -> None:
    assert np.isclose(typical(np.array([1e-4, 5e-4, 1e-3]), np.array([1.0, 0.2, 0.1])), 1e-4)
