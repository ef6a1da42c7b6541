"""Two models side by side: what counts as equal, and how a difference is measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from support import builders

import onnx_condense as oc
from onnx_condense.proving.compare import OutputComparison, compare, results, surgery_limits

NAN, INF = float("nan"), float("inf")


def measured(a: object, b: object, dtype: type = np.float32) -> OutputComparison:
    """The comparison of one output on one feed."""
    left: builders.Array = np.asarray(a, dtype=dtype)
    right: builders.Array = np.asarray(b, dtype=dtype)
    return compare([{"y": left}], [{"y": right}]).outputs[0]


def test_relative_l2_max_abs_and_cosine() -> None:
    found = measured([[3.0, 4.0]], [[3.0, 3.0]])
    assert found.relative_l2 == pytest.approx(1 / 5)
    assert found.max_abs == 1.0
    assert found.cosine == pytest.approx((9 + 12) / (5 * np.sqrt(18)))
    assert found.is_float
    assert found.dtype == "float32"
    assert found.name == "y"


def test_the_error_is_relative_to_the_first_model() -> None:
    assert measured([[1.0, 0.0]], [[4.0, 0.0]]).relative_l2 == 3.0
    assert measured([[4.0, 0.0]], [[1.0, 0.0]]).relative_l2 == 0.75


def test_samples_count_together_not_one_by_one() -> None:
    a = [{"y": np.array([[3.0, 4.0]])}, {"y": np.array([[0.0, 0.0]])}]
    b = [{"y": np.array([[3.0, 4.0]])}, {"y": np.array([[0.0, 1.0]])}]
    found = compare(a, b)
    assert found.error == pytest.approx(1 / 5)
    assert found.samples == 2


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_equal_non_finite_numbers_are_equal(value: float) -> None:
    found = measured([[value, 2.0]], [[value, 2.0]])
    assert (found.relative_l2, found.max_abs) == (0.0, 0.0)
    assert measured([[value, 2.0]], [[value, 1.0]]).relative_l2 == pytest.approx(0.5)


@pytest.mark.parametrize(("a", "b"), [(NAN, 1.0), (1.0, NAN), (INF, 1.0), (1.0, -INF), (INF, -INF), (NAN, INF)])
def test_other_non_finite_numbers_exceed_every_tolerance(a: float, b: float) -> None:
    found = compare([{"y": np.array([[a, 2.0]])}], [{"y": np.array([[b, 2.0]])}])
    assert found.error == INF


def test_outputs_that_are_zero() -> None:
    assert measured([[0.0, 0.0]], [[0.0, 0.0]]).relative_l2 == 0.0
    assert measured([[0.0, 0.0]], [[0.0, 1e-3]]).relative_l2 == INF


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.bool_])
def test_integer_outputs_are_counted_not_measured(dtype: type) -> None:
    found = compare([{"y": np.array([0, 1, 1, 0], dtype)}], [{"y": np.array([0, 1, 0, 0], dtype)}])
    assert found.outputs[0].relative_l2 == 0.25
    assert not found.outputs[0].is_float
    assert found.outputs[0].cosine is None
    assert found.mismatched == ("y",)
    assert found.error == 0.25
    assert found.float_error == 0.0


def test_large_integers_that_differ_by_one_differ() -> None:
    assert measured([2**60], [2**60 + 1], np.int64).relative_l2 == 1.0


def test_top1_agreement_is_the_share_of_rows_with_the_same_argmax() -> None:
    a = [[1.0, 2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    b = [[1.0, 5.0, 0.0], [3.0, 4.0, 0.0], [0.0, 0.0, 9.0], [2.0, 0.0, 0.0]]
    assert measured(a, b).top1_agreement == 0.75
    assert measured([1.0, 2.0], [1.0, 2.0]).top1_agreement is None
    assert measured([[1.0], [2.0]], [[1.0], [2.0]]).top1_agreement is None


def test_shapes_that_differ_exceed_every_tolerance() -> None:
    assert measured([[1.0, 2.0]], [[1.0], [2.0]]).relative_l2 == INF


def test_the_worst_output_counts() -> None:
    a = {"y": np.ones(4), "z": np.ones(4)}
    found = compare([a], [{"y": np.ones(4), "z": np.full(4, 1.5)}])
    assert [o.relative_l2 for o in found.outputs] == [0.0, 0.5]
    assert found.error == 0.5


@pytest.mark.parametrize(
    ("dtype", "difference", "limit"),
    [
        (np.float32, 0.0, 1e-5),
        (np.float32, 1e-7, 1e-5),
        (np.float32, 1e-4, 1e-3),
        (np.float32, 2e-3, 2e-2),
        (np.int64, 0.0, 1e-5),
    ],
)
def test_surgery_limit_follows_the_originals_own_noise(dtype: type, difference: float, limit: float) -> None:
    """max(1e-5, 10 x what the original differs from itself)."""
    a = np.ones((1, 4))
    noise = compare([{"y": a.astype(dtype)}], [{"y": (a + difference).astype(dtype)}])
    assert surgery_limits(noise)["y"] == pytest.approx(limit, rel=1e-2)


def test_surgery_limit_of_noise_that_is_not_finite() -> None:
    noise = compare([{"y": np.array([[NAN]], np.float32)}], [{"y": np.array([[1]], np.float32)}])
    assert surgery_limits(noise)["y"] == 1e-5


# ---------------------------------------------------------------------- verify()


def elementwise(expression: str, kind: str = "float", output: str = "") -> onnx.ModelProto:
    return builders.build(f"g ({kind}[N, 4] x) => ({output or kind}[N, 4] y) {{ y = {expression} }}")


def test_verify_takes_models_and_paths(tmp_path: Path) -> None:
    a, b = elementwise("Relu(x)"), elementwise("Abs(x)")
    onnx.save(a, tmp_path / "a.onnx")
    onnx.save(b, tmp_path / "b.onnx")
    found = oc.verify(a, b)
    assert found == oc.verify(tmp_path / "a.onnx", str(tmp_path / "b.onnx"))
    assert found.error > 0.5
    assert oc.verify(a, tmp_path / "a.onnx").error == 0.0


def test_verify_on_data() -> None:
    a, b = elementwise("Relu(x)"), elementwise("Abs(x)")
    data = np.array([[1, 2, 2, -3]], dtype=np.float32)
    assert oc.verify(a, b, {"x": data}).error == pytest.approx(1.0)
    assert oc.verify(a, b, {"x": np.abs(data)}).error == 0.0
    assert oc.verify(a, b, {"x": data}).samples == 1


def test_verify_seeds() -> None:
    a, b = elementwise("Relu(x)"), elementwise("Elu(x)")
    assert oc.verify(a, b, seed=3) == oc.verify(a, b, seed=3)
    assert oc.verify(a, b, seed=3).error != oc.verify(a, b, seed=4).error


def test_verify_input_shape() -> None:
    model = builders.build("g (float[N, T] x) => (float[N, T] y) { y = Relu(x) }")
    given = oc.verify(model, model, input_shape={"x": (7, 3)})
    free = oc.verify(model, model)
    assert given.samples % 7 == 0
    assert free.samples % 7 != 0


def test_nan_from_a_model_equals_itself() -> None:
    """Log of generated (signed) inputs is NaN in places; in the other model only elsewhere."""
    log = elementwise("Log(x)")
    assert oc.verify(log, log).error == 0.0
    other = builders.build("g (float[N, 4] x) => (float[N, 4] y) { a = Abs(x) y = Log(a) }")
    assert oc.verify(log, other).error == INF


def test_integer_and_float_outputs_together() -> None:
    text = "g (float[N, 4] x) => (float[N, 4] y, int64[N, 1] k) {{ y = Relu(x) k = {}<axis = 1>(x) }}"
    a, b = (builders.build(text.format(op)) for op in ("ArgMax", "ArgMin"))
    found = oc.verify(a, b)
    assert found.float_error == 0.0
    assert found.error == next(o.relative_l2 for o in found.outputs if o.name == "k") > 0.5
    assert found.mismatched == ("k",)


def test_models_with_other_outputs_or_inputs_cannot_be_compared() -> None:
    a = elementwise("Relu(x)")
    other_output = builders.build("g (float[N, 4] x) => (float[N, 4] z) { z = Relu(x) }")
    other_input = builders.build("g (float[N, 4] z) => (float[N, 4] y) { y = Relu(z) }")
    for b in (other_output, other_input):
        with pytest.raises(oc.InputError):
            oc.verify(a, b)


def test_results_are_frozen() -> None:
    found = oc.verify(elementwise("Relu(x)"), elementwise("Abs(x)"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.samples = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.outputs[0].max_abs = 0.0  # type: ignore[misc]


def test_results_run_only_what_is_wanted() -> None:
    model = builders.mlp((8, 16, 3))
    feed = {"x": builders.random(2, 8)}
    assert set(results(model, [feed])[0]) == {"y"}
    assert np.allclose(results(model, [feed])[0]["y"], results(model, [feed], optimize=False)[0]["y"], atol=1e-5)


def test_noise_allows_no_other_model() -> None:
    """Ten times a noise of 0.9 would be a limit that every model meets."""
    noise = compare([{"y": np.array([1.0, -1.0], dtype=np.float32)}], [{"y": np.array([1.0, 0.3], dtype=np.float32)}])
    assert noise.outputs[0].relative_l2 > 0.9
    assert surgery_limits(noise)["y"] == 0.5
