"""Budgets: widths by what consumers lose per unit saved, never above the target; an error where it is out of reach."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from support import builders
from support.cli import Cli, Save
from support.networks import half_redundant
from support.planted.net import Net

import onnx_condense as oc
from onnx_condense.goals import Unit
from onnx_condense.merging.evidence import Evidence
from onnx_condense.model.protos import serialize
from onnx_condense.planning import narrowing
from onnx_condense.planning.allocation import Curve, cost
from onnx_condense.planning.budget import Known, Pruner, keep_share
from onnx_condense.planning.curves import LEAST
from onnx_condense.planning.narrowing import ToShare
from onnx_condense.planning.planned import NOTHING, Aside, Planned
from onnx_condense.planning.run import Run
from onnx_condense.planning.stand import Stand
from onnx_condense.planning.strategies import strategy_of
from onnx_condense.planning.units import COUNTINGS, Units
from onnx_condense.prepare import Clock, open_model
from onnx_condense.refitting.elimination import eliminate
from onnx_condense.refitting.samples import Calibration, Shard


def pruner(model: onnx.ModelProto, options: oc.Options) -> Pruner:
    """What narrows the model to a share."""
    strategy = strategy_of(Run.of(open_model(model, options), 1, Clock(None)), None, None)
    assert isinstance(strategy, ToShare)
    return strategy.pruner


def of_groups(narrows: Pruner) -> dict[int, Curve]:
    """The curves of groups, without those of pairs of factors."""
    return {index: curve for index, curve in narrows.curves.items() if index not in narrows.ranks.ranked}


def widths(result: oc.Result) -> dict[str, int]:
    return {g.layers[0]: g.width_after for g in result.report.groups}


@pytest.mark.parametrize("unit", ["params", "macs"])
@pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
def test_at_most_the_share_and_close_to_it(unit: str, share: float) -> None:
    result = oc.condense(half_redundant(), oc.Options(budget=(unit, share), align=1))
    before, after = result.report.input, result.report.output
    assert after is not None
    kept = after.parameters / before.parameters if unit == "params" else after.macs / before.macs
    channel = 9 * 24 / before.parameters
    assert share - 0.01 - 2 * channel < kept <= share


def recurrent() -> onnx.ModelProto:
    """An LSTM of 16 units, whose last states are read by a head."""
    net = Net(seed=3)
    weights = (net.constant(0.4 * net.normal(1, *shape)) for shape in ((64, 6), (64, 16)))
    states = net.multiple("LSTM", net.input(5, "batch", 6), *weights, outputs=2, hidden_size=16, name="first")
    hidden = net.node("Reshape", net.node("Transpose", states[1], perm=[1, 0, 2]), net.ints(-1, 16))
    return net.build(net.dense("head", hidden, net.normal(4, 16)))


@pytest.mark.parametrize("unit", ["params", "macs"])
def test_recurrent_units_count(unit: str) -> None:
    report = oc.condense(recurrent(), oc.Options(budget=(unit, 0.7), align=1)).report
    assert report.output is not None
    before, after = ((facts.parameters, facts.macs)[unit == "macs"] for facts in (report.input, report.output))
    assert 0.7 - 2 / 16 < after / before <= 0.7  # a unit is more than a sixteenth


def test_biases_that_calibration_adds_count() -> None:
    """The second layer has no bias and gets one: a budget met exactly without it is not met with it."""
    net = Net(seed=4)
    hidden = net.node("Relu", net.conv("first", net.input("batch", 3, 10, 10), net.normal(16, 3, 3, 3)))
    hidden = net.node("Relu", net.conv("second", hidden, net.normal(24, 16, 3, 3)))
    hidden = net.node("Flatten", net.node("GlobalAveragePool", hidden))
    model = net.build(net.dense("head", hidden, net.normal(5, 24)))
    data = {"x": np.random.default_rng(0).standard_normal((30, 3, 10, 10)).astype(np.float32)}
    before = oc.analyze(model).model.parameters

    def size(merge: Any, share: float, calibration: Any = None) -> int:
        output = oc.condense(model, oc.Options(budget=("params", share), align=1, merge=merge, calibration=calibration))
        assert output.report.output is not None
        return output.report.output.parameters

    bare = size("delete", 0.7)
    calibrated = size("auto", (bare + 0.5) / before, data)
    assert bare - 0.07 * before < calibrated <= bare


def test_room_is_left_for_biases_at_once() -> None:
    """Each refit adds twelve; states that are ever closer below what was asked for do not use up the corrections."""
    asked = []

    class Narrowing:
        before, aside = 1000, NOTHING

        def at(self, share: float, aside: Aside) -> tuple[Planned, int]:
            asked.append(1000 * share)
            found = int(asked[-1]) - 12 + len(asked)
            twin: Any = SimpleNamespace(size=found)
            return Planned(twin, {}, aside), found

        def size(self, twin: Any) -> int:
            return int(twin.size)

    def finish(twin: Any) -> None:
        twin.size += 12

    found: Any = keep_share(Narrowing(), 0.9, finish)
    assert found.calibrated
    assert found.twin.size <= 900
    assert len(asked) == 2


def test_redundant_channels_go_first() -> None:
    found = widths(oc.condense(half_redundant(), oc.Options(budget=("params", 0.6), align=1)))
    assert found["first"] <= 14
    assert found["second"] >= 22


def test_budgets_lose_less_with_calibration_than_a_threshold_of_the_same_size() -> None:
    model = half_redundant(0)
    rng = np.random.default_rng(0)
    given = {"x": rng.standard_normal((80, 3, 10, 10)).astype(np.float32)}
    other = {"x": rng.standard_normal((20, 3, 10, 10)).astype(np.float32)}
    by_threshold = oc.condense(model, oc.Options(threshold=0.35, merge="ratio", align=1, data=other))
    assert by_threshold.report.output is not None
    assert by_threshold.report.verification is not None
    share = by_threshold.report.output.parameters / by_threshold.report.input.parameters
    assert share < 0.9
    by_budget = oc.condense(model, oc.Options(budget=("params", share), align=1, calibration=given, data=other))
    assert by_budget.report.verification is not None
    error = by_budget.report.verification.approximation_error
    assert error < by_threshold.report.verification.approximation_error


def test_a_group_with_unneeded_channels_is_not_emptied() -> None:
    """A quarter of the first layer is dead: that removing it costs nothing does not make the rest free."""
    net = Net(seed=6)
    rows, bias = net.normal(32, 10), net.normal(32)
    rows[:12], bias[:12] = 0.01 * rows[:12], -1.0
    hidden = net.node("Relu", net.dense("first", net.input("batch", 10), rows, bias))
    hidden = net.node("Relu", net.dense("second", hidden, net.normal(32, 32), net.normal(32)))
    model = net.build(net.dense("head", hidden, net.normal(5, 32), net.normal(5)))
    found = widths(oc.condense(model, oc.Options(budget=("params", 0.5), align=1)))
    assert found["first"] >= 12
    assert found["second"] >= 12


def test_no_layer_is_nearly_free() -> None:
    """Outputs that hardly mind the first channels of a layer may mind the others: no probe makes the layer free."""
    net = Net(seed=6)
    hidden = net.node("Relu", net.dense("first", net.input("batch", 10), net.normal(32, 10), net.normal(32)))
    model = net.build(net.dense("head", hidden, net.normal(5, 32), 3000 * net.normal(5)))
    curves = of_groups(pruner(model, oc.Options(budget=("params", 0.7), align=1)))
    assert curves
    assert all(curve.losses[-1] > 0.99 * LEAST for curve in curves.values())


def quiet_blocks() -> onnx.ModelProto:
    """Three residual blocks, two of which may nearly go alone, hardly felt."""
    net = Net(seed=8)
    stream = net.node("Relu", net.dense("stem", net.input("batch", 10), net.normal(12, 10), net.normal(12)))
    for number in range(3):
        hidden = net.dense(f"expand{number}", stream, net.normal(32, 12), net.normal(32))
        branch = net.dense(f"project{number}", net.node("Relu", hidden), (1.0, 0.02, 0.02)[number] * net.normal(12, 32))
        stream = net.node("Add", stream, branch)
    return net.build(net.dense("head", stream, net.normal(5, 12), net.normal(5)))


def readings(run: Run) -> list[Pruner]:
    known = Known(run.estimate, run.opened.feeds, run.opened.feeds, run.opened.calibration)
    return Pruner.each(run.planner, Units(Unit.PARAMS), known, lambda stage: None)


def test_groups_that_are_narrowed_together_are_not_emptied() -> None:
    run = Run.of(open_model(quiet_blocks(), oc.Options(budget=("params", 0.6), align=1)), 1, Clock(None))
    alone, together = (dict(one.at(0.6, one.aside)[0].twin.widths) for one in readings(run))
    blocks = [group.index for group in run.planner.groups if group.layers[0].startswith("expand")]
    assert min(alone.get(index, 32) for index in blocks) < 10
    assert min(together.get(index, 32) for index in blocks) >= 16


@pytest.mark.parametrize("better", [0, 1])
def test_the_reading_that_loses_less_is_taken(better: int, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([0.1, 0.2] if better == 0 else [0.2, 0.1])
    monkeypatch.setattr(Stand, "error_of", lambda self, twin: next(errors))
    options = oc.Options(budget=("params", 0.6), align=1)
    run = Run.of(open_model(quiet_blocks(), options), 1, Clock(None))
    wanted = readings(run)[better].curves
    found = pruner(quiet_blocks(), options).curves
    assert all(np.array_equal(found[index].losses, wanted[index].losses) for index in wanted)


@pytest.mark.parametrize(("samples", "after", "undone"), [(40, 0.2, True), (40, 0.09, False), (8, 0.095, True)])
def test_calibration_that_fits_held_back_samples_worse_is_undone(samples: int, after: float, undone: bool) -> None:
    """Of few samples none are enough to tell that a little is better."""
    errors = iter([0.1, after])
    done: list[str] = []
    twin: Any = SimpleNamespace(folds=lambda: "before", refold=done.append)
    opened = SimpleNamespace(calibration=Calibration((Shard({}, (), 0, samples, True),)))
    run: Any = SimpleNamespace(opened=opened, measure=SimpleNamespace(told=True), options=SimpleNamespace(data=None))
    run.error = run.lost = lambda twin: next(errors)
    run.calibrate = lambda twin, fitted: None
    narrowing.calibrated_where_better(run, twin)
    assert done == ["before"] * undone


@pytest.mark.parametrize("batch", ["batch", 4])
def test_a_bound_is_not_judged_on_what_was_fitted(batch: str | int) -> None:
    """Four samples, all that there are, leave no error in what was fitted to them."""
    data = {"x": builders.random(4, 5)}
    model = builders.mlp((5, 12, 10, 3), batch=batch)
    result = oc.condense(model, oc.Options(budget=("error", 0.05), align=1, calibration=data))
    assert Evidence.CALIBRATION not in {refit.source for refit in result.plan.refits}
    assert any("no calibration inputs are left to verify on" in warning for warning in result.report.warnings)


def test_calibration_samples_do_not_judge_what_was_fitted_to_them() -> None:
    """Forty samples leave no error in what was fitted to them, whichever quarter of the channels goes."""
    net = Net(seed=6)
    hidden = net.node("Relu", net.dense("first", net.input("batch", 10), net.normal(96, 10), net.normal(96)))
    hidden = net.node("Relu", net.dense("second", hidden, net.normal(96, 96), net.normal(96)))
    model = net.build(net.dense("head", hidden, net.normal(5, 96), net.normal(5)))
    data = {"x": np.random.default_rng(0).standard_normal((50, 10)).astype(np.float32)}
    curves = of_groups(pruner(model, oc.Options(budget=("params", 0.7), align=1, calibration=data)))
    assert len(curves) == 2
    assert all(curve.losses[23] > 3e-3 for curve in curves.values())


def test_what_channels_cost_is_what_the_report_counts() -> None:
    """Running statistics of BatchNormalization are no parameters, for the budget either."""
    net = Net(seed=4)
    hidden = net.conv("first", net.input("batch", 3, 8, 8), net.normal(16, 3, 3, 3))
    hidden = net.batchnorm(hidden, np.ones(16), net.normal(16), np.zeros(16), np.ones(16))
    model = net.build(net.conv("head", net.node("Relu", hidden), net.normal(4, 16, 3, 3)))
    found = pruner(model, oc.Options(budget=("params", 0.7), align=1))
    assert cost(found.weights, {}) == found.before == oc.analyze(model).model.parameters


def test_every_unit_is_counted() -> None:
    assert set(COUNTINGS) == set(Unit)


def wide(batch: int | None = None) -> onnx.ModelProto:
    """Two hidden layers of more neurons than a few samples can tell apart."""
    net = Net(seed=8)
    hidden = net.node("Relu", net.dense("first", net.input("batch", 24), net.normal(96, 24), net.normal(96)))
    hidden = net.node("Sigmoid", net.dense("second", hidden, net.normal(96, 96) / 8, net.normal(96)))
    model = net.build(net.dense("head", hidden, net.normal(5, 96), net.normal(5)))
    if batch is not None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    return model


def test_few_samples_choose_no_worse_than_none() -> None:
    """32 samples span less than a third of the neurons: their covariance alone would find most of them free."""
    rng = np.random.default_rng(0)
    given, other = ({"x": rng.standard_normal((count, 24)).astype(np.float32)} for count in (32, 400))
    options = oc.Options(budget=("params", 0.5), align=1, data=other)
    few = oc.condense(wide(), dataclasses.replace(options, calibration=given))
    none = oc.condense(wide(), options)
    assert few.report.verification is not None
    assert none.report.verification is not None
    assert few.report.verification.approximation_error < 1.05 * none.report.verification.approximation_error


def test_a_fixed_batch_is_judged_on_as_many_samples() -> None:
    data = {"x": np.random.default_rng(0).standard_normal((32, 24)).astype(np.float32)}
    found = [
        widths(oc.condense(wide(batch), oc.Options(budget=("params", 0.5), align=1, calibration=data, data=data)))
        for batch in (None, 1)
    ]
    assert found[0] == found[1]


def test_alignment_is_respected() -> None:
    result = oc.condense(half_redundant(), oc.Options(budget=("params", 0.7), align=8))
    assert all(width % 8 == 0 for width in widths(result).values())
    assert result.report.output is not None
    assert result.report.output.parameters <= 0.7 * result.report.input.parameters


def test_out_of_reach(cli: Cli, save: Save) -> None:
    save(half_redundant())
    message = cli.fails(1, "m.onnx", "--budget", "params=0.001", "--align", "1")
    assert "smallest that can be reached is 0.0" in message
    assert "0.4" in cli.fails(1, "m.onnx", "--budget", "params=0.3", "--align", "16")


def test_command_line(cli: Cli, save: Save) -> None:
    save(half_redundant())
    cli.ok("m.onnx", "--budget", "params=0.6", "--align", "1", "--plan", "p.json", "--calibration", _inputs(cli))
    assert oc.Plan.load("p.json").options["budget"] == ["params", 0.6]
    cli.ok("m.onnx", "--replay", "p.json", "-o", "again.onnx")
    assert (cli.folder / "again.onnx").read_bytes() == (cli.folder / "m.condensed.onnx").read_bytes()
    for wrong in ("params", "params=2", "params=0", "bytes=0.5", "params=x"):
        assert "--budget" in cli.fails(2, "m.onnx", "--budget", wrong, "--force")
    for other in (["--threshold", "0.9"], ["--lossless"], ["--tolerance", "0.1"], ["--sequential"]):
        assert other[0] in cli.fails(2, "m.onnx", "--budget", "params=0.6", "--force", *other)


def _inputs(cli: Cli) -> str:
    data = np.random.default_rng(0).standard_normal((20, 3, 10, 10)).astype(np.float32)
    np.savez(cli.folder / "inputs.npz", x=data)
    return "inputs.npz"


def test_channels_that_nobody_reads_go_for_nothing() -> None:
    net = Net(seed=6)
    data = net.input("batch", 10)
    hidden = net.node("Relu", net.dense("first", data, net.normal(32, 10), net.normal(32)))
    net.node("Relu", net.dense("loose", hidden, net.normal(32, 32)))
    model = net.build(net.dense("head", hidden, net.normal(5, 32), net.normal(5)))
    result = oc.condense(model, oc.Options(budget=("params", 0.6), align=1))
    assert widths(result)["loose"] < 16
    assert widths(result)["first"] == 32


def test_groups_that_cannot_shrink_unevenly_stay() -> None:
    """A channel shuffle in two halves, whose channels must leave both evenly."""
    net = Net(seed=6)
    hidden = net.node("Relu", net.conv("first", net.input("batch", 3, 6, 6), net.normal(16, 3, 3, 3)))
    shuffled = net.node("Reshape", hidden, net.ints(-1, 2, 8, 4, 4))
    shuffled = net.node("Reshape", net.node("Transpose", shuffled, perm=[0, 2, 1, 3, 4]), net.ints(-1, 16, 4, 4))
    hidden = net.node("Relu", net.conv("second", shuffled, net.normal(16, 16, 3, 3)))
    model = net.build(net.conv("head", hidden, net.normal(4, 16, 1, 1)))
    result = oc.condense(model, oc.Options(budget=("params", 0.7), align=1))
    assert result.report.output is not None
    assert result.report.output.parameters <= 0.7 * result.report.input.parameters


@pytest.mark.parametrize("merge", ["ratio", "delete", "moments"])
def test_every_merge_method_and_the_same_bytes_again(merge: Any) -> None:
    options = oc.Options(budget=("params", 0.6), align=1, merge=merge)
    first, second = (oc.condense(half_redundant(), options) for _ in range(2))
    assert serialize(first.model) == serialize(second.model)
    assert bool(first.plan.refits) == (merge == "moments")


# ------------------------------------------------------------------------------------------------------- numbers


def test_elimination_counts_what_is_lost() -> None:
    rng = np.random.default_rng(0)
    readers = []
    for _ in range(2):
        rows, weight = rng.standard_normal((9, 9)), rng.standard_normal((4, 9))
        readers.append((rows @ rows.T, weight.T @ weight))
    order, losses = eliminate(readers, 1e-9)
    assert sorted(order.tolist()) == list(range(9))
    for gone in range(1, 9):
        kept = order[gone:]
        lost = 0.0
        for c, gram in readers:
            rest = c - c[:, kept] @ np.linalg.solve(c[np.ix_(kept, kept)], c[kept])
            lost += float(np.trace(gram @ rest))
        assert losses[gone - 1] == pytest.approx(lost, rel=1e-5)


def test_a_model_without_inputs_cannot_be_narrower() -> None:
    net = Net(seed=4)
    hidden = net.node("Relu", net.dense("first", net.constant(net.normal(2, 4)), net.normal(6, 4)))
    with pytest.raises(oc.VerificationError, match="no layer can be narrower"):
        oc.condense(net.build(net.dense("second", hidden, net.normal(3, 6))), oc.Options(budget=("params", 0.5)))
