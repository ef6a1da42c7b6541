"""Numbers that follow the channels: sizes of Splits, indices, groups, shapes."""

from __future__ import annotations

import numpy as np
import pytest
from support.lossless import LOSSLESS, condensed
from support.models import attributes, node, weights
from support.planted.cases import (
    EXACT,
    FULL,
    planted_columns,
    planted_rows,
)
from support.planted.net import Net, assert_close

from onnx_condense import condense


@pytest.mark.parametrize("opset", [9, 13, 18])
def test_an_even_split_becomes_uneven(opset: int) -> None:
    """2 of the left 4 channels are copies, none of the right 4; the sizes were not even stated."""
    net = Net(opset=opset)
    rows = net.normal(8, 6)
    rows[2], rows[3] = 2 * rows[0], -rows[1]
    hidden = net.dense("producer", net.input("batch", 6), rows, np.zeros(8))
    stated = {"num_outputs": 2} if opset >= 18 else {}
    left, right = net.multiple("Split", hidden, outputs=2, name="split", axis=1, **stated)
    model = net.build(
        net.dense("a", left, net.normal(3, 4), np.zeros(3)),
        net.dense("b", right, net.normal(3, 4), np.zeros(3)),
    )
    small = condensed(model, {"producer": 6})
    sizes = attributes(small, "split").get("split") or weights(small)[node(small, "split").input[1]].tolist()
    assert sizes == [2, 4]
    assert "num_outputs" not in attributes(small, "split")


@pytest.mark.parametrize("opset", [9, 13])
def test_slices_are_renumbered(opset: int) -> None:
    net = Net(opset=opset)
    rows = net.normal(8, 6)
    rows[1], rows[5] = 2 * rows[0], 3 * rows[4]
    hidden = net.dense("producer", net.input("batch", 6), rows, np.zeros(8))
    if opset < 10:
        left = net.node("Slice", hidden, name="left", axes=[1], starts=[0], ends=[3])
        right = net.node("Slice", hidden, name="right", axes=[1], starts=[3], ends=[10**6])
    else:
        left = net.node("Slice", hidden, net.ints(0), net.ints(3), net.ints(1), name="left")
        right = net.node("Slice", hidden, net.ints(-5), net.ints(10**6), net.ints(1), name="right")
    model = net.build(
        net.dense("a", left, net.normal(3, 3), np.zeros(3)),
        net.dense("b", right, net.normal(3, 5), np.zeros(3)),
    )
    condensed(model, {"producer": 6})


@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize("kinds", ["starts ends", "starts ends axes", "starts ends axes steps", "starts ends  steps"])
def test_indices_keep_their_type(kind: type[np.signedinteger], kinds: str) -> None:
    """Slice takes all of its numbers of one type; Gather either."""
    net = Net()
    data = net.input("batch", 6)
    hidden = net.node("Relu", net.dense("producer", data, *planted_rows(net, "equal", 6)))
    given = {"starts": [0, 4], "ends": [99, 99], "axes": [0, 1], "steps": [1, 1]}
    inputs = [net.constant(np.array(given[name], dtype=kind)) if name else "" for name in kinds.split(" ")]
    left = net.node("Slice", hidden, *inputs, name="slice")
    right = net.node("Gather", hidden, net.constant(np.array([3, 5, 7], dtype=kind)), axis=1, name="gather")
    both = net.node("Concat", left, right, axis=1)
    small = condensed(net.build(net.dense("consumer", both, net.normal(3, 7))), {"producer": 5})
    held = weights(small)
    found = [held[name].dtype for name in (*node(small, "slice").input[1:], node(small, "gather").input[1]) if name]
    assert found == [np.dtype(kind)] * len(found)


def test_reversed_slices() -> None:
    net = Net()
    rows = net.normal(6, 5)
    rows[4] = 2 * rows[1]
    hidden = net.dense("producer", net.input("batch", 5), rows)
    hidden = net.node("Slice", hidden, net.ints(-1), net.ints(-(2**31)), net.ints(1), net.ints(-1))
    condensed(net.build(net.dense("consumer", hidden, net.normal(3, 6))), {"producer": 5})


