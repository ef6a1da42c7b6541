"""The twin's weights: folding, unread channels, plans in a row, sequential and repeated runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from support.cases import CASES
from support.lossless import LOSSLESS
from support.planted.cases import Case, planted_rows
from support.planted.net import (
    Net,
    assert_close,
    traced,
    widths,
)

from onnx_condense import Options, Plan, condense, rewrite
from onnx_condense.merging.deciding import plan_group
from onnx_condense.merging.judging import judge, unread
from onnx_condense.merging.methods import MANNERS
from onnx_condense.merging.paths import paths
from onnx_condense.merging.plan import GroupPlan
from onnx_condense.merging.twin import Twin
from onnx_condense.merging.weights import TwinWeights
from onnx_condense.options import Method
from onnx_condense.rewriting.writer import write
from onnx_condense.tracing.trace import Group, Trace


def chain(function: str = "Identity") -> onnx.ModelProto:
    net = Net(seed=1)
    hidden = net.dense("first", net.input("batch", 5), net.normal(6, 5), net.normal(6))
    return net.build(net.dense("second", net.node(function, hidden), net.normal(3, 6), net.normal(3)))


def planned(trace: Trace, main: list[int], ratio: list[float], constant: list[float]) -> tuple[Group, GroupPlan]:
    group = trace.groups[0]
    twin = Twin(trace)
    blank = plan_group(judge(twin, group, MANNERS[Method.RATIO]), 1.0, 1)
    reads = tuple(replace(r, ratio=tuple(ratio), constant=tuple(constant)) for r in blank.reads)
    return group, replace(blank, main=tuple(main), cosine=(0.9,) * len(main), reads=reads)


def test_apply_folds_columns_and_constants() -> None:
    trace = traced(chain())
    twin = Twin(trace)
    before = twin.weight(2, 1).copy()
    bias = TwinWeights(twin).row_bias(2)
    twin.apply(*planned(trace, [0, 1, 0, 3, -1, 5], [1, 1, 2.5, 1, 0, 1], [0, 0, 0.5, 0, -2, 0]))
    after = twin.weight(2, 1)
    np.testing.assert_allclose(after[:, 0], before[:, 0] + 2.5 * before[:, 2], rtol=1e-6)
    assert not after[:, [2, 4]].any()
    np.testing.assert_array_equal(after[:, [1, 3, 5]], before[:, [1, 3, 5]])
    np.testing.assert_allclose(TwinWeights(twin).row_bias(2), bias + 0.5 * before[:, 2] - 2 * before[:, 4], rtol=1e-6)
    assert twin.kept(trace.groups[0]).tolist() == [0, 1, 3, 5]


def test_apply_leaves_the_model_and_other_states_alone() -> None:
    trace = traced(chain())
    twin, other = Twin(trace), Twin(trace)
    before = twin.weight(2, 1).copy()
    twin.apply(*planned(trace, [0, 0, 2, 3, 4, 5], [1, 3, 1, 1, 1, 1], [0] * 6))
    np.testing.assert_array_equal(other.weight(2, 1), before)
    assert other.alive.all()
    assert not other.plans
    np.testing.assert_array_equal(Twin(trace).weight(2, 1), before)


def test_the_twin_and_the_small_model_are_one_function() -> None:
    trace = traced(chain("Tanh"))
    twin = Twin(trace)
    twin.apply(*planned(trace, [0, 1, 0, 3, -1, 3], [1, 1, 2.5, 1, 0, -1], [0, 0, 0.5, 0, -2, 0]))
    small, expanded = write(twin, {}).model, write(twin, {}, expanded=True).model
    assert widths(expanded) == {"first": 6, "second": 3}
    assert widths(small) == {"first": 3, "second": 3}
    assert_close(expanded, small, 1e-6)


def test_two_plans_in_a_row_are_one_plan() -> None:
    """2 -> 1 and then 1 -> 0; 4 -> 3 and then 3 becomes a constant; 5 stays."""
    trace = traced(chain())
    group, first = planned(trace, [0, 1, 1, 3, 3, 5], [1, 1, 2, 1, -3, 1], [0, 0, 0.5, 0, 1, 0])
    _, second = planned(trace, [0, 0, 2, -1, 4, 5], [1, 4, 1, 0, 1, 1], [0, 0.25, 0, 7, 0, 0])
    both = first.then(second)
    assert both.main == (0, 0, 0, -1, -1, 5)
    assert both.reads[0].ratio == (1, 4, 8, 0, 0, 1)
    assert both.reads[0].constant == (0, 0.25, 2 * 0.25 + 0.5, 7, -3 * 7 + 1, 0)
    one, two = Twin(trace), Twin(trace)
    one.apply(group, first)
    one.apply(group, second)
    two.apply(group, both)
    np.testing.assert_allclose(one.weight(2, 1), two.weight(2, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(TwinWeights(one).row_bias(2), TwinWeights(two).row_bias(2), rtol=1e-5)
    np.testing.assert_array_equal(one.alive, two.alive)
    assert one.plans[group.index] == both


def test_unread() -> None:
    net = Net()
    hidden = net.dense("first", net.input("batch", 5), net.normal(4, 5))
    a, b = net.normal(3, 4), net.normal(2, 4)
    a[:, [0, 1]] = 0
    b[:, [1, 2]] = 0
    trace = traced(net.build(net.dense("a", hidden, a), net.dense("b", hidden, b)))
    group = trace.groups[0]
    found = unread(Twin(trace), group, list(paths(trace, group)))
    assert found.tolist() == [0, 1, 0, 0]


def test_rows_with_alpha_and_beta() -> None:
    net = Net()
    rows, bias = net.normal(4, 5), net.normal(4)
    data = net.input("batch", 5)
    hidden = net.node("Gemm", data, net.constant(rows.T), net.constant(bias), alpha=0.5, beta=3.0, name="first")
    trace = traced(net.build(net.dense("second", hidden, net.normal(3, 4))))
    twin = Twin(trace)
    np.testing.assert_allclose(TwinWeights(twin).rows(0), 0.5 * rows, rtol=1e-6)
    np.testing.assert_allclose(TwinWeights(twin).row_bias(0), 3 * bias, rtol=1e-6)


def test_paths_after_concat() -> None:
    """A weight that reads a channel through two signals has two paths for it."""
    net = Net()
    hidden = net.dense("first", net.input("batch", 5), net.normal(4, 5))
    both = net.node("Concat", hidden, net.node("Relu", hidden), axis=1)
    trace = traced(net.build(net.dense("second", both, net.normal(3, 8))))
    found = list(paths(trace, trace.groups[0]))
    assert [p.number for p in found] == [0, 1]
    assert [p.places.tolist() for p in found] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert all(p.rank.tolist() == [0] * 4 for p in found)


def test_crelu_merges_through_both_paths() -> None:
    """Concat(relu(x), relu(-x)) of opposite rows swaps its halves: not a merge of channels; scaled rows are
    one.
    """
    net = Net()
    rows = net.normal(4, 5)
    rows[2], rows[3] = 2 * rows[0], -rows[1]
    hidden = net.dense("first", net.input("batch", 5), rows)
    both = net.node("Concat", net.node("Relu", hidden), net.node("Relu", net.node("Neg", hidden)), axis=1)
    model = net.build(net.dense("second", both, net.normal(3, 8)))
    result = condense(model, LOSSLESS)
    assert widths(result.model)["first"] == 3
    assert_close(model, result.model, 2e-5)


# -------------------------------------------------------------------------------- whole runs


def cascade() -> onnx.ModelProto:
    """The second layer's rows 0 and 1 differ only in which copy of a channel of the first they read."""
    net = Net(seed=2)
    rows, bias = net.normal(5, 4), net.normal(5)
    rows[3], bias[3] = 2 * rows[1], 2 * bias[1]
    second = net.normal(6, 5)
    second[1] = second[0]
    second[0, [1, 3]], second[1, [1, 3]] = (3, 0), (0, 1.5)
    biases = net.normal(6)
    biases[1] = biases[0]
    hidden = net.node("Relu", net.dense("first", net.input("batch", 4), rows, bias))
    hidden = net.node("Relu", net.dense("second", hidden, second, biases))
    return net.build(net.dense("third", hidden, net.normal(3, 6), net.normal(3)))


