"""A comparison of nothing is no proof: labels and maps are compared, other inputs drawn, or nothing is written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from support import builders, vacuous
from support.cli import Cli, Save, read

import onnx_condense as oc
from onnx_condense.merging.evidence import Evidence
from onnx_condense.model.inputs import draw_feeds, input_specs
from onnx_condense.proving.compare import compare

Maker = Callable[[], onnx.ModelProto]
Draws = Callable[[np.random.Generator], builders.Array]

SHAPE = (2000, vacuous.FEATURES)


def signed(generator: np.random.Generator) -> builders.Array:
    return generator.standard_normal(SHAPE)


def positive(generator: np.random.Generator) -> builders.Array:
    return generator.uniform(0.1, 1, SHAPE)


def beyond_one(generator: np.random.Generator) -> builders.Array:
    return generator.uniform(1, 10, SHAPE)


def large(generator: np.random.Generator) -> builders.Array:
    return 300 * generator.standard_normal(SHAPE)


KINDS: list[tuple[Maker, Draws]] = [
    (vacuous.labels, signed),
    (vacuous.truths, signed),
    (vacuous.words, signed),
    (vacuous.maps, signed),
    (vacuous.sequences, signed),
    (vacuous.ragged, signed),
    (vacuous.logarithm, positive),
    (vacuous.inverse_cosine, beyond_one),
    (vacuous.saturated, large),
    (vacuous.dead, large),
]
kinds = pytest.mark.parametrize(("make", "draw"), KINDS, ids=[make.__name__ for make, _ in KINDS])
hopeless = pytest.mark.parametrize("make", [vacuous.hopeless, vacuous.constant_beside_nan])


def is_smaller(result: oc.Result) -> bool:
    return result.report.output is not None and result.report.output.parameters < result.report.input.parameters


# ---------------------------------------------------------------------- bounds are kept


@kinds
def test_an_error_budget_is_kept(make: Maker, draw: Draws) -> None:
    model = make()
    result = oc.condense(model, oc.Options(budget=("error", 0.02), align=1))
    assert vacuous.changed(model, result.model, draw) < 0.05


@kinds
def test_a_tolerance_is_kept(make: Maker, draw: Draws) -> None:
    model = make()
    result = oc.condense(model, oc.Options(threshold=0.7, tolerance=0.02, align=1))
    assert vacuous.changed(model, result.model, draw) < 0.05


@kinds
def test_what_a_threshold_costs_is_said(make: Maker, draw: Draws) -> None:
    model = make()
    result = oc.condense(model, oc.Options(threshold=0.7, align=1))
    truth = vacuous.changed(model, result.model, draw)
    assert is_smaller(result)
    assert result.report.verification is not None
    assert result.report.verification.approximation_error == pytest.approx(truth, rel=0.5, abs=0.03)


@kinds
def test_verify_finds_the_difference(make: Maker, draw: Draws) -> None:
    model = make()
    other = onnx.ModelProto()
    other.CopyFrom(model)
    builders.set_weight(other, "w2", -builders.weight(model, "w2"))
    assert oc.verify(model, other).worst > 0.1
    assert oc.verify(model, model).meets(0.0)


# ---------------------------------------------------------------------- nothing to see


@hopeless
@pytest.mark.parametrize("asked", ["--threshold 0.7 --tolerance 0.01", "--budget error=0.01"])
def test_a_bound_on_nothing_is_not_met(make: Maker, asked: str, cli: Cli, save: Save) -> None:
    save(make())
    said = cli.fails(1, "m.onnx", *asked.split())
    assert "nothing comparable" in said
    assert "--data" in said


@hopeless
@pytest.mark.parametrize("asked", ["--threshold 0.7", "--budget params=0.6"])
def test_where_only_what_is_inside_was_compared_the_error_is_unknown(
    make: Maker, asked: str, cli: Cli, save: Save
) -> None:
    """The rewrite is proved by intermediate tensors."""
    save(make())
    outcome = cli.ok("m.onnx", *asked.split(), "--align", "1", "--report", "r.json")
    assert "unknown" in outcome.out
    assert "--data" in outcome.err
    assert read("r.json")["verification"]["approximation_error"] is None


@pytest.mark.parametrize("asked", ["--threshold 0.7", "--budget params=0.6", "--budget error=0.01"])
def test_nothing_is_written_where_nothing_at_all_was_compared(asked: str, cli: Cli, save: Save) -> None:
    save(vacuous.nothing_inside())
    said = cli.fails(1, "m.onnx", "--align", "1", *asked.split())
    assert "nothing comparable" in said
    assert "--data" in said


@hopeless
def test_what_stays_as_it_is_needs_no_proof(make: Maker, cli: Cli, save: Save) -> None:
    save(make())
    assert cli.ok("m.onnx", "--threshold", "0.9999", "-o", "o.onnx").written == {"o.onnx"}


@hopeless
def test_verify_passes_nothing_that_it_did_not_see(make: Maker, cli: Cli, save: Save) -> None:
    save(make())
    assert not oc.verify("m.onnx", "m.onnx").meets(1.0)
    outcome = cli.run("verify", "m.onnx", "m.onnx")
    assert outcome.code == 1
    assert "nothing comparable" in outcome.error


def test_given_data_must_say_something_too() -> None:
    model, options = vacuous.logarithm(), oc.Options(threshold=0.7, align=1)
    negative = {"x": -np.ones(SHAPE, dtype=np.float32)}
    equal = {"x": np.ones(SHAPE, dtype=np.float32)}
    for data in (negative, equal):
        assert not oc.verify(model, model, data).told
        with pytest.raises(oc.VerificationError, match="nothing comparable"):
            oc.condense(model, oc.Options(threshold=0.7, tolerance=0.1, align=1, data=data))
    data = {"x": positive(np.random.default_rng(0)).astype(np.float32)}
    assert is_smaller(oc.condense(model, oc.Options(threshold=0.7, align=1, data=data)))
    assert is_smaller(oc.condense(model, options))


def test_a_single_sample_need_only_be_finite() -> None:
    model = vacuous.logarithm()
    assert oc.verify(model, model, {"x": np.full((1, vacuous.FEATURES), 2, np.float32)}).told
    assert not oc.verify(model, model, {"x": np.full((1, vacuous.FEATURES), -2, np.float32)}).told


def test_a_constant_output_beside_one_that_varies_is_no_problem() -> None:
    text = "g (float[N, 4] x) => (float[N, 4] y, float[2] c) { y = Relu(x) c = Identity(k) }"
    model = builders.build(text, {"k": np.ones(2, np.float32)})
    assert oc.verify(model, model).told


def test_no_outputs_of_numbers_are_no_empty_table(cli: Cli, save: Save) -> None:
    text = "g (float[N, 4] x) => (optional(float[N, 4]) y) { y = Optional<type = float[N, 4]>() }"
    save(builders.build(text, opset=18))
    assert "nothing comparable" in cli.fails(1, "verify", "m.onnx", "m.onnx")


# ---------------------------------------------------------------------- other draws


@pytest.mark.parametrize("make", [vacuous.logarithm, vacuous.inverse_cosine, vacuous.saturated, vacuous.dead])
def test_other_inputs_are_drawn_the_same_ones_each_time(make: Maker) -> None:
    model = make()
    first, again = (draw_feeds(model, input_specs(model), None, {}, 0) for _ in range(2))
    assert first.told
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(first.feeds, again.feeds, strict=True))
    other = draw_feeds(model, input_specs(model), None, {}, 1)
    assert not np.array_equal(first.feeds[0]["x"], other.feeds[0]["x"])


def test_signed_inputs_stay_where_they_say_something() -> None:
    model = builders.mlp((8, 16, 3))
    drawn = draw_feeds(model, input_specs(model), None, {}, 0)
    assert np.array_equal(drawn.feeds[0]["x"], np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32))
    assert drawn.told


@pytest.mark.parametrize("batch", ["N", "1"])
def test_labels_are_many_where_nothing_else_is_compared(batch: str) -> None:
    model = builders.build(f"g (float[{batch}, 4] x) => (int64[{batch}] y) {{ y = ArgMax<axis = 1, keepdims = 0>(x) }}")
    drawn = draw_feeds(model, input_specs(model), None, {}, 0)
    assert sum(len(feed["x"]) for feed in drawn.feeds) == 256


def test_integers_are_drawn_larger_where_small_ones_say_nothing() -> None:
    text = "g (int64[N, 4] x) => (int64[N, 4] y) { k = Constant<value = int64 {50}>() y = Div(x, k) }"
    model = builders.build(text)
    drawn = draw_feeds(model, input_specs(model), None, {}, 0)
    assert drawn.told
    assert max(feed["x"].max() for feed in drawn.feeds) >= 50


# ---------------------------------------------------------------------- sequences, maps, strings


def test_maps_are_compared_by_sorted_keys() -> None:
    text = "g (float[N, 3] x) => (seq(map(int64, float[])) y) {{ y = ai.onnx.ml.ZipMap<classlabels_int64s = {}>(x) }}"
    a, b = (builders.build(text.format(keys), domains=vacuous.ML, check=False) for keys in ([2, 0, 1], [2, 0, 3]))
    data = {"x": np.array([[1, 2, 3], [4, 5, 6]], np.float32)}
    same = oc.verify(a, a, data)
    assert [(o.name, o.dtype) for o in same.outputs] == [("y", "float32"), ("y (keys)", "int64")]
    assert same.error == 0
    assert oc.verify(a, b, data).mismatched == ("y (keys)",)


def split(value: str, axis: int = 1) -> onnx.ModelProto:
    """Parts of one column each, or of one row."""
    body = f"v = {value} y = SplitToSequence<axis = {axis}, keepdims = 1>(v)"
    return builders.build(f"g (float[N, 4] x) => (seq(float[A, B]) y) {{ {body} }}", check=False)


def test_tensors_of_a_sequence_are_compared_each() -> None:
    data = {"x": np.array([[1, 2, 2, -4]], np.float32)}
    assert oc.verify(split("Identity(x)"), split("Abs(x)"), data).error == pytest.approx(8 / 5)


def test_a_sequence_that_is_longer_exceeds_every_tolerance() -> None:
    assert oc.verify(split("Identity(x)", 0), split("Concat<axis = 0>(x, x)", 0)).error == np.inf


def test_strings_are_counted() -> None:
    found = compare([{"y": np.array(["a", "bc", "d", "e"])}], [{"y": np.array(["a", "b", "d", "e"])}])
    assert found.error == 0.25
    assert found.outputs[0].dtype == "string"
    assert compare([{"y": np.array(["1"])}], [{"y": np.array([1])}]).error == np.inf


def test_what_the_error_is_stands_beside_it(cli: Cli, save: Save) -> None:
    save(vacuous.labels())
    printed = cli.ok("m.onnx", "--threshold", "0.7", "--align", "1", "--report", "r.json", "-o", "o.onnx").out
    assert "share of y that changed" in printed
    assert read("r.json")["verification"]["integer_outputs_changed"] == ["y"]


def test_few_calibration_inputs_that_move_no_output_say_nothing_and_fit_nothing() -> None:
    """Of five, one is held back, which says something where it differs from the others."""
    inputs = {"x": np.full((5, 4, 6, 6), 1e-30, np.float32)}
    given = oc.Options(budget=("params", 0.7), align=1, calibration=inputs)
    result = oc.condense(builders.separable(8, 4), given)
    verification = result.report.verification
    assert verification is not None
    assert np.isnan(verification.approximation_error)
    assert not any(refit.source == Evidence.CALIBRATION for refit in result.plan.refits)


def test_places_of_an_image_are_no_samples() -> None:
    """Six images, the same ones, of six by six places."""
    model = builders.separable(8, 4, size=6)
    assert not oc.verify(model, model, {"x": np.full((6, 4, 6, 6), 1e-30, np.float32)}).told
    assert oc.verify(model, model, {"x": builders.random(6, 4, 6, 6)}).told
