"""Condense, then quantize; and what of a quantized model can still be condensed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static
from support.lossless import LOSSLESS
from support.models import operators
from support.planted.cases import FULL
from support.planted.net import Net, run, traced
from support.planted.quantized import dense_integers, integers, rounded, stored

from onnx_condense import Options, VerificationError, analyze, condense
from onnx_condense.model.storage import Quantized
from onnx_condense.operators.reasons import Because, Reason
from onnx_condense.planning.thresholds import Planner
from onnx_condense.prepare import open_model
from onnx_condense.proving.compare import results
from onnx_condense.proving.surgery import Case, prove
from onnx_condense.rewriting.writer import write

MODEL = Path(__file__).parents[2] / "models" / "digits_conv_bn.onnx"
ADVICE = "condense the float model, then quantize it"


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    with np.load(MODEL.with_suffix(".test.npz")) as file:
        return file["input"], file["target"]


class Images(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images for onnxruntime's quantizer."""

    def __init__(self) -> None:
        images, _ = digits()
        self._left = [{"input": images[i : i + 16]} for i in range(0, 64, 16)]

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return self._left.pop() if self._left else None


def quantized(kind: str, source: Path, folder: Path) -> onnx.ModelProto:
    """The model as onnxruntime's quantizer leaves it."""
    target = folder / f"{source.stem}_{kind}.onnx"
    logging.disable(logging.WARNING)
    try:
        if kind == "dynamic":
            quantize_dynamic(source, target)
        else:
            per_channel = kind == "QDQ"
            quantize_static(source, target, Images(), quant_format=QuantFormat[kind], per_channel=per_channel)
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load(target)


def accuracy(model: onnx.ModelProto) -> float:
    images, target = digits()
    return float((run(model, {"input": images})[0].argmax(1) == target).mean())


def kinds(model: onnx.ModelProto) -> list[int]:
    """Element types of the matrices and kernels."""
    return [t.data_type for t in model.graph.initializer if len(t.dims) > 1]


# ------------------------------------------------------------------------- onnxruntime's quantizer


@pytest.mark.parametrize("kind", ["QDQ", "QOperator", "dynamic"])
def test_quantizing_the_condensed_model_is_as_good_and_smaller(kind: str, tmp_path: Path) -> None:
    small = tmp_path / "small.onnx"
    onnx.save(condense(MODEL, Options(threshold=0.95, align=1)).model, small)
    before, after = quantized(kind, MODEL, tmp_path), quantized(kind, small, tmp_path)
    assert accuracy(after) >= accuracy(before) - 0.005
    assert after.ByteSize() < 0.6 * before.ByteSize()


@pytest.mark.parametrize("kind", ["QDQ", "QOperator"])
@pytest.mark.parametrize("options", [LOSSLESS, Options(threshold=0.5, align=1)], ids=["lossless", "threshold"])
def test_condensing_after_quantizing_is_exact(options: Options, kind: str, tmp_path: Path) -> None:
    model = quantized(kind, MODEL, tmp_path)
    result = condense(model, options)
    images, _ = digits()
    assert result.changed
    assert result.model.ByteSize() < 0.7 * model.ByteSize()
    np.testing.assert_array_equal(run(model, {"input": images}), run(result.model, {"input": images}))
    assert operators(result.model) == operators(model)
    assert kinds(result.model) == kinds(model)
    assert set(kinds(model)) == {onnx.TensorProto.INT8}
    assert ADVICE in result.report.warnings[0]


def test_scales_that_follow_the_data_are_refused_with_advice(tmp_path: Path) -> None:
    """A channel that is removed could have been the one with the largest number."""
    model = quantized("dynamic", MODEL, tmp_path)
    found = analyze(model)
    assert found.share == 0
    assert [(ADVICE in r.reason, len(r.layers), r.parameters) for r in found.refusals] == [(True, 4, 56224)]
    assert not condense(model, Options(threshold=0.5)).changed


# ---------------------------------------------------------------------- only what integers can hold


def pair(
    rows: Any, columns: Any, bias: Any = None, out_bias: Any = None
) -> tuple[onnx.ModelProto, Callable[[Options], onnx.ModelProto]]:
    """Gemm, Relu, Gemm with weights of int8 and scale 0.02, and how to condense it."""
    net = Net(13)
    made = dense_integers(net, net.input("batch", 6), rows, bias, name="producer")
    hidden = net.node("Relu", made)
    model = net.build(dense_integers(net, hidden, columns, out_bias, name="consumer"))
    return model, lambda options: condense(model, options).model