def test_lossless_composes_over_rounds() -> None:
    """What becomes equal by an earlier merge merges as well."""
    model = cascade()
    result = condense(model, LOSSLESS)
    assert widths(result.model) == {"first": 4, "second": 5, "third": 3}
    assert_close(model, result.model, 2e-5)


def backwards() -> onnx.ModelProto:
    """Channels of the first layer are read by channels of the second that nobody reads: a second round is
    needed.
    """
    net = Net(seed=3)
    second, third = net.normal(6, 5), net.normal(3, 6)
    third[:, [4, 5]] = 0
    second[:4, [0, 2]] = 0
    hidden = net.node("Tanh", net.dense("first", net.input("batch", 4), net.normal(5, 4), net.normal(5)))
    hidden = net.node("Tanh", net.dense("second", hidden, second, net.normal(6)))
    return net.build(net.dense("third", hidden, third, net.normal(3)))


def test_lossless_repeats_until_nothing_changes() -> None:
    model = backwards()
    result = condense(model, LOSSLESS)
    assert widths(result.model) == {"first": 3, "second": 4, "third": 3}
    assert condense(result.model, LOSSLESS).plan.groups == ()
    assert_close(model, result.model, 2e-5)


@pytest.mark.parametrize("build", [cascade, backwards])
def test_plans_of_several_rounds_replay(build: Callable[[], onnx.ModelProto]) -> None:
    model = build()
    result = condense(model, LOSSLESS)
    again = condense(model, replay=Plan.from_json(result.plan.to_json()))
    assert widths(again.model) == widths(result.model)
    assert_close(result.model, again.model, 1e-6)
    assert_close(result.model, rewrite(model, result.plan), 1e-6)


