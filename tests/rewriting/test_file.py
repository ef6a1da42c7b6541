"""The small model as a file: what it says stays true, and what is not touched stays."""

from __future__ import annotations

import onnx
from onnx import helper
from support.lossless import LOSSLESS, condensed
from support.models import weights
from support.planted.cases import EXACT, planted_columns, planted_rows
from support.planted.net import Net, traced

from onnx_condense import condense
from onnx_condense.merging.deciding import plan_group
from onnx_condense.merging.judging import judge
from onnx_condense.merging.methods import MANNERS
from onnx_condense.merging.twin import Twin
from onnx_condense.options import Method
from onnx_condense.rewriting.writer import write


def annotated() -> onnx.ModelProto:
    net = Net()
    hidden = net.node("Relu", net.dense("producer", net.input("batch", 6), *planted_rows(net, "scaled", 6)))
    model = net.build(net.dense("consumer", hidden, planted_columns(net, "scaled", 4), net.normal(4)))
    model = onnx.shape_inference.infer_shapes(model)
    model.producer_name, model.doc_string, model.model_version, model.domain = "me", "text", 7, "org.example"
    helper.set_model_props(model, {"author": "someone"})
    return model


def stated(model: onnx.ModelProto) -> list[list[int | str]]:
    shapes = [value.type.tensor_type.shape for value in model.graph.value_info]
    return [[dim.dim_value or dim.dim_param for dim in shape.dim] for shape in shapes]


def test_value_info_stays_true() -> None:
    small = condensed(annotated(), {"producer": EXACT})
    assert stated(small) == [["batch", EXACT]] * 2


def test_a_size_of_a_dynamic_axis_that_an_exporter_saw_is_left_to_it() -> None:
    """As torch's does of the time of an LSTM: what the model is traced with would be another, and as wrong."""
    model = annotated()
    for value in model.graph.value_info:
        value.type.tensor_type.shape.dim[0].dim_value = 9
    small = condensed(model, {"producer": EXACT})
    assert stated(small) == [[9, EXACT]] * 2


def test_what_is_not_touched_stays() -> None:
    model = annotated()
    small = condensed(model, {"producer": EXACT})
    assert small.ir_version == model.ir_version
    assert small.opset_import == model.opset_import
    assert (small.doc_string, small.model_version, small.domain) == ("text", 7, "org.example")
    assert {p.key: p.value for p in small.metadata_props}["author"] == "someone"
    assert [n.name for n in small.graph.node] == [n.name for n in model.graph.node]
    assert small.graph.input == model.graph.input
    assert small.graph.output == model.graph.output
    assert set(weights(small)) == set(weights(model))
    assert small.graph.name == model.graph.name


def test_the_input_model_is_not_changed() -> None:
    model = annotated()
    before = model.SerializeToString(deterministic=True)
    condense(model, LOSSLESS)
    assert model.SerializeToString(deterministic=True) == before


def test_nothing_to_condense_returns_the_model() -> None:
    net = Net()
    hidden = net.node("Relu", net.dense("producer", net.input("batch", 6), net.normal(6, 6)))
    model = net.build(net.dense("consumer", hidden, net.normal(4, 6)))
    result = condense(model, LOSSLESS)
    assert result.model.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    assert result.plan.groups == ()


def test_macs_and_alive() -> None:
    """6 -> 8 -> 4 features for 8 samples."""
    trace = traced(annotated())
    twin = Twin(trace)
    assert write(twin, {}).macs == 8 * (6 * 8 + 8 * 4)
    plan = plan_group(judge(twin, trace.groups[0], MANNERS[Method.LOSSLESS]), 1.0, 1)
    twin.apply(trace.groups[0], plan)
    written = write(twin, {})
    assert written.macs == 8 * (6 * 5 + 5 * 4)
    assert [kept.count for kept in written.alive.values()] == [EXACT, EXACT]
