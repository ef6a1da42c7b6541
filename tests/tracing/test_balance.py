"""Lines that lose equally many channels."""

from __future__ import annotations

import numpy as np
from support.planted.net import Net, traced

from onnx_condense import Options, condense
from onnx_condense.rewriting.kept import Kept
from onnx_condense.tracing.balance import Partition, balance, even_out, partition
from onnx_condense.tracing.labels import pack

LINES = Partition(np.array([0, 0, 0, 1, 1, 1]), np.arange(6))


def test_even_out_gives_up_the_lowest_cosines() -> None:
    removed = np.array([True, True, False, True, False, False])
    cosine = np.array([0.8, 0.9, 1.0, 0.7, 1.0, 1.0])
    assert even_out(removed, cosine, [LINES]).tolist() == [False, True, False, True, False, False]
    assert removed.sum() == 3, "the argument is left alone"


def test_even_out_over_partitions_that_cross() -> None:
    """Rows and columns of [2, 3]: whatever one gives up, the other must follow."""
    columns = Partition(np.tile(np.arange(3), 2), np.arange(6))
    removed = np.array([True, True, False, True, False, False])
    assert not even_out(removed, np.ones(6), [LINES, columns]).any()
    assert even_out(np.ones(6, dtype=bool), np.ones(6), [LINES, columns]).all()


def test_a_channel_that_fills_several_places_counts_as_often() -> None:
    wide = Partition(np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 2, 3, 4]))
    assert not even_out(np.array([True, False, True, False, False]), np.ones(5), [wide]).any()


def test_a_channel_in_two_lines_is_given_up_once() -> None:
    """Keys and values that several heads share: each stands in two lines."""
    shared = Partition(np.repeat(np.arange(4), 4), np.array([0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]))
    removed = np.zeros(8, dtype=bool)
    removed[[1, 2, 5]] = True
    assert even_out(removed, np.ones(8), [shared]).sum() == 2


def test_a_transposed_tensor_holds_the_same_lines() -> None:
    units = np.arange(6).reshape(1, 2, 3)
    assert partition(units, 2).key == partition(units.transpose(0, 2, 1), 1).key
    assert partition(units, 1).key != partition(units, 2).key


def test_the_axis_that_shrinks() -> None:
    """The last one, unless it may not; a transposed tensor follows."""
    labels = pack(np.arange(6), 0).reshape(1, 2, 3)
    turned = labels.transpose(0, 2, 1)
    free = balance([labels, turned], [], [], np.arange(6))
    assert (free.cut(labels)[1], free.cut(turned)[1]) == (2, 1)
    barred = balance([labels, turned], [(labels, (2,))], [], np.arange(6))
    assert (barred.cut(labels)[1], barred.cut(turned)[1]) == (1, 2)


def test_branches_that_lie_along_the_last_axis() -> None:
    """stack([a, b], -1): each branch is a line, not each pair."""
    labels = pack(np.arange(6).reshape(3, 2), np.array([[7, 8]] * 3))
    assert balance([labels], [], [], np.arange(6)).cut(labels)[1] == 0


def test_united_channels_leave_one_axis() -> None:
    labels = pack(np.arange(6), 0).reshape(2, 3)
    united = balance([labels], [], [], np.array([0, 1, 2, 0, 1, 2]))
    assert united.cut(labels)[1] == 1
    assert united.partitions == ()


def test_kept_of_ragged_lines() -> None:
    kept = Kept(1, np.array([[True, False, True], [False, True, True]]))
    assert kept.line is None
    assert kept.count == 2
    value = np.arange(12).reshape(2, 3, 2)[..., 0]
    assert kept.of(value).tolist() == [[0, 4], [8, 10]]


def test_alignment_and_lines_together() -> None:
    """4 groups of 8 with one copy each, one with three: 28 channels are even, but 7 per group are no multiple of 4."""
    net = Net()
    rows, bias = net.normal(32, 3, 1, 1), net.normal(32)
    for j, m in ((1, 0), (2, 0), (3, 0), (9, 8), (17, 16), (25, 24)):
        rows[j], bias[j] = rows[m], bias[m]
    hidden = net.node("Relu", net.conv("producer", net.input("batch", 3, 6, 6), rows, bias))
    hidden = net.conv("grouped", hidden, net.normal(8, 8, 1, 1), group=4)
    model = net.build(net.conv("head", hidden, net.normal(3, 8, 1, 1)))
    widths = {a: condense(model, Options(lossless=True, align=a)).report.groups[0].width_after for a in (1, 4, 7)}
    assert widths == {1: 28, 4: 32, 7: 28}


def test_lines_of_a_stack_belong_to_one_group() -> None:
    net = Net()
    data = net.input("batch", 6)
    made = [net.dense(name, data, net.normal(5, 6)) for name in ("one", "other")]
    stacked = net.node("Concat", *(net.node("Unsqueeze", m, net.ints(1)) for m in made), axis=1)
    stacked = net.node("Reshape", stacked, net.ints(0, 10))
    (group,) = traced(net.build(net.dense("last", stacked, net.normal(3, 10)))).groups
    assert group.layers == ("one", "other")
    assert [len(cell) for cell in group.cells] == [5, 5]
