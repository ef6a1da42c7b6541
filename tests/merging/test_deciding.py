"""keep and (M, c): what each method decides for a group."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from support.planted.net import Net, traced

from onnx_condense.merging.deciding import plan_group
from onnx_condense.merging.judging import Judgement, judge
from onnx_condense.merging.methods import MANNERS
from onnx_condense.merging.plan import GroupPlan
from onnx_condense.merging.twin import Twin
from onnx_condense.options import Method


def dense(rows: NDArray[np.floating], bias: NDArray[np.floating], columns: NDArray[np.floating]) -> onnx.ModelProto:
    net = Net()
    hidden = net.node("Relu", net.dense("producer", net.input("batch", rows.shape[1]), rows, bias))
    return net.build(net.dense("consumer", hidden, columns))


def conv(rows: NDArray[np.floating], columns: NDArray[np.floating]) -> onnx.ModelProto:
    net = Net()
    hidden = net.node("Relu", net.conv("producer", net.input("batch", rows.shape[1], 4, 4), rows[:, :, None, None]))
    return net.build(net.conv("consumer", hidden, columns[:, :, None, None]))


def judged(model: onnx.ModelProto, method: str) -> Judgement:
    trace = traced(model)
    return judge(Twin(trace), trace.groups[0], MANNERS[Method(method)])


def decided(model: onnx.ModelProto, method: str, threshold: float = 0.9, align: int = 1) -> GroupPlan:
    return plan_group(judged(model, method), threshold, align)


def fan(*degrees: float, lengths: tuple[float, ...] | None = None) -> NDArray[np.float32]:
    """Rows in the plane at these angles."""
    angles = np.deg2rad(degrees)
    rows = np.stack([np.cos(angles), np.sin(angles)], 1)
    rows = rows if lengths is None else rows * np.array(lengths)[:, None]
    return rows.astype(np.float32)


COLUMNS = np.arange(1, 16, dtype=np.float32).reshape(3, 5)


def test_ratio_takes_the_main_neuron_with_most_neighbours() -> None:
    """20 degrees is cos 0.94: 0 reaches 20 only, 20 reaches both ends."""
    model = dense(fan(0, 20, 40, 120, 200, lengths=(1, 2, 3, 1, 1)), np.zeros(5), COLUMNS)
    plan = decided(model, "ratio")
    assert plan.main == (1, 1, 1, 3, 4)
    assert plan.keep == (1, 3, 4)
    assert plan.width == 5
    assert plan.shrinks
    np.testing.assert_allclose(plan.cosine, [np.cos(np.deg2rad(20)), 1, np.cos(np.deg2rad(20)), 1, 1], rtol=1e-6)
    np.testing.assert_allclose(plan.reads[0].ratio, [0.5, 1, 1.5, 1, 1], rtol=1e-6)
    assert plan.reads[0].constant == (0,) * 5
    assert plan.highest == pytest.approx(np.cos(np.deg2rad(20)), rel=1e-6)


def test_ties_go_to_the_lowest_index() -> None:
    plan = decided(dense(fan(0, 5, 100, 105, 200), np.zeros(5), COLUMNS), "ratio")
    assert plan.main == (0, 0, 2, 2, 4)


def test_delete_drops_what_condenses() -> None:
    plan = decided(dense(fan(0, 20, 40, 120, 200), np.zeros(5), COLUMNS), "delete")
    assert plan.keep == (1, 3, 4)
    assert plan.reads[0].ratio == (0, 1, 0, 1, 1)


def test_nothing_above_the_threshold() -> None:
    plan = decided(dense(fan(0, 70, 140, 210, 280), np.zeros(5), COLUMNS), "ratio")
    assert not plan.shrinks
    assert plan.keep == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("method", ["auto", "lossless"])
def test_unread_channels_go(method: str) -> None:
    columns = COLUMNS.copy()
    columns[:, [1, 3]] = 0
    plan = decided(dense(fan(0, 70, 140, 210, 280), np.zeros(5), columns), method)
    assert plan.main == (0, -1, 2, -1, 4)
    assert plan.reads[0].ratio == (1, 0, 1, 0, 1)


@pytest.mark.parametrize("method", ["ratio", "delete"])
def test_the_papers_methods_leave_unread_and_constant_channels(method: str) -> None:
    columns = COLUMNS.copy()
    columns[:, 1] = 0
    rows = fan(0, 70, 140, 210, 280)
    rows[3] = 0
    assert not decided(dense(rows, np.ones(5), columns), method, 0.99).shrinks


@pytest.mark.parametrize("method", ["auto", "lossless"])
def test_constant_channels_become_constants(method: str) -> None:
    rows = fan(0, 70, 140, 210, 280)
    rows[3] = 0
    plan = decided(dense(rows, np.array([0.0, 0, 0, 2, 0]), COLUMNS), method)
    assert plan.main == (0, 1, 2, -1, 4)
    assert plan.reads[0].constant == (0, 0, 0, 2, 0)


def test_a_group_never_vanishes() -> None:
    plan = decided(dense(fan(0, 70, 140, 210, 280), np.zeros(5), np.zeros((3, 5))), "lossless")
    assert plan.keep == (0,)


def test_lossless_ignores_the_threshold() -> None:
    rows = fan(0, 1, 100, 100, 200, lengths=(1, 1, 1, 3, 1))
    plan = decided(dense(rows, np.zeros(5), COLUMNS), "lossless", threshold=0.1)
    assert plan.main in ((0, 1, 2, 2, 4), (0, 1, 3, 3, 4))


def test_a_zero_row_is_no_neighbour() -> None:
    rows = fan(0, 5, 10, 120, 240)
    rows[1] = 0
    assert decided(dense(rows, np.zeros(5), COLUMNS), "ratio").main == (0, 1, 0, 3, 4)


def test_alignment_undoes_the_merges_of_lowest_cosine() -> None:
    """8 channels, 4 pairs of growing angles: 4 would stay; for a multiple of 3 the two worst merges are
    undone.
    """
    rows = fan(0, 5, 60, 70, 120, 135, 180, 200)
    model = conv(rows, np.ones((3, 8), dtype=np.float32))
    assert decided(model, "ratio").keep == (0, 2, 4, 6)
    plan = decided(model, "ratio", align=3)
    assert plan.keep == (0, 2, 4, 5, 6, 7)
    assert len(plan.held) == 2
    assert plan.cosine[5] == plan.cosine[7] == 1
    assert plan.cosine[1] < 1


def test_a_width_that_rounds_back_stays() -> None:
    model = conv(fan(0, 60, 120, 180, 200), np.ones((3, 5), dtype=np.float32))
    plan = decided(model, "ratio", align=16)
    assert not plan.shrinks
    assert len(plan.held) == 1


def test_alignment_leaves_dense_layers_alone() -> None:
    plan = decided(dense(fan(0, 5, 60, 120, 200), np.zeros(5), COLUMNS), "ratio", align=16)
    assert len(plan.keep) == 4
    assert not plan.held


def test_channels_of_different_cells_never_merge() -> None:
    """Equal rows in both halves of a Split."""
    net = Net()
    rows = np.concatenate([fan(0, 60, 120), fan(0, 60, 60)])
    hidden = net.dense("producer", net.input("batch", 2), rows)
    left, right = net.multiple("Split", hidden, net.ints(3, 3), outputs=2, axis=1)
    model = net.build(net.dense("a", left, net.normal(3, 3)), net.dense("b", right, net.normal(3, 3)))
    plan = decided(model, "ratio")
    assert plan.main == (0, 1, 2, 3, 4, 4)


def test_highest_cosine() -> None:
    judgement = judged(dense(fan(0, 30, 90, 180, 270), np.zeros(5), COLUMNS), "ratio")
    assert judgement.highest == pytest.approx(np.cos(np.deg2rad(30)), rel=1e-6)