MERGING = [c for c in CASES if {"equal", "unread"} <= c.passes][::7]


@pytest.mark.parametrize("case", MERGING, ids=[c.name for c in MERGING])
def test_plans_of_planted_cases_replay(case: Case) -> None:
    for relation in ("equal", "unread"):
        model = case.build(relation)
        result = condense(model, LOSSLESS)
        assert result.plan.groups
        assert_close(result.model, rewrite(model, result.plan), 1e-6)


def test_one_shot_judges_the_original_and_sequential_the_merged_weights() -> None:
    """In `cascade`, rows 0 and 1 of the second layer are orthogonal enough on the original weights only."""
    model = cascade()
    shot = condense(model, Options(threshold=0.999, merge="ratio", align=1))
    assert widths(shot.model) == {"first": 4, "second": 6, "third": 3}
    sequential = condense(model, Options(threshold=0.999, merge="ratio", align=1, sequential=True))
    assert widths(sequential.model) == {"first": 4, "second": 5, "third": 3}
    assert_close(model, sequential.model, 2e-5)


def test_one_shot_merges_every_layer_by_its_original_ratio() -> None:
    """The ratio of the second layer's rows is that of the original rows, whatever the first layer's merge
    did to them.
    """
    net = Net(seed=4)
    first, bias = planted_rows(net, "near", 6)
    second = net.normal(5, 8)
    second[3] = 2 * second[1] + 0.01 * net.normal(8)
    hidden = net.node("Relu", net.dense("first", net.input("batch", 6), first, bias))
    hidden = net.node("Relu", net.dense("second", hidden, second))
    model = net.build(net.dense("third", hidden, net.normal(3, 5)))
    plan = condense(model, Options(threshold=0.999, merge="ratio", align=1)).plan
    found = next(g for g in plan.groups if g.layers == ("second",))
    j, m = (3, 1) if found.main[3] == 1 else (1, 3)
    norms = np.linalg.norm(second, axis=1)
    assert found.reads[0].ratio[j] == pytest.approx(norms[j] / norms[m], rel=1e-6)
    assert len(next(g for g in plan.groups if g.layers == ("first",)).keep) == 5


def test_results_are_deterministic() -> None:
    model = cascade()
    one, two = (condense(model, LOSSLESS).model.SerializeToString(deterministic=True) for _ in range(2))
    assert one == two
