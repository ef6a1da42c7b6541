"""Models of twins, written to be run a few times and thrown away."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from onnx_condense.merging.twin import Twin
from onnx_condense.model import wire
from onnx_condense.planning.stretches import DIVIDED
from onnx_condense.rewriting.writer import write


def judged(twin: Twin, measure: Callable[[onnx.ModelProto], float]) -> float:
    """What is measured of a model that gives what a twin's gives, and is run a few times.

    In the original shapes where convolutions may have lost whole blocks of channels, without which they take
    onnxruntime two to four times as long.
    """
    blocks = any(action.convolves for action in twin.trace.actions.values())
    whole = blocks and wire.size(twin.trace.facts.model) <= DIVIDED
    written = write(twin, {}, expanded=whole)  # its weights may lie in a file as long as it is there
    return measure(written.model)
