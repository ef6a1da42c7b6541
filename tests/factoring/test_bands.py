"""Frequent rows of a table keep more numbers than the others: chosen by tokens that were counted, exact, replayed."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from support import builders
from support.fused_bert import TOKENS, FusedBert

import onnx_condense as oc
from onnx_condense import Options
from onnx_condense.arrays import Array
from onnx_condense.factoring.bands import divided
from onnx_condense.factoring.spectrum import spectrum
from onnx_condense.factoring.weights import factorable
from onnx_condense.merging.factors import Bands, Factor
from onnx_condense.merging.twin import Twin
from onnx_condense.model.protos import serialize
from onnx_condense.prepare import open_model
from onnx_condense.proving.compare import compare, results
from onnx_condense.rewriting.writer import write

ROWS, WIDTH = 600, 32
ROUNDING = 1e-6
"""Relative, of products in float32."""


def table(seed: int = 0) -> Array:
    """Rows that lie in no few directions."""
    return builders.random(ROWS, WIDTH, seed=seed) * (0.97 ** np.arange(WIDTH)).astype(np.float32)


def encoder(asked: str, made: str, opset: int = 17) -> onnx.ModelProto:
    """A table, and what is no linear map of it."""
    text = f"g ({asked} x) => ({made} y) {{ e = Gather(w, x) t = Tanh(e) y = MatMul(t, v) }}"
    return builders.build(text, {"w": table(), "v": builders.random(WIDTH, 4, seed=1)}, opset=opset)


def sentences(count: int, seed: int = 0) -> dict[str, Array]:
    """Inputs that ask for few rows most of the time."""
    drawn = np.random.default_rng(seed).zipf(1.3, 20 * count * 6)
    return {"x": drawn[drawn <= ROWS][: count * 6].reshape(count, 6).astype(np.int64) - 1}


MODEL = encoder("int64[N, 6]", "float[N, 6, 4]")
HALF = Options(budget=("params", 0.5), align=1, include=("w",), calibration=sentences(96))


@cache
def halved() -> oc.Result:
    """Of half its parameters."""
    return oc.condense(MODEL, HALF)


def test_frequent_rows_keep_more_where_that_loses_less() -> None:
    result = halved()
    (factor,) = result.plan.factors
    assert factor.bands is not None
    assert factor.bands.rare < factor.rank
    size, whole = result.report.output, result.report.input
    assert size is not None
    assert 0.45 < (size.parameters + ROWS) / whole.parameters <= 0.5, "places are counted, too"
    (pair,) = result.report.pairs
    assert (pair.rank, pair.rare, pair.frequent) == (factor.rank, factor.bands.rare, len(factor.bands.frequent))
    alike = Twin(open_model(MODEL, HALF).trace)
    alike.factor(replace(factor, basis=factor.basis[:, : WIDTH * 2 // 5], bands=None))
    held = [sentences(64, 9)]
    expected = results(MODEL, held)
    found = [compare(expected, results(model, held)).error for model in (result.model, write(alike, {}).model)]
    assert found[0] < 0.8 * found[1]


def test_rows_that_are_read_alike_keep_alike() -> None:
    """A law that is wrong does not divide them, and none does where nothing was counted."""
    drawn = np.random.default_rng(3).integers(0, ROWS, (96, 6))
    for calibration in ({"x": drawn}, None):
        plan = oc.condense(MODEL, replace(HALF, calibration=calibration)).plan
        assert all(factor.bands is None for factor in plan.factors)


def test_what_is_said_to_be_lost_is_lost() -> None:
    shares = (3.0 + np.random.default_rng(0).permutation(ROWS)) ** -2.0
    found = spectrum(table().T, shares)
    known = divided(table().T, shares, found, 29, 128)
    differing = np.flatnonzero(known.kept[:, 2])
    assert len(differing) > 10
    assert np.all(np.diff(known.lost, 2)[1:28] > -1e-9)
    for rank in differing.tolist():
        basis, bands = known.at(rank)
        numbers = basis.T @ table().T
        assert bands is not None
        bands.cut(numbers, np.arange(ROWS))
        gap = np.sqrt(shares) @ ((basis @ numbers).T - table()) ** 2
        lost = gap.sum() / (np.sqrt(shares) @ table() ** 2).sum()
        assert known.lost[rank] <= lost * 1.02 + 1e-3
        assert lost < spectrum(table().T, np.sqrt(shares)).lost[rank]
        size = ROWS * bands.rare + (len(bands.frequent) + 1) * (basis.shape[1] - bands.rare) + WIDTH * basis.shape[1]
        assert size + ROWS + 128 <= rank * (ROWS + WIDTH)


FORMS = {
    "sentences": ("int64[N, 6]", "float[N, 6, 4]", np.array([[0, 5, -1, 599, 7, -600]])),
    "int32": ("int32[N, 6]", "float[N, 6, 4]", np.array([[0, 5, -1, 599, 7, -600]], dtype=np.int32)),
    "one token": ("int64[N]", "float[N, 4]", np.array([5, 6, -1])),
    "paragraphs": ("int64[N, 2, 3]", "float[N, 2, 3, 4]", np.array([[[0, 5, -1], [599, 7, -600]]])),
}


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("form", FORMS)
def test_the_small_model_is_the_twin(form: str, opset: int) -> None:
    asked, made, ids = FORMS[form]
    model = encoder(asked, made, opset)
    trace = open_model(model, Options()).trace
    (weight,) = [one for one in factorable(trace) if one.lookup]
    basis = np.linalg.qr(builders.random(WIDTH, 20))[0]
    twin = Twin(trace)
    twin.factor(weight.factor(twin, basis, None, Bands(np.array([5, 7, 599]), 4)))
    small, whole = (write(twin, {}, expanded).model for expanded in (False, True))
    onnx.checker.check_model(small, full_check=True)
    assert compare(results(whole, [{"x": ids}]), results(small, [{"x": ids}])).error < ROUNDING
    assert compare(results(model, [{"x": ids}]), results(small, [{"x": ids}])).error > 0.1


def test_fused_blocks_stay_but_for_the_table() -> None:
    opened = open_model(FusedBert().model(), Options())
    words = next(one for one in factorable(opened.trace) if one.inputs == TOKENS)
    twin = Twin(opened.trace)
    basis = np.linalg.qr(builders.random(words.outputs, 9))[0]
    twin.factor(words.factor(twin, basis, None, Bands(np.array([1, 5, 30]), 4)))
    small, whole = (write(twin, {}, expanded).model for expanded in (False, True))
    assert compare(results(whole, opened.feeds), results(small, opened.feeds)).error < ROUNDING
    assert {node.op_type for node in small.graph.node} >= {"Attention", "SkipLayerNormalization"}


def test_a_plan_replays(tmp_path: Path) -> None:
    result = halved()
    result.plan.save(tmp_path / "p.json")
    loaded = oc.Plan.load(tmp_path / "p.json")
    assert loaded.factors == result.plan.factors
    assert json.loads((tmp_path / "p.json").read_text())["version"] == 5
    assert serialize(oc.rewrite(MODEL, loaded)) == serialize(result.model)


def damaged(factor: Factor) -> dict[str, Factor]:
    """Factors that no run gives."""
    assert factor.bands is not None
    frequent, rare = factor.bands.frequent, factor.bands.rare
    others = {
        "unordered": Bands(frequent[::-1].copy(), rare),
        "twice": Bands(np.concatenate([frequent[:1], frequent]), rare),
        "beyond": Bands(np.concatenate([frequent, [ROWS]]), rare),
        "none": Bands(frequent[:0], rare),
        "parts": Bands(frequent + 0.5, rare),
        "full": Bands(frequent, factor.rank),
    }
    return {name: replace(factor, bands=bands) for name, bands in others.items()}


def test_damaged_rows_are_noticed(tmp_path: Path) -> None:
    plan = halved().plan
    for name, factor in damaged(plan.factors[0]).items():
        replace(plan, factors=(factor,)).save(tmp_path / f"{name}.json")
        with pytest.raises(oc.PlanError, match="the frequent rows of w are none of a table"):
            oc.rewrite(MODEL, oc.Plan.load(tmp_path / f"{name}.json"))


def test_only_tables_have_rows() -> None:
    model = builders.build(
        "g (float[N, 40] x) => (float[N, 30] y) { y = MatMul(x, w) }", {"w": builders.random(40, 30)}
    )
    trace = open_model(model, Options()).trace
    (weight,) = factorable(trace)
    twin = Twin(trace)
    with pytest.raises(ValueError, match="none of a table"):
        twin.factor(weight.factor(twin, np.eye(30, 9), None, Bands(np.array([1, 2]), 3)))
