"""What a trace says, in short."""

from __future__ import annotations

from onnx_condense.operators.reasons import Because
from onnx_condense.tracing.trace import Trace


def grouped(trace: Trace) -> list[tuple[str, ...]]:
    return [group.layers for group in trace.groups]


def reasons(trace: Trace) -> dict[str, Because]:
    return {refusal.layer: refusal.reason for refusal in trace.refusals}
