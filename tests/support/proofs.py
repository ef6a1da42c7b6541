"""The steps of a run up to its proof, one by one."""

from __future__ import annotations

from dataclasses import replace

import onnx
from onnx import numpy_helper

from onnx_condense import Options, Plan
from onnx_condense.merging.twin import Twin
from onnx_condense.planning.thresholds import Planner
from onnx_condense.prepare import Opened, open_model
from onnx_condense.proving.compare import is_told, results, surgery_limits
from onnx_condense.proving.surgery import Case, Limits, VerificationReport, prove
from onnx_condense.refitting.samples import Calibration
from onnx_condense.rewriting.writer import Written, write


def condensed(model: onnx.ModelProto, options: Options) -> tuple[Opened, Written, Written]:
    """(what was opened, small model, twin) of a run."""
    opened = open_model(model, options)
    twin = Planner(opened.trace, options, 1, opened.trace.groups).build().twin
    assert twin.plans
    return opened, write(twin, {}), write(twin, {}, expanded=True)


def proof(
    opened: Opened, small: Written, twin: Written, options: Options, limits: Limits = surgery_limits
) -> VerificationReport:
    expected = results(opened.source.proto, opened.feeds)
    told = is_told(opened.told, expected, opened.feeds)
    case = Case(opened.source.proto, expected, opened.feeds, opened.others, told)
    return prove(case, opened.trace, small, twin, options, limits)


def merged(model: onnx.ModelProto, plan: Plan, options: Options) -> tuple[Twin, Calibration]:
    """The twin with a plan's merges and no refits, and the calibration inputs."""
    opened = open_model(model, options)
    twin = Twin(opened.trace)
    for group in plan.groups:
        twin.apply(opened.trace.groups[group.index], group)
    return twin, opened.calibration


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
