"""Models that are run stretch by stretch give what they give as a whole, and no stretch is run without need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper
from support.networks import images, residual

from onnx_condense.errors import InputError
from onnx_condense.options import Options
from onnx_condense.planning import stand, stretches
from onnx_condense.planning.fewer_heads import losses as losses_of
from onnx_condense.planning.run import Run
from onnx_condense.planning.stand import Stand
from onnx_condense.planning.stretches import Stretch
from onnx_condense.planning.written import judged
from onnx_condense.prepare import Clock, open_model
from onnx_condense.proving import losses
from onnx_condense.proving.compare import results
from onnx_condense.refitting.refit import refit_by
from onnx_condense.rewriting.writer import write

FEEDS = [{"x": images(count, count)} for count in (4, 3)]

HELD_ROUNDS = 1e-6
"""What a loss changes by, of itself, where weights are held and not fed."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(stretches, "LAYERS", 1)
    return Run.of(open_model(residual(), Options(budget=("params", 0.6), align=1)), 1, Clock(None))


def test_a_choice_loses_what_its_model_loses(run: Run) -> None:
    tried, groups = Stand(run.planner, run.estimate, FEEDS), run.planner.groups
    expected = results(run.opened.source.proto, FEEDS)
    assert len(groups) > 1
    for narrowed in ([groups[0]], groups, [groups[-1]], groups[:2], groups, [groups[0]]):
        gone = {group.index: np.arange(0, len(group.units), 3) for group in narrowed}
        twin = run.planner.without(gone)
        refit_by(twin, run.estimate)
        wanted = losses.lost(expected, results(write(twin, {}).model, FEEDS))
        assert wanted > 0
        assert tried.lost(gone) == pytest.approx(wanted, rel=1e-3)
        assert judged(twin, losses_of(run.opened, FEEDS)) == pytest.approx(wanted, rel=1e-3)
        other = tried.on(FEEDS[1:])
        assert other.lost(gone) == pytest.approx(
            losses.lost(expected[1:], results(write(twin, {}).model, FEEDS[1:])), rel=1e-3
        )


def test_only_what_follows_a_change_is_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "FIXED", 0)  # weights that are held round differently
    tried, runs = Stand(run.planner, run.estimate, FEEDS), list[Stretch]()
    once = Stretch.run

    def counted(self: Stretch, *given: Any) -> Any:
        runs.append(self)
        return once(self, *given)

    monkeypatch.setattr(Stretch, "run", counted)
    monkeypatch.setattr(stand, "SMALL", 0)
    last = max(run.planner.groups, key=lambda group: min(slot.node for slot in run.opened.trace.slots_of(group)))
    gone = {last.index: np.arange(0, len(last.units), 3)}
    one = tried.lost(gone)
    few = len(runs)
    tried.lost({group.index: np.arange(0, len(group.units), 3) for group in run.planner.groups})
    assert few < len(runs) - few, "what comes before it is known"
    runs.clear()
    assert tried.lost(gone) == one
    assert len(runs) == len(FEEDS), "the last stretch alone"


@pytest.mark.parametrize(("largest", "held"), [(stretches.FIXED, 1), (0, 0)])
def test_weights_that_are_fed_again_are_held(
    largest: int, held: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model in one stretch, whose outputs are not remembered."""
    monkeypatch.setattr(stretches, "FIXED", largest)
    monkeypatch.setattr(stretches, "KEPT", 0)
    monkeypatch.setattr(stand, "SMALL", 0)
    tried, opened, once = Stand(run.planner, run.estimate, FEEDS), list[Any](), stretches.session
    monkeypatch.setattr(stretches, "session", lambda *given, **how: opened.append(given) or once(*given, **how))
    gone = [{group.index: np.arange(0, len(group.units), 3)} for group in run.planner.groups]
    fed = [tried.lost(one) for one in gone]
    assert not opened
    assert [tried.lost(gone[0]) for _ in range(3)] == pytest.approx([fed[0]] * 3, rel=HELD_ROUNDS * held)
    assert len(opened) == held
    assert tried.lost(gone[1]) == pytest.approx(fed[1], rel=HELD_ROUNDS * held)
    assert tried.lost(gone[0]) == pytest.approx(fed[0], rel=HELD_ROUNDS * held)


def test_constants_that_nodes_make_are_made_where_they_are_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exported models copy weights that are alike at their beginning, and read sizes there."""
    model, runs = residual(), list[Stretch]()
    nodes, last = model.graph.node, model.graph.node[-1]
    sizes = ("Shape", ["x"], "all"), ("Gather", ["all", "zero"], "first"), ("Concat", ["first", "rest"], "flat")
    nodes.insert(0, helper.make_node("Identity", [last.input[2]], ["copied"]))
    for place, (kind, reads, makes) in enumerate(sizes, 1):
        nodes.insert(place, helper.make_node(kind, reads, [makes], **({} if kind == "Shape" else {"axis": 0})))
    last.input[2], whole = "copied", last.output[0]
    last.output[0] = "made"
    nodes.append(helper.make_node("Reshape", ["made", "flat"], [whole]))
    for name, number in (("zero", 0), ("rest", -1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([number], np.int64), name))
    other = Run.of(open_model(model, run.options), 1, Clock(None))
    tried = Stand(other.planner, other.estimate, FEEDS)
    once = Stretch.run
    monkeypatch.setattr(Stretch, "run", lambda self, *given: runs.append(self) or once(self, *given))
    gone = {group.index: np.arange(0, len(group.units), 3) for group in run.planner.groups}
    assert tried.lost(gone) == pytest.approx(Stand(run.planner, run.estimate, FEEDS).lost(gone), rel=1e-3)
    stretched = list(dict.fromkeys(stretch for stretch in runs if stretch.model.graph.node[0].op_type == "Identity"))
    assert len(stretched) > 2
    assert not any("copied" in stretch.reads for stretch in stretched)


def test_what_would_take_too_much_memory_is_not_divided(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {group.index: np.arange(0, len(group.units), 3) for group in run.planner.groups}
    wanted = Stand(run.planner, run.estimate, FEEDS).lost(gone)
    for limit in ("KEPT", "DIVIDED"):
        with monkeypatch.context() as patched:
            patched.setattr(stretches, limit, 0)
            assert Stand(run.planner, run.estimate, FEEDS).lost(gone) == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("refused", [False, True])
def test_what_does_not_run_in_stretches_runs_as_a_whole(
    refused: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime may refuse a part of a model, or weights that are fed."""
    gone = {group.index: np.arange(0, len(group.units), 3) for group in run.planner.groups}
    wanted = Stand(run.planner, run.estimate, FEEDS).lost(gone)
    once = Stretch.run

    def picky(self: Stretch, known: Any, choice: Any, *key: Any) -> Any:
        if self.nodes.start and (refused or self.fed.changes(choice)):
            raise InputError("no kernel")
        return once(self, known, choice, *key)

    monkeypatch.setattr(Stretch, "run", picky)
    assert Stand(run.planner, run.estimate, FEEDS).lost(gone) == pytest.approx(wanted, rel=1e-3)
