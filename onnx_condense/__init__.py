"""Condense neural networks in ONNX: merge neurons whose weight vectors point the same way, exactly and verified."""

import logging

from onnx_condense._version import __version__
from onnx_condense.errors import (
    CondenseError,
    EvaluationError,
    InputError,
    PlanError,
    TrainerError,
    UsageError,
    VerificationError,
    WorkerError,
)
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
    "InputError",
    "Options",
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

logging.getLogger(__name__).addHandler(logging.NullHandler())
