"""Pairs of factors under a budget: chosen where they lose least, replayed, and refused where they do not pay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from support import builders
from support.models import weights

import onnx_condense as oc
import onnx_condense.merging.factors
from onnx_condense import Options
from onnx_condense.arrays import Array
from onnx_condense.factoring.spectrum import spectrum
from onnx_condense.factoring.tokens import frequencies
from onnx_condense.factoring.weights import factorable
from onnx_condense.goals import Unit
from onnx_condense.merging.factors import Factor
from onnx_condense.merging.twin import Twin
from onnx_condense.model import held
from onnx_condense.model.protos import serialize
from onnx_condense.planning import ranks
from onnx_condense.planning.allocation import Curve, PricedPair, PricedWeight, allocate
from onnx_condense.planning.fewer_heads import losses
from onnx_condense.planning.narrowing import ways_of
from onnx_condense.planning.run import Run
from onnx_condense.planning.stand import Basis, Stand
from onnx_condense.planning.units import Units
from onnx_condense.planning.written import judged
from onnx_condense.prepare import Clock, open_model

TOKENS = 300


def decaying(*shape: int, seed: int = 0, fall: float = 0.8) -> Array:
    """A weight whose singular values fall."""
    generator = np.random.default_rng(seed)
    left, _ = np.linalg.qr(generator.standard_normal((shape[0], min(shape))))
    right, _ = np.linalg.qr(generator.standard_normal((shape[1], min(shape))))
    return (4 * left * fall ** np.arange(min(shape)) @ right.T).astype(np.float32)


def encoder(tokens: int = TOKENS) -> onnx.ModelProto:
    """A table of embeddings, LayerNormalization of what is no linear map of it, and a head: no channels can go."""
    text = """g (int64[N, 6] x) => (float[N, 6, 8] y) {
        e = Gather(w, x) t = Tanh(e) h = LayerNormalization<axis = -1>(t, s, o) y = MatMul(h, v)
    }"""
    made = {"w": decaying(tokens, 32, fall=0.95), "s": np.ones(32, np.float32), "o": np.zeros(32, np.float32)}
    return builders.build(text, made | {"v": builders.random(32, 8, seed=1)})


def sentences(count: int, seed: int = 0) -> dict[str, Array]:
    """Inputs of which some tokens are frequent: the last ones, where Zipf's law says the first."""
    tokens = TOKENS - 1 - np.random.default_rng(seed).geometric(0.1, (count, 6)) % TOKENS
    return {"x": tokens.astype(np.int64)}


MODEL = encoder()
BUDGET = Options(budget=("params", 0.5), align=1)
TABLE = replace(BUDGET, include=("w",))


def error(model: onnx.ModelProto) -> float:
    from onnx_condense.proving.compare import compare, results

    feeds = [sentences(64, 9)]
    return compare(results(MODEL, feeds), results(model, feeds)).error


def test_a_table_reaches_a_share() -> None:
    result = oc.condense(MODEL, TABLE)
    assert result.report.output is not None
    share = result.report.output.parameters / result.report.input.parameters
    assert 0.46 < share <= 0.5
    (factor,) = result.plan.factors
    assert {value.shape for value in weights(result.model).values()} >= {(TOKENS, factor.rank), (factor.rank, 32)}
    assert [(p.layer, p.outputs, p.inputs, p.rank) for p in result.report.pairs] == [("w", 32, TOKENS, factor.rank)]


def test_calibration_counts_tokens() -> None:
    blind = oc.condense(MODEL, TABLE)
    counted = oc.condense(MODEL, replace(TABLE, calibration=sentences(128)))
    assert counted.plan.factors[0].source == "calibration"
    assert error(counted.model) < 0.8 * error(blind.model)


