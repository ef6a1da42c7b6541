"""Queries and keys in another basis: what varies least in their products goes, where any basis will do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.attention import INPUTS, PLACES, WIDTH, Attention
from support.attention_forms import ALIKE, FAST, fused, repeated, separate, with_rotations

import onnx_condense as oc
from onnx_condense import Options
from onnx_condense.arrays import Array
from onnx_condense.model.protos import serialize
from onnx_condense.proving.compare import compare, results


def planted(**heads: int) -> Attention:
    """Queries that vary less and less along directions which no channel lies on."""
    found, generator = Attention(**({"heads": heads} if heads else {})), np.random.default_rng(5)
    for head in range(found.heads["q"]):
        turn = np.linalg.qr(generator.standard_normal((WIDTH, WIDTH)))[0]
        fall, mine = turn @ np.diag(2.0 * 0.3 ** np.arange(WIDTH)) @ turn.T, slice(head * WIDTH, (head + 1) * WIDTH)
        for values in (found.rows["q"], found.bias["q"]):
            values[mine] = fall @ values[mine]
    return found


def data(model: onnx.ModelProto, count: int, seed: int) -> dict[str, Array]:
    values = np.random.default_rng(seed).standard_normal((count, PLACES, INPUTS))
    return {model.graph.input[0].name: values.astype(np.float32)}


def options(model: onnx.ModelProto) -> Options:
    return Options(budget=("params", 0.8), align=1, calibration=data(model, 96, 1))


def error(model: onnx.ModelProto, smaller: onnx.ModelProto) -> float:
    feeds = [data(model, 64, 9)]
    return compare(results(model, feeds), results(smaller, feeds)).error


@pytest.mark.parametrize(
    ("form", "heads", "sizes"),
    [(separate, {}, [12]), (fused, {}, [12, 36, 36]), (repeated, {"q": 4, "k": 2, "v": 2}, [24, 12])],
    ids=["separate", "fused", "shared keys"],
)
def test_what_varies_least_goes(
    form: Callable[[Attention], onnx.ModelProto], heads: dict[str, int], sizes: list[int]
) -> None:
    model = form(planted(**heads))
    turned, plain = (oc.condense(model, replace(options(model), widths_only=alone)) for alone in (False, True))
    assert [rotation.rank for rotation in turned.plan.rotations] == sizes
    assert error(model, turned.model) < 0.8 * error(model, plain.model)
    verification = turned.report.verification
    assert verification is not None
    assert verification.surgery_error < 1e-5


def test_replayed_it_is_the_same(tmp_path: Path) -> None:
    model = fused(planted())
    result = oc.condense(model, options(model))
    result.plan.save(tmp_path / "p.json")
    assert serialize(oc.rewrite(model, oc.Plan.load(tmp_path / "p.json"))) == serialize(result.model)


@pytest.mark.parametrize("frequencies", [FAST, ALIKE])
def test_rotations_by_places_bind_channels(frequencies: tuple[float, ...]) -> None:
    model = with_rotations(planted(), "halves", frequencies)
    assert not oc.condense(model, options(model)).plan.rotations


def test_what_multiplies_channels_binds_them() -> None:
    attention = planted()
    net, scale = attention.net, np.linspace(0.5, 2.0, 2 * WIDTH)
    queries = attention.by_head(net.node("Mul", attention.made("q"), net.constant(scale)), 2)
    model = attention.build(attention.attended(attention.scores(queries, attention.split("k")), attention.split("v")))
    assert not oc.condense(model, options(model)).plan.rotations
