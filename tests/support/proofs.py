"""The steps of a run up to its proof, one by one."""

from __future__ import annotations

from dataclasses import replace

import onnx
from onnx import numpy_helper

from onnx_condense import Options
from onnx_condense.planning.thresholds import Builder
from onnx_condense.prepare import Opened, open_model
from onnx_condense.proving.compare import results
from onnx_condense.proving.surgery import VerificationReport, prove
from onnx_condense.rewriting.writer import Written, write


def condensed(model: onnx.ModelProto, options: Options) -> tuple[Opened, Written, Written]:
    """(what was opened, small model, twin) of a run."""
    opened = open_model(model, options)
    twin = Builder(opened.trace, options, 1).build(1.0)
    assert twin.plans
    return opened, write(twin, {}), write(twin, {}, expanded=True)


def proof(opened: Opened, small: Written, twin: Written, options: Options) -> VerificationReport:
    expected = results(opened.source.proto, opened.feeds)
    return prove(opened.source.proto, expected, opened.trace, opened.feeds, opened.other, small, twin, options)


def disturbed(written: Written, name: str, by: float) -> Written:
    """The model with every element of one initializer changed."""
    model = onnx.ModelProto()
    model.CopyFrom(written.model)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            value = numpy_helper.to_array(tensor)
            value = value + value.dtype.type(by)
            tensor.CopyFrom(numpy_helper.from_array(value, name))
    return replace(written, model=model, traced=model)
