"""Dependency groups of whole graphs: what is joined, what is pinned and why, what may merge with what."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support.planted.net import Net, traced
from support.traces import grouped, reasons

from onnx_condense.operators.reasons import Because, Reason


def chain() -> tuple[Net, str]:
    net = Net()
    return net, net.node("Relu", net.dense("first", net.input("batch", 5), net.normal(6, 5), net.normal(6)))


def test_a_chain() -> None:
    net, hidden = chain()
    trace = traced(net.build(net.dense("second", hidden, net.normal(4, 6))))
    assert grouped(trace) == [("first",)]
    assert [len(g.units) for g in trace.groups] == [6]
    assert [c.tolist() for c in trace.groups[0].cells] == [[0, 1, 2, 3, 4, 5]]
    assert reasons(trace) == {"second": Because(Reason.OUTPUT)}
    assert trace.refusals[0].parameters == 24


def test_residual_streams_are_one_group() -> None:
    net = Net()
    stream = net.conv("stem", net.input("batch", 3, 6, 6), net.normal(8, 3, 3, 3))
    for name in ("a", "b"):
        inner = net.node("Relu", net.conv(f"{name}1", stream, net.normal(5, 8, 1, 1)))
        stream = net.node("Add", stream, net.conv(f"{name}2", inner, net.normal(8, 5, 1, 1)))
    trace = traced(net.build(net.conv("head", stream, net.normal(4, 8, 1, 1))))
    assert sorted(grouped(trace)) == [("a1",), ("b1",), ("stem", "a2", "b2")]


def test_a_residual_with_the_input_pins() -> None:
    net = Net()
    data = net.input("batch", 6)
    hidden = net.node("Add", data, net.dense("first", data, net.normal(6, 6)))
    trace = traced(net.build(net.dense("second", hidden, net.normal(4, 6))))
    assert grouped(trace) == []
    assert reasons(trace)["first"] == Because(Reason.MEETS_OTHERS, "an Add")


def test_concat_keeps_groups_apart() -> None:
    net = Net()
    data = net.input("batch", 5)
    parts = [net.dense(name, data, net.normal(n, 5)) for name, n in (("left", 4), ("right", 6))]
    trace = traced(net.build(net.dense("head", net.node("Concat", *parts, axis=1), net.normal(3, 10))))
    assert grouped(trace) == [("left",), ("right",)]


def test_split_halves_are_cells() -> None:
    """Channels merge within a half only: different consumers read the halves."""
    net = Net()
    hidden = net.dense("first", net.input("batch", 5), net.normal(10, 5))
    left, right = net.multiple("Split", hidden, net.ints(4, 6), outputs=2, axis=1)
    trace = traced(net.build(net.dense("a", left, net.normal(3, 4)), net.dense("b", right, net.normal(3, 6))))
    (group,) = trace.groups
    assert sorted(c.tolist() for c in group.cells) == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]


def test_a_slice_read_beside_the_whole_makes_cells() -> None:
    net = Net()
    hidden = net.dense("first", net.input("batch", 5), net.normal(6, 5))
    part = net.node("Slice", hidden, net.ints(0), net.ints(2), net.ints(1))
    trace = traced(net.build(net.dense("a", hidden, net.normal(3, 6)), net.dense("b", part, net.normal(3, 2))))
    (group,) = trace.groups
    assert sorted(c.tolist() for c in group.cells) == [[0, 1], [2, 3, 4, 5]]


def test_a_gather_that_repeats_a_channel_makes_cells() -> None:
    net = Net()
    hidden = net.dense("first", net.input("batch", 5), net.normal(4, 5))
    hidden = net.node("Gather", hidden, net.ints(0, 1, 2, 3, 0), axis=1)
    trace = traced(net.build(net.dense("head", hidden, net.normal(3, 5))))
    assert sorted(c.tolist() for c in trace.groups[0].cells) == [[0], [1, 2, 3]]


def test_a_gate_joins_its_producers() -> None:
    net = Net()
    data = net.input("batch", 5)
    gate = net.node("Sigmoid", net.dense("gate", data, net.normal(6, 5)))
    hidden = net.node("Mul", net.dense("value", data, net.normal(6, 5)), gate)
    trace = traced(net.build(net.dense("head", hidden, net.normal(3, 6))))
    assert [set(layers) for layers in grouped(trace)] == [{"gate", "value"}]


def test_flatten_repeats_channels_over_places() -> None:
    net = Net()
    hidden = net.node("Flatten", net.conv("first", net.input("batch", 3, 4, 5), net.normal(6, 3, 3, 3)))
    trace = traced(net.build(net.dense("head", hidden, net.normal(3, 36))))
    (group,) = trace.groups
    slot = next(s for s in trace.slots if s.role == "contracted")
    places = np.searchsorted(group.units, trace.unit_of[slot.labels.reshape(-1) >> 32])
    assert places.tolist() == np.repeat(np.arange(6), 6).tolist()


def test_depthwise_and_pointwise_are_one_group() -> None:
    net = Net()
    hidden = net.conv("expand", net.input("batch", 3, 6, 6), net.normal(8, 3, 1, 1))
    hidden = net.conv("depthwise", net.node("Relu", hidden), net.normal(8, 1, 3, 3), group=8)
    trace = traced(net.build(net.conv("project", hidden, net.normal(4, 8, 1, 1))))
    assert grouped(trace) == [("expand",)]
    assert {s.role for s in trace.slots if trace.facts.nodes[s.node].name == "depthwise"} == {"carried"}


def unsupported(net: Net, hidden: str) -> str:
    return net.node("Compress", hidden, net.constant(np.ones(6, dtype=bool)), axis=1)


def normalized(net: Net, hidden: str) -> str:
    return net.node("LayerNormalization", hidden, net.constant(np.ones(6)))


def softmax(net: Net, hidden: str) -> str:
    return net.node("Softmax", hidden, axis=-1)


def squared(net: Net, hidden: str) -> str:
    return net.node("MatMul", net.node("Transpose", hidden, perm=[1, 0]), hidden)


def reduced(net: Net, hidden: str) -> str:
    return net.node("ReduceMean", hidden, axes=[1])


def tied(net: Net, hidden: str) -> str:
    shared = net.constant(net.normal(6, 6), "shared")
    return net.node("MatMul", net.node("Relu", net.node("MatMul", hidden, shared)), shared)


@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        (unsupported, Reason.UNSUPPORTED),
        (normalized, Reason.NORMALIZES_TOGETHER),
        (softmax, Reason.MIXES),
        (squared, Reason.PRODUCT_OF_DATA),
        (reduced, Reason.REDUCES),
        (tied, Reason.OUTPUT),
    ],
)
def test_readers_that_pin(reader: Callable[[Net, str], str], reason: Reason) -> None:
    net, hidden = chain()
    trace = traced(net.build(reader(net, hidden)))
    assert "first" not in {layer for group in trace.groups for layer in group.layers}
    assert reasons(trace)["first"].root is reason


def test_an_output_in_the_middle_pins() -> None:
    net, hidden = chain()
    trace = traced(net.build(net.dense("second", hidden, net.normal(4, 6)), hidden))
    assert grouped(trace) == []
    assert reasons(trace)["first"] == Because(Reason.OUTPUT)


def test_a_subgraph_that_captures_pins() -> None:
    net, hidden = chain()
    branch = [helper.make_node("Identity", [hidden], ["inner"])]
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    body = helper.make_graph(branch, "body", [], [value])
    other = helper.make_graph([helper.make_node("Neg", [hidden], ["inner2"])], "other", [], [
        helper.make_tensor_value_info("inner2", TensorProto.FLOAT, None)
    ])  # fmt: skip
    made = net.node("If", net.constant(np.array(True)), then_branch=body, else_branch=other)
    trace = traced(net.build(net.dense("second", hidden, net.normal(4, 6)), made))
    assert grouped(trace) == []
    assert reasons(trace)["first"].root is Reason.READ_IN_BODY


def test_grouped_convolutions_shrink_evenly() -> None:
    """What a group reads and what it makes are lines that lose equally many channels."""
    net = Net()
    hidden = net.conv("first", net.input("batch", 3, 6, 6), net.normal(8, 3, 1, 1))
    hidden = net.conv("grouped", hidden, net.normal(6, 4, 1, 1), group=2)
    trace = traced(net.build(net.conv("head", hidden, net.normal(4, 6, 1, 1))))
    assert grouped(trace) == [("first",), ("grouped",)]
    assert [p.lines.tolist() for g in trace.groups for p in g.partitions] == [[0] * 4 + [1] * 4, [0] * 3 + [1] * 3]


def test_a_weight_that_layers_share_counts_once() -> None:
    net = Net()
    shared = net.constant(net.normal(6, 4), "shared")
    outputs = [net.node("MatMul", net.input("batch", 6, name=name), shared) for name in ("left", "right")]
    assert [refusal.parameters for refusal in traced(net.build(*outputs)).refusals] == [24, 0]


def test_groups_of_one_channel_are_refused() -> None:
    net = Net()
    hidden = net.conv("first", net.input("batch", 3, 6, 6), net.normal(8, 3, 1, 1))
    hidden = net.conv("grouped", hidden, net.normal(4, 2, 1, 1), group=4)
    trace = traced(net.build(net.conv("head", hidden, net.normal(4, 4, 1, 1))))
    assert grouped(trace) == [("first",)]
    assert reasons(trace)["grouped"] == Because(Reason.ALIKE, why=Because(Reason.LONELY))


def test_channels_stacked_on_others_that_stay_are_refused() -> None:
    net = Net()
    data = net.input("batch", 6)
    hidden, tapped = (net.dense(name, data, net.normal(6, 6)) for name in ("first", "tapped"))
    stacked = net.node("Concat", *(net.node("Unsqueeze", x, net.ints(1)) for x in (hidden, tapped)), axis=1)
    stacked = net.node("Reshape", stacked, net.ints(0, 12))
    trace = traced(net.build(net.dense("second", stacked, net.normal(4, 12)), tapped))
    assert grouped(trace) == []
    assert reasons(trace)["first"] == Because(Reason.ALIKE, why=Because(Reason.OUTPUT))


def test_layers_without_names_go_by_their_weights() -> None:
    net, hidden = chain()
    model = net.build(net.dense("second", hidden, net.normal(4, 6)))
    for node in model.graph.node:
        node.name = ""
    assert grouped(traced(model)) == [("first.weight",)]


def test_a_single_channel_is_no_group() -> None:
    net = Net()
    hidden = net.dense("first", net.input("batch", 5), net.normal(1, 5))
    trace = traced(net.build(net.dense("second", hidden, net.normal(4, 1))))
    assert grouped(trace) == []
    assert reasons(trace)["first"] == Because(Reason.ONE_CHANNEL)


def test_reached_share() -> None:
    """Everything is sliced in a chain of two; nothing where the group is pinned."""
    net, hidden = chain()
    assert traced(net.build(net.dense("second", hidden, net.normal(4, 6)))).reached() == 1
    net, hidden = chain()
    assert traced(net.build(unsupported(net, hidden))).reached() == 0


def test_reached_share_of_recurrent_weights_and_tables() -> None:
    """They count, whether they are sliced or not."""
    net = Net()
    table = net.constant(net.normal(10, 6))
    tokens = net.input("batch", 3, name="tokens")
    net.inputs[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    hidden = net.node("Transpose", net.node("Gather", table, tokens), perm=[1, 0, 2])
    weights = (net.constant(net.normal(1, 16, size)) for size in (6, 4))
    steps = net.multiple("LSTM", hidden, *weights, outputs=1, hidden_size=4)[0]
    flat = net.node("Reshape", steps, net.ints(-1, 4))
    whole, input_side = 60 + 16 * (6 + 4), 60 + 16 * 6
    assert traced(net.build(flat)).reached() == pytest.approx(input_side / whole)
    assert traced(net.build(net.dense("last", flat, net.normal(3, 4)))).reached() == 1


def test_tracing_is_deterministic() -> None:
    def model() -> onnx.ModelProto:
        net, hidden = chain()
        return net.build(net.dense("second", hidden, net.normal(4, 6)))

    one, two = traced(model()), traced(model())
    assert [g.units.tolist() for g in one.groups] == [g.units.tolist() for g in two.groups]


def test_a_weight_without_numbers_is_refused() -> None:
    net = Net()
    nothing = net.node("Slice", net.input("batch", 3), net.ints(0), net.ints(0), net.ints(1))
    hidden = net.node("MatMul", nothing, net.constant(np.zeros((0, 6))), name="empty")
    trace = traced(net.build(net.dense("second", hidden, net.normal(4, 6), net.normal(4))))
    assert grouped(trace) == []


def test_a_weight_that_is_also_part_of_a_constant_is_refused() -> None:
    net = Net()
    data, shared = net.input("batch", 6), net.constant(net.normal(6, 6), "shared")
    constant = net.node("ReduceSum", net.node("Concat", shared, shared, axis=0), keepdims=0)
    hidden = net.node("Relu", net.node("MatMul", data, shared, name="first"))
    trace = traced(net.build(net.dense("second", net.node("Mul", hidden, constant), net.normal(4, 6))))
    assert reasons(trace)["first"] == Because(Reason.WEIGHTS_USED_ELSEWHERE)
