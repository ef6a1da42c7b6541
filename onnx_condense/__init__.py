"""Condense neural networks in ONNX: merge neurons whose weight vectors point the same way, exactly and verified."""

import logging
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnx_condense._version import __version__
from onnx_condense.errors import (
    CondenseError,
    EvaluationError,
    InputError,
    LimitError,
    PlanError,
    TrainerError,
    UsageError,
    VerificationError,
    WorkerError,
)

if TYPE_CHECKING:
    from onnx_condense.data.sources import Images, Pixels
    from onnx_condense.merging.plan import Plan
    from onnx_condense.options import Options
    from onnx_condense.pipeline import analyze, condense, rewrite
    from onnx_condense.proving.compare import Verification, verify
    from onnx_condense.report.values import Analysis, Report, Result
    from onnx_condense.timing.benchmark import Benchmark, benchmark

__all__ = [
    "Analysis",
    "Benchmark",
    "CondenseError",
    "EvaluationError",
    "Images",
    "InputError",
    "LimitError",
    "Options",
    "Pixels",
    "Plan",
    "PlanError",
    "Report",
    "Result",
    "TrainerError",
    "UsageError",
    "Verification",
    "VerificationError",
    "WorkerError",
    "__version__",
    "analyze",
    "benchmark",
    "condense",
    "rewrite",
    "verify",
]

ROOMS = {
    "data.sources": ("Images", "Pixels"),
    "merging.plan": ("Plan",),
    "options": ("Options",),
    "pipeline": ("analyze", "condense", "rewrite"),
    "proving.compare": ("Verification", "verify"),
    "report.values": ("Analysis", "Report", "Result"),
    "timing.benchmark": ("Benchmark", "benchmark"),
}
"""Where names live that are imported when they are first asked for: onnx and onnxruntime take half a second."""

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime asks when it is imported, which nothing above does

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for (PEP 562)."""
    for room, names in ROOMS.items():
        if name in names:
            globals()[name] = value = getattr(import_module(f"{__name__}.{room}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
