"""Which multiple of channels onnxruntime's blocked convolutions want on this host (design, section 7)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import onnx

from onnx_condense.errors import InputError
from onnx_condense.goals import Latency
from onnx_condense.model.runtime import session
from onnx_condense.operators.nodes import convolution
from onnx_condense.options import Options

ALIGNMENTS = {"avx2": 8, "avx512": 16, "arm64": 4}
"""Host -> block width. That of arm64 is what its convolutions' vectors hold; nobody measured it."""

UNMEASURED = ("arm64",)

PROBE_FILTERS = 20
"""A multiple of 4 (else onnxruntime does not block at all), but of no block size in use."""


@cache
def block_width() -> int:
    """The multiple that onnxruntime uses on this host; it is asked once."""
    return probed_width(session)


def probed_width(optimize: Callable[..., object]) -> int:
    """Optimizes a small Conv and reads to which multiple its filters were padded; 1 if they were not.

    `optimize(model, save_to=path)` writes the optimized model, as `runtime.session` does.
    """
    model = convolution(16, PROBE_FILTERS, 8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        try:
            optimize(model, save_to=str(path))
            optimized = onnx.load(path)
        except (InputError, OSError):
            return 1
    padded = max((t.dims[0] for t in optimized.graph.initializer if len(t.dims) == 4), default=PROBE_FILTERS)
    return next((width for width in (4, 8, 16, 32) if -(-PROBE_FILTERS // width) * width == padded > PROBE_FILTERS), 1)


def width_multiple(options: Options, measured: Callable[[], int] = block_width) -> tuple[int, str]:
    """The multiple that convolution widths are kept at, and who says so; `measured`: what this host wants."""
    if options.align_for is not None:
        note = ", not measured" if options.align_for in UNMEASURED else ""
        return ALIGNMENTS[options.align_for], f"--align-for {options.align_for}{note}"
    if options.align == "auto" and isinstance(options.goal, Latency):
        return 1, "the cost table"
    if options.align == "auto":
        return measured(), "onnxruntime on this host"
    return int(options.align), "--align"