def test_rows_count_by_inputs_that_do_not_judge_and_in_the_end_by_all() -> None:
    run = Run.of(open_model(MODEL, replace(TABLE, calibration=sentences(128))), 1, Clock(None))
    calibration, (table,) = run.opened.calibration, [w for w in factorable(run.opened.trace) if w.lookup]
    _, rest = calibration.split(calibration.samples // 2)
    fewer, every = (frequencies(run.opened.trace, [table], part)[0] for part in (rest, calibration))
    ways = ways_of(run, Units(Unit.PARAMS), 0.5)
    assert len(ways.readings) > 2
    assert all(np.array_equal(reading.ranks.ranked[0].moments, fewer) for reading in ways.readings)
    assert np.array_equal(ways.least(0.5).ranks.ranked[0].moments, every)
    assert not np.array_equal(fewer, every)


@pytest.mark.parametrize("wanted", [True, False])
def test_whether_frequent_rows_keep_more_is_decided_by_what_is_lost_in_the_end(wanted: bool) -> None:
    run = Run.of(open_model(encoder(10 * TOKENS), replace(TABLE, calibration=sentences(200))), 1, Clock(None))
    ways = ways_of(run, Units(Unit.PARAMS), 0.5)
    assert len(ways.readings) == 2  # as many samples as these choose by themselves
    (key,) = ways.readings[0].ranks.undecided
    ways = replace(ways, lost=lambda twin: [f.bands is not None for f in twin.factors.values()] != [wanted])
    assert ways.least(0.5).ranks.ranked[key].differ is wanted


@pytest.mark.parametrize("little", [True, False])
def test_tables_give_less_than_what_saves_time_where_little_is_lost(little: bool) -> None:
    text = """g (int64[N, 6] x) => (float[N, 6, 8] y) {
        e = Gather(w, x) t = Tanh(e) h = LayerNormalization<axis = -1>(t, s, o)
        a = MatMul(h, u) r = Relu(a) y = MatMul(r, v)
    }"""
    made = {"w": decaying(TOKENS, 32, fall=0.95), "s": np.ones(32, np.float32), "o": np.zeros(32, np.float32)}
    model = builders.build(text, made | {"u": builders.random(32, 64), "v": builders.random(64, 8, seed=1)})
    options = replace(BUDGET, budget=("params", 0.5), calibration=sentences(200))
    run = Run.of(open_model(model, options), 1, Clock(None))
    ways = ways_of(run, Units(Unit.PARAMS), 0.5)
    (key,) = ways.readings[0].ranks.tables()
    place, unit = ways.readings[0].ranks.place(key), 1e-6 if little else 1.0

    def numbers(twin: Twin) -> float:
        """How many a row of the table keeps in the mean."""
        factor = twin.factors.get(place)
        if factor is None or factor.bands is None:
            return 32 if factor is None else factor.rank
        frequent = len(factor.bands.frequent) / TOKENS
        return frequent * factor.rank + (1 - frequent) * factor.bands.rare

    found = replace(ways, readings=ways.readings[:1], lost=lambda twin: unit * numbers(twin)).least(0.5)
    first, chosen = (numbers(one.at(0.5, one.aside)[0].twin) for one in (ways.readings[0], found))
    assert chosen > first if little else chosen <= first < 32


def test_replayed_it_is_the_same(tmp_path: Path) -> None:
    result = oc.condense(MODEL, replace(TABLE, calibration=sentences(128)))
    result.plan.save(tmp_path / "p.json")
    assert serialize(oc.rewrite(MODEL, oc.Plan.load(tmp_path / "p.json"))) == serialize(result.model)


def test_a_table_in_a_basis_loses_what_its_pair_loses() -> None:
    """Nothing is written for it, and rows that no input asks for are left alone."""
    run = Run.of(open_model(MODEL, TABLE), 1, Clock(None))
    feeds, (table,) = [sentences(20, 3), sentences(12, 4)], [w for w in factorable(run.opened.trace) if w.lookup]
    bases = [Basis(table, np.linalg.svd(table.matrix(run.planner.original))[0][:, :5])]
    twin = run.planner.without({})
    twin.factor(table.factor(twin, bases[0].vectors, None))
    tried = Stand(run.planner, run.estimate, feeds, [table])
    assert tried.takes(table)
    assert tried.lost({}, bases) == pytest.approx(judged(twin, losses(run.opened, feeds)), rel=1e-3) != 0
    other = tried.on(feeds[:1])
    assert other.lost({}, bases) == pytest.approx(judged(twin, losses(run.opened, feeds[:1])), rel=1e-3)


def test_looking_up_costs_no_macs() -> None:
    with pytest.raises(oc.VerificationError):
        oc.condense(MODEL, replace(TABLE, budget=("macs", 0.5)))


@pytest.mark.parametrize("unit", ["params", "macs"])
def test_a_dense_layer_becomes_a_pair_where_slicing_loses_more(unit: str) -> None:
    text = """g (float[N, 48] x) => (float[N, 48] y) {
        h = Gemm<transB = 1>(x, w, b) a = Softmax(h) y = Gemm(a, v, b)
    }"""
    made = {"w": decaying(48, 48, seed=2), "v": decaying(48, 48, seed=3), "b": builders.random(48)}
    model = builders.build(text, made)
    result = oc.condense(model, replace(BUDGET, budget=(unit, 0.6)))
    assert not result.plan.groups
    assert len(result.plan.factors) == 2
    verification = result.report.verification
    assert verification is not None
    assert verification.approximation_error < 0.2


def test_sizes_ask_for_no_basis_and_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, made, product = [], [], Factor.product
    monkeypatch.setattr(ranks, "spectrum", lambda *given: asked.append(len(given)) or spectrum(*given))
    monkeypatch.setattr(Factor, "product", lambda *given: made.append(len(given)) or product(*given))
    oc.condense(MODEL, TABLE)
    assert len(asked) == 1, "of the table as it was: no twin has another"
    assert len(made) == 3, "for the twin of either reading, and for the last one"


def test_large_tables_lie_in_files_while_pairs_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = serialize(oc.condense(MODEL, TABLE).model)
    for module in (held, onnx_condense.merging.factors):
        monkeypatch.setattr(module, "ROOM_FROM", 1000)
    given, room = [], held.room
    for module in (held, onnx_condense.merging.factors):
        monkeypatch.setattr(module, "room", lambda shape, kind: given.append(tuple(shape)) or room(shape, kind))
    assert serialize(oc.condense(MODEL, TABLE).model) == expected
    assert given.count((TOKENS, 32)) >= 4, "rows of one that is tried, and the products of three twins"


def test_never_slower_makes_no_pairs() -> None:
    with pytest.raises(oc.VerificationError, match="no layer can be narrower"):
        oc.condense(MODEL, replace(BUDGET, ensure_faster=True))


def test_a_pair_that_came_to_spare_little_is_given_up() -> None:
    """It spares 800 numbers of 2,000 at first, and 100 of the 600 that its layer has left in the end."""
    curves = {
        0: Curve(np.arange(90), 0.001 * np.arange(1, 91), np.arange(1, 91)),
        1: Curve(np.arange(19), np.full(19, 0.02), np.array([10])),
    }
    weights = [PricedWeight(1.0, (100, 20), ((-2, 0, 1.0),), PricedPair(1, 20, -2, 1.0))]
    assert allocate(curves, weights, 1200.0) == {0: 0, 1: 10}
    assert allocate(curves, weights, 500.0) == {0: 75}
