"""Budgets without data: weights refitted by what is assumed must not blow up; inputs that judge fit the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from support import builders
from support.cli import Cli, Save
from support.networks import residual
from support.planted.net import Net

from onnx_condense import Options
from onnx_condense.merging.twin import Twin
from onnx_condense.planning.narrowing import ToShare
from onnx_condense.planning.run import Run
from onnx_condense.planning.strategies import strategy_of
from onnx_condense.planning.written import judged
from onnx_condense.prepare import Clock, open_model
from onnx_condense.proving.compare import compare, results
from onnx_condense.rewriting.writer import write


def to_share(merge: str = "auto") -> ToShare:
    model = builders.mlp((8, 24, 24, 3), clusters=6, noise=0.3)
    options = Options(budget=("params", 0.5), align=1, merge=merge)  # type: ignore[arg-type]
    found = strategy_of(Run.of(open_model(model, options), 1, Clock(None)), None, None)
    assert isinstance(found, ToShare)
    return found


@pytest.mark.parametrize(("refitted", "merged", "stays"), [(0.5, 0.1, True), (5.0, 0.1, False), (5.0, 9.0, True)])
def test_refitted_weights_that_blow_up_give_way_to_merged_ones(refitted: float, merged: float, stays: bool) -> None:
    def error(twin: Twin) -> float:
        return refitted if twin.refits else merged

    planned = replace(to_share(), error=error).twin()
    assert bool(planned.twin.refits) == stays


def test_only_what_chooses_by_itself_is_compared() -> None:
    assert to_share().error is not None
    assert to_share("moments").error is None
    assert to_share("ratio").error is None


def test_other_multiples_keep_the_choice() -> None:
    strategy = replace(to_share(), error=lambda twin: 5.0 if twin.refits else 0.1)
    planned = strategy.twin()
    assert not strategy.again(planned, {0: 4}).twin.refits


@pytest.mark.parametrize(("model", "whole"), [(residual(), True), (builders.mlp((8, 24, 24, 3), clusters=6), False)])
def test_convolutions_are_judged_in_the_original_shapes(model: onnx.ModelProto, whole: bool) -> None:
    opened = open_model(model, Options(budget=("params", 0.5), align=1))
    run = Run.of(opened, 1, Clock(None))
    group = run.planner.groups[0]
    twin = run.planner.without({group.index: np.arange(3)})
    tried, written = onnx.ModelProto(), write(twin, {}).model
    judged(twin, lambda model: tried.CopyFrom(model) or 0.0)
    sizes = [[tuple(tensor.dims) for tensor in one.graph.initializer] for one in (opened.source.proto, tried, written)]
    assert sizes[1] == sizes[0 if whole else 2] != sizes[2 if whole else 0]
    assert compare(results(written, opened.feeds), results(tried, opened.feeds)).error < 1e-6


@pytest.mark.parametrize("second", [("batch", "batch"), ("batch + 1", 12), (1, 12)])
def test_inputs_of_other_sizes_than_the_first_are_judged_as_they_are(
    second: tuple[int | str, int | str], cli: Cli, save: Save
) -> None:
    """A graph's adjacency matrix, places with one for the class, a row that all samples share."""
    net = Net(seed=2)
    x, other = net.input("batch", 6), net.input(*second, name="other")
    hidden = net.node("Relu", net.dense("first", x, np.repeat(net.normal(5, 6), 4, 0)))
    y = net.dense("second", hidden, net.normal(12, 20))
    if second[0] == "batch + 1":
        y = net.node("Concat", y, net.constant(net.normal(1, 12), "class"), axis=0)
    save(net.build(net.node("MatMul", other, y) if second[1] == "batch" else net.node("Add", y, other)))
    cli.ok("m.onnx", "--budget", "params=0.7", "--align", "1")
    cli.ok("verify", "m.onnx", "m.condensed.onnx")
