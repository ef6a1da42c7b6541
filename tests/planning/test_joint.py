"""Groups that are narrowed together: steps are priced where the steps before have led, on one session."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from support import builders
from support.attention import INPUTS, Attention
from support.networks import half_redundant

import onnx_condense as oc
from onnx_condense.factoring.weights import factorable
from onnx_condense.options import Options
from onnx_condense.planning import fewer_heads, stand, stretches
from onnx_condense.planning.allocation import Curve, PricedWeight, allocate
from onnx_condense.planning.joint import FURTHER, narrowed_together
from onnx_condense.planning.run import Run
from onnx_condense.planning.stand import Stand
from onnx_condense.planning.written import judged
from onnx_condense.prepare import Clock, open_model
from onnx_condense.proving import losses
from onnx_condense.proving.compare import results
from onnx_condense.refitting.refit import refit_by, refit_by_moments
from onnx_condense.refitting.samples import pieces
from onnx_condense.rewriting.writer import write

WIDTH = 32


def curve() -> Curve:
    """Channels that cost their consumers as much, each."""
    return Curve(np.arange(WIDTH - 1), np.arange(1.0, WIDTH), np.arange(1, WIDTH))


def two() -> tuple[dict[int, Curve], dict[int, int], list[PricedWeight]]:
    """Two groups of 32 channels, each with a weight of its own."""
    weights = [PricedWeight(1.0, (WIDTH, 10), ((0, group, 1.0),)) for group in (0, 1)]
    return {0: curve(), 1: curve()}, {0: WIDTH, 1: WIDTH}, weights


def test_what_goes_unfelt_alone_is_not_taken_from_all() -> None:
    """Either group may go for little, both may not; measured alone, both would look free."""

    def lose(gone: Mapping[int, int]) -> float:
        return gone[0] * gone[1] / WIDTH**2 + 1e-3 * (1.5 * gone[0] + gone[1]) / WIDTH

    curves, widths, weights = two()
    found = narrowed_together(curves, widths, weights, lose, 320.0)
    removed = allocate(found, weights, 340.0)
    assert lose(removed) < lose({0: 15, 1: 15}) / 5


def test_little_is_taken_from_many() -> None:
    """Where little is to go, steps are small: losses rise faster than what they save."""
    groups = range(10)
    weights = [PricedWeight(1.0, (WIDTH, 10), ((0, group, 1.0),)) for group in groups]

    def lose(gone: Mapping[int, int]) -> float:
        return sum(count**2 for count in gone.values()) / 1e4

    found = narrowed_together(dict.fromkeys(groups, curve()), dict.fromkeys(groups, WIDTH), weights, lose, 3040.0)
    assert max(allocate(found, weights, 3040.0).values()) <= 2


def test_a_dear_group_stays() -> None:
    curves, widths, weights = two()
    found = narrowed_together(curves, widths, weights, lambda gone: (gone[0] + 20 * gone[1]) / 1000, 400.0)
    removed = allocate(found, weights, 440.0)
    assert removed[0] > 4 * removed[1]
    assert all((np.diff(found[group].losses) >= 0).all() for group in found)


def test_what_saves_time_is_narrowed_further_where_others_save_none() -> None:
    curves, widths, weights = two()
    most = dict[bool, int]()
    for timeless in (False, True):
        tried: list[int] = []

        def lose(gone: Mapping[int, int], tried: list[int] = tried) -> float:
            tried.append(gone[0])
            return (2 * gone[0] + gone[1]) / 1000

        narrowed_together(curves, widths, weights, lose, 400.0, {1} if timeless else ())
        most[timeless] = max(tried)
    assert most[True] >= most[False] + FURTHER * 640 / 10


def test_what_cannot_be_narrowed_is_left_alone() -> None:
    curves, widths, weights = two()
    found = narrowed_together(curves, widths, weights, lambda gone: np.inf if gone[1] else gone[0] / 99, 400.0)
    assert allocate({0: found[0]}, weights, 500.0)[0] == 14


@pytest.fixture(params=["fed", "written"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    if request.param == "written":
        monkeypatch.setattr(stand, "APART_FROM", 0)
    return Run.of(open_model(half_redundant(), Options(budget=("params", 0.6), align=1)), 1, Clock(None))


def test_a_choice_loses_what_its_model_loses(run: Run) -> None:
    feeds = run.opened.feeds
    gone = {group.index: np.arange(0, len(group.units), 3) for group in run.planner.groups}
    twin = run.planner.without(gone)
    refit_by_moments(twin, run.estimate)
    expected, found = (results(write(one, {}).model, feeds) for one in (run.planner.original, twin))
    wanted = losses.lost(expected, found)
    tried = Stand(run.planner, run.estimate, feeds)
    assert tried.lost(gone) == pytest.approx(wanted, rel=1e-3)
    assert tried.lost({}) == pytest.approx(0.0, abs=1e-9)


def test_queries_and_keys_lose_what_their_model_loses() -> None:
    """Nothing reads them but a product: what it takes up, and what goes, is in rows of their own weights."""
    attention = Attention()
    attention.x = attention.net.node("Relu", attention.net.matmul("d", attention.x, attention.normal(INPUTS, INPUTS)))
    run = Run.of(open_model(attention.model(), Options(budget=("params", 0.6), align=1)), 1, Clock(None))
    tried, expected = Stand(run.planner, run.estimate, run.opened.feeds), run.expected
    groups = run.planner.groups
    assert any(run.opened.trace.pairs_of(group) for group in groups)
    for narrowed in (*([group] for group in groups), groups):
        gone = {group.index: np.arange(0, len(group.units), 3) for group in narrowed}
        twin = run.planner.without(gone)
        refit_by(twin, run.estimate)
        wanted = losses.lost(expected, results(write(twin, {}).model, run.opened.feeds))
        assert wanted > 0.01
        assert tried.lost(gone) == pytest.approx(wanted, rel=1e-3)
        assert judged(twin, fewer_heads.losses(run.opened, run.opened.feeds)) == pytest.approx(wanted, rel=1e-3)


def test_weights_in_a_basis_lose_what_their_pair_loses(run: Run) -> None:
    weights = list(factorable(run.opened.trace))
    bases = [stand.Basis(one, np.linalg.svd(one.matrix(run.planner.original))[0][:, :3]) for one in weights]
    gone = {group.index: np.arange(0, len(group.units), 3) for group in run.planner.groups}
    twin = run.planner.without(gone)
    refit_by(twin, run.estimate)
    for basis in bases:
        twin.factor(basis.weight.factor(twin, basis.vectors, None))
    tried = Stand(run.planner, run.estimate, run.opened.feeds, weights)
    wanted = run.lost(twin)
    assert wanted > 2 * tried.lost(gone)
    assert tried.lost(gone, bases) == pytest.approx(wanted, rel=1e-3)


def test_large_choices_are_not_remembered(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run.planner.groups[0]
    gone = {first.index: np.arange(0, len(first.units), 3)}
    tried = Stand(run.planner, run.estimate, run.opened.feeds)
    wanted = tried.lost(gone)
    refitted = []
    monkeypatch.setattr(stand, "KEPT", 0)
    monkeypatch.setattr(stand, "refit_by", lambda *given: refitted.append(refit_by(*given)))
    monkeypatch.setattr(stretches, "FIXED", 0)  # weights that are held round differently
    for most, times in ((stand.SMALL, 1), (0, 3)):
        monkeypatch.setattr(stand, "SMALL", most)
        other = Stand(run.planner, run.estimate, run.opened.feeds)
        assert [other.lost(gone), other.lost(gone)] == [wanted, wanted]
        assert len(refitted) == times, "outputs that are small are remembered, so that nothing is run twice"
    tried.close()
    assert tried.lost(gone) == pytest.approx(wanted, rel=1e-3), "a model is written for it then"


def test_samples_are_run_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_condense.refitting.samples.NUMBERS", 40)
    feed = {"x": np.arange(90.0).reshape(9, 10), "y": np.arange(9)}
    found = pieces([feed], divisible=True)
    assert [len(part["x"]) for part in found] == [3, 3, 3]
    assert np.array_equal(np.concatenate([part["y"] for part in found]), feed["y"])
    assert pieces([feed], divisible=False) == [feed]


@pytest.mark.parametrize(
    "model", [half_redundant(), builders.mlp((8, 24, 24, 3), clusters=6, noise=0.3), builders.convnet(batchnorm=True)]
)
def test_samples_that_none_can_be_held_back_from_change_nothing(model: onnx.ModelProto) -> None:
    """One to four samples cannot tell whether what was fitted to them is better: the result is the one without data."""
    (given,) = model.graph.input
    shape = [size.dim_value or 3 for size in given.type.tensor_type.shape.dim]
    data = {given.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    options = Options(budget=("params", 0.6), align=1)
    found, wanted = (oc.condense(model, one) for one in (Options(**(vars(options) | {"calibration": data})), options))
    assert [w.SerializeToString() for w in found.model.graph.initializer] == [
        w.SerializeToString() for w in wanted.model.graph.initializer
    ]