def stored_values(model: onnx.ModelProto, node: str) -> NDArray[np.integer[Any]]:
    """The integers of a Gemm's weight."""
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {n.output[0]: n.input[0] for n in model.graph.node}
    gemm = next(n for n in model.graph.node if n.name == node)
    return values[makers[gemm.input[1]]]


def test_columns_of_equal_rows_are_added_as_integers() -> None:
    rows, columns = integers(Net(), 4, 6), integers(Net(), 3, 4)
    rows[2] = rows[0]
    _, small = pair(rows, columns)
    found = small(LOSSLESS)
    np.testing.assert_array_equal(stored_values(found, "producer"), rows[[0, 1, 3]])
    expected = np.stack([columns[:, 0] + columns[:, 2], columns[:, 1], columns[:, 3]], 1)
    np.testing.assert_array_equal(stored_values(found, "consumer"), expected)


@pytest.mark.parametrize(("other", "width"), [(27, 3), (28, 4)])
def test_a_sum_beyond_the_type_is_not_made(other: int, width: int) -> None:
    rows, columns = integers(Net(), 4, 6), integers(Net(), 3, 4)
    rows[2] = rows[0]
    columns[1, [0, 2]] = 100, other
    _, small = pair(rows, columns)
    assert len(stored_values(small(LOSSLESS), "producer")) == width


@pytest.mark.parametrize(("ratio", "width"), [(2, 3), (1.5, 4)])
def test_a_ratio_is_folded_where_the_products_are_integers(ratio: float, width: int) -> None:
    rows, columns = 2 * integers(Net(), 4, 6, size=20), integers(Net(), 3, 4, size=20) | 1
    rows[2] = ratio * rows[0]
    _, small = pair(rows, columns)
    assert len(stored_values(small(LOSSLESS), "producer")) == width


@pytest.mark.parametrize(("value", "width"), [(50, 3), (35, 4)])
def test_a_constant_channel_goes_into_an_integer_bias_where_that_is_exact(value: int, width: int) -> None:
    """Its value is 0.05 or 0.035; columns are multiples of 0.02, the bias of 0.001."""
    rows, columns = integers(Net(), 4, 6), integers(Net(), 3, 4)
    rows[2], columns[:, 2] = 0, 1
    bias, out_bias = np.array([5, 7, value, -3], dtype=np.int32), np.array([1, 2, 3], dtype=np.int32)
    model, small = pair(rows, columns, bias, out_bias)
    found = small(LOSSLESS)
    assert len(stored_values(found, "producer")) == width
    if width == 3:
        values = [numpy_helper.to_array(t) for t in found.graph.initializer]
        assert any(v.dtype == np.int32 and v.tolist() == [2, 3, 4] for v in values)
    feed = {"x": np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)}
    np.testing.assert_allclose(run(found, feed)[0], run(model, feed)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.95, 0.7, 0.3])
def test_rows_that_are_only_alike_stay_at_any_threshold(threshold: float) -> None:
    rows, columns = integers(Net(), 6, 6), integers(Net(), 3, 6)
    rows[2:] = rows[:1] + np.arange(4)[:, None] * np.eye(6, dtype=np.int8)[:4]
    model, _ = pair(rows, columns)
    result = condense(model, Options(threshold=threshold))
    assert len(stored_values(result.model, "producer")) == 5
    assert result.report.warnings == (
        f"producer is quantized: only what stays exact on the integers is merged; {ADVICE}",
    )


def test_float_layers_beside_quantized_ones_condense_as_ever() -> None:
    net = Net(13)
    rows = np.repeat(net.normal(4, 6), 2, axis=0) + 0.02 * net.normal(8, 6)
    hidden = net.node("Relu", net.dense("floats", net.input("batch", 6), rows))
    hidden = net.node("Relu", net.dense("between", hidden, np.abs(net.normal(5, 8))))
    hidden = dense_integers(net, hidden, integers(net, 6, 5), name="producer")
    model = net.build(dense_integers(net, net.node("Relu", hidden), integers(net, 3, 6), name="consumer"))
    report = condense(model, Options(threshold=0.95, align=1)).report
    assert [(g.width_before, g.width_after, g.method) for g in report.groups] == [
        (8, 4, "auto"),
        (5, 5, "none"),
        (6, 6, "none"),
    ]


def test_a_plan_replays() -> None:
    rows, columns = integers(Net(), 4, 6), integers(Net(), 3, 4)
    rows[2] = rows[0]
    model, _ = pair(rows, columns)
    first = condense(model, LOSSLESS)
    again = condense(model, replay=first.plan)
    assert again.model.SerializeToString() == first.model.SerializeToString()


# ---------------------------------------------------------------------------- what is not understood


