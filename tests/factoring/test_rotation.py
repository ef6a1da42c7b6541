"""Streams in another basis: exact deficiencies go without loss, budgets with data lose less than by channels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support import builders
from support.models import weights

import onnx_condense as oc
from onnx_condense import Options, pipeline
from onnx_condense.arrays import Array
from onnx_condense.model.protos import serialize
from onnx_condense.proving.surgery import prove

LOSSLESS = Options(lossless=True, align=1)


def low(*shape: int, rank: int, axis: int = 0, seed: int = 0) -> Array:
    """A weight of this shape that an axis enters through so many directions."""
    generator = np.random.default_rng(seed)
    rest = [size for place, size in enumerate(shape) if place != axis]
    found = np.tensordot(generator.standard_normal((shape[axis], rank)), generator.standard_normal((rank, *rest)), 1)
    return np.moveaxis(found / np.sqrt(rank), 0, axis).astype(np.float32)


def pair(first: Array, second: Array) -> onnx.ModelProto:
    text = "g (float[N, 12] x) => (float[N, 10] y) { a = MatMul(x, w) h = Add(a, b) c = MatMul(h, v) y = Tanh(c) }"
    bias = first.T @ builders.random(12, seed=5)
    return builders.build(text, {"w": first, "b": bias.astype(np.float32), "v": second})


def bottleneck(rank: int, seed: int = 0, width: int = 12) -> onnx.ModelProto:
    """Two projections with BatchNormalization into a stream of so many directions, and readers."""
    text = """g (float[N, 9, 6, 6] x) => (float[N, 10, 6, 6] y) {
        p = Conv(x, w0, b0) q = BatchNormalization(p, s0, t0, m0, v0)
        e = Conv(q, w1) r = Relu(e) d = Conv(r, w2) n = BatchNormalization(d, s1, t1, m1, v1)
        k = Add(q, n) f = Conv<pads = [1, 1, 1, 1]>(k, w3) y = Relu(f)
    }"""
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0][:, :rank]
    made: dict[str, Array] = {}
    for number, inner in ((0, 9), (1, 14)):
        scale = 0.5 + np.random.default_rng(number).random(width)
        wanted = turn @ builders.random(rank, inner, seed=number)
        made |= {
            f"s{number}": scale,
            f"v{number}": np.full(width, 1 - 1e-5),
            f"t{number}": turn @ builders.random(rank, seed=7 + number),
            f"m{number}": np.zeros(width),
            ("w0" if number == 0 else "w2"): (wanted / scale[:, None])[:, :, None, None],
        }
    made |= {
        "b0": np.zeros(width),
        "w1": builders.random(14, width, 1, 1, seed=3),
        "w3": builders.random(10, width, 3, 3, seed=4),
    }
    return builders.build(text, {name: np.asarray(value, np.float32) for name, value in made.items()})


@pytest.mark.parametrize(
    ("model", "before", "after"),
    [
        (pair(low(12, 16, rank=5, axis=1), builders.random(16, 10, seed=2)), 16, 5),
        (pair(builders.random(12, 16), low(16, 10, rank=5, seed=2)), 16, 5),
        (pair(low(12, 16, rank=9, axis=1), low(16, 10, rank=4, seed=2)), 16, 4),
        (bottleneck(5), 12, 5),
    ],
    ids=["writer", "reader", "both", "bottleneck"],
)
def test_exact_deficiencies_go(model: onnx.ModelProto, before: int, after: int) -> None:
    result = oc.condense(model, LOSSLESS)
    found = [(group.width, len(group.keep)) for group in result.plan.groups]
    assert (before, after) in found
    assert len(result.plan.rotations) == 1
    verification = result.report.verification
    assert verification is not None
    assert verification.approximation_error < 1e-5
    assert verification.surgery_error < 1e-5


def test_what_fills_all_directions_stays() -> None:
    model = pair(builders.random(12, 10), builders.random(10, 10, seed=2))
    result = oc.condense(model, LOSSLESS)
    assert not result.changed
    assert not result.plan.rotations


def test_a_function_on_the_way_binds_channels() -> None:
    text = "g (float[N, 12] x) => (float[N, 10] y) { a = MatMul(x, w) h = Relu(a) c = MatMul(h, v) y = Tanh(c) }"
    made = {"w": low(12, 16, rank=5, axis=1), "v": builders.random(16, 10, seed=2)}
    assert not oc.condense(builders.build(text, made), LOSSLESS).plan.rotations


def test_replayed_it_is_the_same(tmp_path: Path) -> None:
    model = bottleneck(5)
    result = oc.condense(model, LOSSLESS)
    result.plan.save(tmp_path / "p.json")
    loaded = oc.Plan.load(tmp_path / "p.json")
    assert serialize(oc.rewrite(model, loaded)) == serialize(result.model)
    assert serialize(oc.condense(model, replay=loaded).model) == serialize(result.model)


def test_where_another_basis_is_not_proved_channels_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    proofs: list[Any] = []

    def proved(*given: Any) -> Any:
        proofs.append(given)
        if len(proofs) == 1:
            raise oc.VerificationError("planted")
        return prove(*given)

    monkeypatch.setattr(pipeline, "prove", proved)
    result = oc.condense(bottleneck(5), LOSSLESS)
    assert not result.plan.rotations


def test_only_widths_change_where_that_is_asked() -> None:
    assert not oc.condense(bottleneck(5), replace(LOSSLESS, widths_only=True)).plan.rotations


def test_data_that_is_the_same_for_all_channels_binds_them() -> None:
    text = """g (float[N, 12] x, float[N, 1] z) => (float[N, 10] y) {
        a = MatMul(x, w) h = Add(a, z) c = MatMul(h, v) y = Tanh(c) }"""
    model = builders.build(text, {"w": low(12, 16, rank=5, axis=1), "v": builders.random(16, 10, seed=2)})
    result = oc.condense(model, LOSSLESS)
    assert not result.plan.rotations


def test_a_basis_of_another_model_is_noticed() -> None:
    model = bottleneck(5)
    plan = oc.condense(model, LOSSLESS).plan
    (rotation,) = plan.rotations
    writers = (replace(rotation.writers[0], weight="nothing"), *rotation.writers[1:])
    with pytest.raises(oc.PlanError, match="no weight nothing"):
        oc.rewrite(model, replace(plan, rotations=(replace(rotation, writers=writers),)))


def test_a_budget_with_data_takes_directions() -> None:
    model = bottleneck(12)
    images = np.random.default_rng(1).standard_normal((80, 9, 6, 6)).astype(np.float32)
    images[:, 4:] = images[:, :5] + 0.05 * images[:, 4:]
    options = Options(budget=("params", 0.7), align=1, calibration={"x": images}, include=("w0",))
    result = oc.condense(model, options)
    assert len(result.plan.rotations) == 1
    assert result.report.output is not None
    assert result.report.output.parameters <= 0.7 * result.report.input.parameters
    assert {value.shape[0] for name, value in weights(result.model).items() if name.startswith("w0")} != {12}


def test_calibration_inputs_are_asked_for_once() -> None:
    """A turned model is opened anew; what gave its inputs is exhausted by then."""
    images = np.random.default_rng(1).standard_normal((80, 9, 6, 6)).astype(np.float32)
    given = ({"x": part} for part in np.array_split(images, 2))
    result = oc.condense(bottleneck(12), Options(budget=("params", 0.7), align=1, calibration=given, include=("w0",)))
    assert len(result.plan.rotations) == 1
    assert not result.report.verification or not result.report.verification.generated
