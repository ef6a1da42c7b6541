"""Streams that normalizations read lie in as many directions as are filled, and stay where something asks for more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.lossless import LOSSLESS
from support.planted.net import run
from support.streams import FORMS, HIDDEN, PLACES, WIDTH, WORDS, Stream, answers, sizes

from onnx_condense import Options, PlanError, analyze, condense, rewrite
from onnx_condense.factoring import residual
from onnx_condense.merging.plan import Plan
from onnx_condense.merging.streams import ShortStream

ROUNDING = 2e-5
"""Of the largest number: sums of some layers in float32, in another basis."""


def assert_same(one: onnx.ModelProto, other: onnx.ModelProto) -> None:
    for a, b in zip(answers(one), answers(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=ROUNDING * np.abs(a).max())


def stays(stream: Stream, *outputs: str) -> str:
    """Nothing goes, and why."""
    model = stream.build(*outputs)
    result = condense(model, LOSSLESS)
    assert not result.plan.streams
    assert_same(model, result.model)
    reasons = [one.reason for one in analyze(model).streams if one.reason]
    return reasons[0] if reasons else ""


@pytest.mark.parametrize("form", FORMS)
def test_streams_come_out_at_their_exact_width(form: str) -> None:
    stream = Stream(form)
    model = stream.model()
    result = condense(model, LOSSLESS)
    found, left = sizes(result.model), stream.left
    assert (found["words"], found["places"]) == ((WORDS, left), (PLACES, left))
    assert (found["up1.weight"], found["down1.weight"]) == ((left, HIDDEN), (HIDDEN, left))
    assert [(one.width, one.rank) for one in result.report.streams] == [(WIDTH, left)]
    assert [node.op_type for node in result.model.graph.node] == [node.op_type for node in model.graph.node]
    assert_same(model, result.model)
    verification = result.report.verification
    assert verification is not None
    assert max(verification.surgery_error, verification.approximation_error) < 1e-6


@pytest.mark.parametrize("form", ["layer", "rms"])
def test_what_reads_the_stream_itself_stays_right(form: str) -> None:
    """Its mean, too."""
    stream = Stream(form)
    logits = stream.logits()
    model = stream.build(logits, stream.net.matmul("beside", stream.last, stream.net.normal(3, WIDTH)))
    result = condense(model, LOSSLESS)
    assert sizes(result.model)["beside.weight"] == (stream.left, 3)
    assert_same(model, result.model)


class Counted(Stream):
    """Places are counted from the shape of what is read."""

    def embedded(self) -> str:
        net = self.net
        words = net.node("Gather", net.constant(self.within(WORDS).T, "words"), "ids")
        length = net.node("Gather", net.node("Shape", "ids"), net.constant(np.int64(1)))
        counted = net.node("Range", net.constant(np.int64(0)), length, net.constant(np.int64(1)))
        return net.node("Add", words, net.node("Gather", net.constant(self.within(100).T, "places"), counted))


def test_what_a_file_says_of_shapes_stays_true() -> None:
    model = Counted("layer").model()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "t"
    places = model.graph.node[[node.op_type for node in model.graph.node].index("Range") + 1].output[0]
    model.graph.value_info.append(onnx.helper.make_tensor_value_info(places, onnx.TensorProto.FLOAT, ["t", WIDTH]))
    onnx.checker.check_model(model, full_check=True)
    result = condense(model, LOSSLESS)
    assert result.plan.streams
    onnx.checker.check_model(result.model, full_check=True)


def test_replayed_it_is_the_same(tmp_path: Path) -> None:
    model = Stream("layer").model()
    result = condense(model, LOSSLESS)
    result.plan.save(tmp_path / "p.json")
    loaded = Plan.load(tmp_path / "p.json")
    assert condense(model, replay=loaded).model.SerializeToString() == result.model.SerializeToString()
    assert rewrite(model, loaded).SerializeToString() == result.model.SerializeToString()
    (stream,) = loaded.streams
    for other, said in ((replace(stream, layers=("none",)), "does not have"), (mirrored(stream), "keep its mean")):
        with pytest.raises(PlanError, match=said):
            rewrite(model, replace(loaded, streams=(other,)))


def mirrored(stream: ShortStream) -> ShortStream:
    basis = stream.basis.copy()
    basis[:, 0] *= -1
    return replace(stream, basis=basis)


def test_inspect_tells_the_filled_directions() -> None:
    (full, short) = (analyze(Stream("layer", rank=rank).model()).streams for rank in (WIDTH, 7))
    assert [(one.width, one.rank, one.reason) for one in (*full, *short)] == [(WIDTH, WIDTH, None), (WIDTH, 8, None)]


def test_a_stream_that_is_an_output_stays() -> None:
    stream = Stream("rms")
    logits = stream.logits()
    assert stays(stream, logits, stream.last) == ""


def test_what_is_left_of_other_kinds_of_reading_stays() -> None:
    for form in ("layer", "rms in parts"):
        for op in ("Relu", "Exp"):
            stream = Stream(form)
            logits = stream.logits()
            odd = stream.net.matmul("odd", stream.net.node(op, stream.last), stream.net.normal(3, WIDTH))
            assert "takes channels one by one" in stays(stream, logits, odd)


def test_a_gate_of_the_stream_stays() -> None:
    for normal in (False, True):
        stream = Stream("rms")
        logits = stream.logits()
        gated = stream.normalized(stream.last) if normal else stream.last
        gate = stream.net.node("Sigmoid", stream.net.matmul("gate", stream.last, stream.net.normal(WIDTH, WIDTH)))
        beside = stream.net.matmul("beside", stream.net.node("Mul", gated, gate), stream.net.normal(3, WIDTH))
        assert "is read by a Sigmoid, which takes channels one by one" in stays(stream, logits, beside)
    stream = Stream("rms")
    logits = stream.logits()
    product = stream.net.node("Mul", stream.last, stream.embedded())
    assert "multiplies channels" in stays(
        stream, logits, stream.net.matmul("odd", product, stream.net.normal(3, WIDTH))
    )


def test_parts_of_a_stream_keep_it() -> None:
    stream = Stream("rms")
    logits, net = stream.logits(), stream.net
    first, _ = net.multiple("Split", stream.normalized(stream.last), net.ints(9, 7), outputs=2, axis=-1)
    assert "takes some channels apart from others" in stays(stream, logits, net.matmul("part", first, net.normal(3, 9)))


def test_normalized_sums_stay() -> None:
    """As in BERT: what is normalized is added again."""
    stream = Stream("layer")
    normal = stream.normalized(stream.embedded())
    again = stream.normalized(stream.net.node("Add", normal, stream.block(0, normal)))
    assert "adds channels that were scaled one by one" in stays(
        stream, stream.net.matmul("head", again, stream.net.normal(3, WIDTH))
    )


def as_torch_writes(scaled: bool) -> onnx.ModelProto:
    """Any number of words behind a class token, as many positions, blocks that are scaled, heads by counted sizes."""
    stream = Stream("layer in parts")
    net = stream.net
    net.inputs[0].type.tensor_type.shape.dim[1].dim_param = "places"
    words = net.node("Gather", net.constant(stream.within(WORDS).T, "words"), "ids")
    batch, places = (net.node("Gather", net.node("Shape", "ids"), net.ints(axis)) for axis in (0, 1))
    first = net.constant(stream.within(1).T[None], "class")
    copies = net.node("Expand", first, net.node("Concat", batch, net.ints(1, 1), axis=0))
    stop = net.node("Squeeze", net.node("Add", places, net.ints(1)))
    numbers = net.node("Range", net.constant(np.int64(0)), stop, net.constant(np.int64(1)))
    rows = net.node("Gather", net.constant(stream.within(9).T, "places"), numbers)
    embedded = net.node("Add", net.node("Concat", copies, words, axis=1), rows)
    normal = stream.normalized(embedded)
    counted = net.node("Shape", normal)
    half = net.node("Div", net.node("Gather", counted, net.ints(2)), net.ints(2))
    sizes = net.node("Concat", net.node("Slice", counted, net.ints(0), net.ints(2)), net.ints(2), half, axis=0)
    heads = net.node("Reshape", net.matmul("heads", normal, net.normal(WIDTH, WIDTH), net.normal(WIDTH)), sizes)
    summed = net.node("Reshape", net.node("Tanh", heads), counted)
    scale = np.exp(net.normal(WIDTH)) if scaled else np.ones(WIDTH)
    out, bias = stream.within(WIDTH), stream.within(1)[:, 0]
    made = net.matmul("down1", summed, out / scale[:, None], bias / scale)
    made = net.node("Mul", made, net.constant(scale)) if scaled else made
    pooled = net.node("ReduceMean", stream.normalized(embedded, made), axes=[1], keepdims=0)
    return stream.build(net.matmul("head", pooled, net.normal(3, WIDTH)))


@pytest.mark.parametrize("scaled", [False, True])
def test_tokens_places_and_scales_of_blocks_follow(scaled: bool) -> None:
    model = as_torch_writes(scaled)
    result = condense(model, LOSSLESS)
    found = sizes(result.model)
    assert (found["words"], found["class"], found["places"]) == ((WORDS, 6), (1, 1, 6), (9, 6))
    assert found["heads.weight"][0] == found["down1.weight"][1] == 6
    for places in (1, 7):
        feed = {"ids": np.arange(2 * places).reshape(2, places)}
        a, b = run(model, feed)[0], run(result.model, feed)[0]
        np.testing.assert_allclose(a, b, rtol=0, atol=ROUNDING * np.abs(a).max())


def test_an_error_of_ours_costs_the_stream_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = Stream("rms").model(), list[bool]()
    assert condense(model, LOSSLESS).plan.streams

    def fails(*_: object) -> None:
        seen.append(True)
        raise RuntimeError

    monkeypatch.setattr(residual, "Residual", fails)
    result = condense(model, LOSSLESS)
    assert seen
    assert not result.plan.streams
    assert_same(model, result.model)


def test_runs_that_ask_for_widths_alone_let_streams_be() -> None:
    for options in (replace(LOSSLESS, widths_only=True), replace(LOSSLESS, exclude=("words",)), Options(threshold=1.0)):
        assert not condense(Stream("rms").model(), options).plan.streams


@pytest.mark.parametrize(("rank", "left"), [(12, WIDTH), (4, 4)])
def test_copies_of_a_table_are_held_once_where_that_is_less(rank: int, left: int) -> None:
    stream = Stream("rms", rank=rank)
    words = stream.within(WORDS).T
    first = stream.net.node("Gather", stream.net.constant(words, "words"), "ids")
    normal = stream.normalized(first, stream.block(0, stream.normalized(first)))
    logits = stream.net.node("MatMul", normal, stream.net.constant(words.T, "copy"))
    model = stream.build(logits)
    result = condense(model, LOSSLESS)
    assert bool(result.plan.streams) == (left < WIDTH)
    assert_same(model, result.model)


@pytest.mark.parametrize(("form", "faint", "shorter"), [("layer", 0.02, True), ("rms", 1.0, False)])
def test_budgets_leave_out_faint_directions_where_that_is_cheap(form: str, faint: float, shorter: bool) -> None:
    model = Stream(form, faint=faint).model()
    ids = np.random.default_rng(3).integers(0, WORDS, (64, PLACES))
    options = Options(budget=("params", 0.6), align=1, calibration={"ids": ids})
    result = condense(model, options)
    assert [one.rank < one.width for one in result.report.streams] == [True] * shorter
    report, proof = result.report, result.report.verification
    assert report.output is not None
    assert report.output.parameters <= 0.6 * report.input.parameters
    assert proof is not None
    assert proof.surgery_error < 1e-6
    if shorter:
        assert proof.approximation_error < 0.25
        assert condense(model, replay=result.plan).model.SerializeToString() == result.model.SerializeToString()