def refused(net: Net, weight: str) -> list[Reason]:
    hidden = net.node("Relu", net.node("Gemm", net.input("batch", 6), weight, name="producer", transB=1))
    return [r.reason.root for r in traced(net.build(net.dense("last", hidden, net.normal(3, FULL)))).refusals]


def test_weights_that_would_become_floats_are_refused() -> None:
    net = Net(21)
    grid = net.constant(np.full((FULL, 2), 0.1)), net.constant(np.zeros((FULL, 2), dtype=np.int8))
    blocked = net.node("DequantizeLinear", net.constant(integers(net, FULL, 6)), *grid, axis=1, block_size=3)
    assert refused(net, blocked)[0] is Reason.QUANTIZED
    net = Net(13)
    assert refused(net, net.node("Transpose", stored(net, integers(net, 6, FULL))))[0] is Reason.QUANTIZED
    net = Net(13)
    weight = stored(net, integers(net, FULL, 6))
    net.node("Gemm", "x", weight, transB=1)
    assert refused(net, weight)[0] is Reason.QUANTIZED


def test_a_grid_per_channel_pins() -> None:
    net = Net(13)
    hidden = net.dense("producer", net.input("batch", 6), net.normal(FULL, 6))
    grid = net.constant(np.linspace(0.1, 0.2, FULL)), net.constant(np.zeros(FULL, dtype=np.int8))
    hidden = net.node("QuantizeLinear", hidden, *grid, axis=1)
    hidden = net.node("DequantizeLinear", hidden, *grid, axis=1)
    found = traced(net.build(net.dense("last", hidden, net.normal(3, FULL))))
    because = Because(Reason.READ, "a QuantizeLinear", Because(Reason.SCALE_PER_CHANNEL))
    assert because in [r.reason for r in found.refusals]


def test_a_model_of_constants_says_so() -> None:
    net = Net(13)
    data = rounded(net, net.constant(net.normal(1, 6)))
    found = analyze(net.build(net.dense("last", data, net.normal(3, 6))))
    assert [r.reason for r in found.refusals] == [Reason.CONSTANT.value]


# -------------------------------------------------------------------------------------------- proof


@pytest.mark.parametrize("layer", range(2))
def test_one_wrong_integer_is_found(layer: int) -> None:
    """Though the original differs from itself by more, its optimizations off and on."""
    net = Net(13)
    data = rounded(net, net.input("batch", 16))
    rows, columns = integers(net, 12, 16), integers(net, 4, 12)
    rows[6:] = rows[:6]
    hidden = rounded(net, net.node("Relu", dense_integers(net, data, rows, name="producer")))
    model = net.build(rounded(net, dense_integers(net, hidden, columns, name="consumer")))
    opened = open_model(model, LOSSLESS)
    twin = Planner(opened.trace, LOSSLESS, 1, opened.trace.groups).build().twin
    small, expanded = write(twin, {}), write(twin, {}, expanded=True)
    case = Case(model, results(model, opened.feeds), opened.feeds, opened.others)
    prove(case, opened.trace, small, expanded, LOSSLESS)
    wrong = onnx.ModelProto()
    wrong.CopyFrom(small.model)
    tensor = [t for t in wrong.graph.initializer if len(t.dims) > 1][layer]
    value = numpy_helper.to_array(tensor).copy()
    value[0, 0] += 9
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    with pytest.raises(VerificationError, match="surgery"):
        prove(case, opened.trace, replace(small, model=wrong), expanded, LOSSLESS)


# ------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint16, np.int32])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_what_is_stored_comes_back(kind: type[np.signedinteger[Any]], axis: int | None) -> None:
    generator = np.random.default_rng(0)
    limits = np.iinfo(kind)
    numbers = generator.integers(limits.min, limits.max, (5, 7), endpoint=True).astype(kind)
    shape = [1 if a != axis else n for a, n in enumerate(numbers.shape)]
    scale = generator.uniform(0.001, 0.1, shape).astype(np.float32)
    zero = generator.integers(limits.min // 4, limits.max // 4, shape).astype(kind)
    found = Quantized(0, None, numbers, scale, zero, axis, True)
    floats = ((numbers.astype(np.float64) - zero) * scale).astype(np.float32)
    np.testing.assert_array_equal(found.nearest(floats), numbers)
    assert found.holds(found.wide(floats)).all()
    assert not found.holds(found.wide(floats) + scale * np.float64(0.4)).any()
    assert not found.holds(found.values(np.full((5, 7), limits.max, dtype=np.int64) + 1)).any()
    part = found.sliced(lambda array: array[[3, 1]] if len(array) > 1 else array)
    np.testing.assert_array_equal(part.wide(floats[[3, 1]]), found.wide(floats)[[3, 1]])