def test_gather_indices_are_renumbered() -> None:
    net = Net()
    rows = net.normal(6, 5)
    rows[4] = 2 * rows[1]
    hidden = net.dense("producer", net.input("batch", 5), rows)
    hidden = net.node("Gather", hidden, net.ints(5, -2, 3, 2, 1, 0), axis=1)
    small = condensed(net.build(net.dense("consumer", hidden, net.normal(3, 6))), {"producer": 5})
    gather = next(n for n in small.graph.node if n.op_type == "Gather")
    assert sorted(weights(small)[gather.input[1]].tolist()) == [0, 1, 2, 3, 4]


def test_depthwise_groups_follow() -> None:
    net = Net()
    hidden = net.conv("producer", net.input("batch", 3, 6, 6), *planted_rows(net, "scaled", 3, 1, 1))
    taps = np.repeat(net.normal(1, 1, 3, 3), FULL, 0)
    hidden = net.conv("depthwise", hidden, taps, group=FULL)
    model = net.build(net.conv("consumer", hidden, planted_columns(net, "scaled", 4, 1, 1)))
    small = condensed(model, {"producer": EXACT, "depthwise": EXACT})
    assert attributes(small, "depthwise")["group"] == EXACT


@pytest.mark.parametrize("shape", [(0, -1), (-1, FULL * 16), (0, FULL * 16)])
def test_reshapes_follow(shape: tuple[int, ...]) -> None:
    net = Net()
    hidden = net.conv("producer", net.input("batch", 3, 6, 6), *planted_rows(net, "scaled", 3, 3, 3))
    hidden = net.node("Reshape", net.node("Relu", hidden), net.ints(*shape))
    columns = planted_columns(net, "scaled", 4, 16).reshape(4, -1)
    condensed(net.build(net.dense("consumer", hidden, columns)), {"producer": EXACT})


def test_a_reshape_by_a_computed_shape_keeps_its_batch() -> None:
    """Shape, Gather, Concat as exporters write it: another batch size still runs."""
    net = Net()
    data = net.input("batch", 3, 6, 6)
    hidden = net.node("Relu", net.conv("producer", data, *planted_rows(net, "scaled", 3, 3, 3)))
    batch = net.node("Gather", net.node("Shape", data), net.ints(0), axis=0)
    hidden = net.node("Reshape", hidden, net.node("Concat", batch, net.ints(FULL * 16), axis=0))
    columns = planted_columns(net, "scaled", 4, 16).reshape(4, -1)
    condensed(net.build(net.dense("consumer", hidden, columns)), {"producer": EXACT})


def test_a_channel_count_from_a_shape_follows() -> None:
    """The flattened size is computed from the data's own shape: nothing needs to be written."""
    net = Net()
    hidden = net.node("Relu", net.conv("producer", net.input("batch", 3, 6, 6), *planted_rows(net, "scaled", 3, 3, 3)))
    sizes = net.node("Shape", hidden)
    batch, channels = (net.node("Gather", sizes, net.ints(i), axis=0) for i in (0, 1))
    shape = net.node("Concat", batch, net.node("Mul", channels, net.ints(16)), axis=0)
    hidden = net.node("Reshape", hidden, shape)
    columns = planted_columns(net, "scaled", 4, 16).reshape(4, -1)
    condensed(net.build(net.dense("consumer", hidden, columns)), {"producer": EXACT})


def test_a_number_from_a_channel_count_stays() -> None:
    """√d must not follow the slicing: the small model divides by the original width."""
    net = Net()
    hidden = net.dense("producer", net.input("batch", 6), *planted_rows(net, "scaled", 6))
    channels = net.node("Gather", net.node("Shape", hidden), net.ints(1), axis=0)
    root = net.node("Sqrt", net.node("Cast", channels, to=1))
    hidden = net.node("Div", net.node("Relu", hidden), root)
    model = net.build(net.dense("consumer", hidden, planted_columns(net, "scaled", 4)))
    result = condense(model, LOSSLESS).model
    assert_close(model, result, 2e-5)
