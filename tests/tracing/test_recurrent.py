"""Recurrent units: what pins them, what merges beyond exact copies, and how they are counted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from support.lossless import LOSSLESS
from support.planted.cases import (
    COPIES,
    EXACT,
    FULL,
    planted_columns,
)
from support.planted.net import (
    Net,
    assert_close,
    traced,
    widths,
)
from support.planted.recurrent import GATES, SIZE, Form, build, planted_node

from onnx_condense import Options, Plan, condense, rewrite
from onnx_condense.merging.twin import Twin
from onnx_condense.operators.reasons import Because, Reason
from onnx_condense.rewriting.sizes import count_macs


def _read(net: Net, hidden: str) -> str:
    """What a MatMul makes of a Y of one direction."""
    return net.matmul("consumer", net.node("Squeeze", hidden, net.ints(1)), net.normal(4, FULL))


def _given() -> onnx.ModelProto:
    """An initial state that the model is given."""
    net = Net()
    net.input(1, "batch", FULL, name="state")
    hidden = net.multiple("GRU", *_weights(net, "GRU"), "", "state", outputs=2, name="producer", hidden_size=FULL)
    return net.build(_read(net, hidden[0]), hidden[1])


def _returned() -> onnx.ModelProto:
    net = Net()
    hidden, last, _ = planted_node(net, "equal", Form("LSTM"), net.input(5, "batch", SIZE))
    return net.build(_read(net, hidden), last)


def _computed() -> onnx.ModelProto:
    """An initial state that cannot shrink."""
    net = Net()
    data = net.input(5, "batch", SIZE)
    weights = _weights(net, "GRU", data)
    start = net.node(
        "ReduceSum", net.node("Softmax", net.node("Slice", data, net.ints(0), net.ints(1), net.ints(0))), net.ints(2)
    )
    start = net.node("Expand", start, net.ints(1, 1, FULL))
    hidden = net.node("GRU", *weights, "", start, name="producer", hidden_size=FULL)
    return net.build(_read(net, hidden))


def _weights(net: Net, op: str, data: str = "") -> list[str]:
    """Data, W, R and B without copies among the first two units."""
    planted_node(net, "equal", Form(op), data or net.input(5, "batch", SIZE), "template")
    return list(net.nodes.pop().input)


def _shared() -> onnx.ModelProto:
    net = Net()
    weights = _weights(net, "RNN")
    one, two = (net.node("RNN", *weights, hidden_size=FULL, name=name) for name in ("producer", "other"))
    return net.build(_read(net, net.node("Add", one, two)))


def _from_data() -> onnx.ModelProto:
    """Recurrent weights that depend on data."""
    net = Net()
    data, weight, recurrent, bias = _weights(net, "RNN")
    factor = net.node("ReduceMean", data, keepdims=0)
    inputs = data, weight, net.node("Mul", recurrent, factor), bias
    return net.build(_read(net, net.node("RNN", *inputs, hidden_size=FULL, name="producer")))


def _infinite() -> onnx.ModelProto:
    net = Net()
    data, weight, recurrent, _ = _weights(net, "RNN")
    bias = net.constant(np.where(np.arange(2 * FULL) == 3, np.inf, 0.1).astype(np.float32)[None])
    return net.build(_read(net, net.node("RNN", data, weight, recurrent, bias, hidden_size=FULL, name="producer")))


def _single() -> onnx.ModelProto:
    net = Net()
    weights = net.constant(net.normal(1, 1, SIZE)), net.constant(net.normal(1, 1, 1))
    hidden = net.node("RNN", net.input(5, "batch", SIZE), *weights, hidden_size=1, name="producer")
    return net.build(net.matmul("consumer", net.node("Squeeze", hidden, net.ints(1)), net.normal(4, 1)))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_given, Reason.STATE_FROM_INPUT),
        (_returned, Reason.OUTPUT),
        (_computed, Reason.STATE_FROM_DATA),
        (_shared, Reason.WEIGHTS_USED_ELSEWHERE),
        (_from_data, Reason.RECURRENT_FROM_DATA),
        (_infinite, Reason.WEIGHTS_NOT_FINITE),
        (_single, Reason.ONE_CHANNEL),
    ],
)
def test_units_that_stay(make: Callable[[], onnx.ModelProto], reason: Reason) -> None:
    model = make()
    assert {r.layer: r.reason for r in traced(model).refusals}["producer"] == Because(reason)
    assert widths(condense(model, LOSSLESS).model) == widths(model)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("relation", ["equal", "opposite", "shifted", "unread"])
def test_units_that_start_from_data_are_channels_of_that_data(directions: int, relation: str) -> None:
    """An encoder, whose last states start a decoder; both must have the same copies."""
    net = Net()
    data, form = net.input(5, "batch", SIZE), Form("LSTM", directions=directions)
    _, last, cell = planted_node(net, relation, form, data, "encoder")
    hidden = planted_node(net, relation, form, data)[0]
    net.nodes[-1].input.extend(["", last, cell])
    hidden = net.node("Reshape", net.node("Transpose", hidden, perm=[0, 2, 1, 3]), net.ints(0, 0, directions * FULL))
    columns = [planted_columns(net, relation, 4) for _ in range(directions)]
    columns = [np.roll(part, 3 * i, 1) for i, part in enumerate(columns)]
    model = net.build(net.matmul("consumer", hidden, np.hstack(columns)))
    small = condense(model, LOSSLESS).model
    width = FULL if relation == "shifted" else EXACT
    assert widths(small) == {"encoder": width, "producer": width, "consumer": 4}
    assert_close(model, small, 2e-5)


def test_copies_that_start_differently_stay() -> None:
    net = Net()
    data = net.input(5, "batch", SIZE)
    start = net.matmul("start", net.node("Slice", data, net.ints(0), net.ints(1), net.ints(0)), net.normal(FULL, SIZE))
    hidden = planted_node(net, "equal", Form("GRU"), data)[0]
    net.nodes[-1].input.extend(["", start])
    model = net.build(_read(net, hidden))
    small = condense(model, LOSSLESS).model
    assert widths(small) == widths(model)
    assert "start" in {layer for group in traced(model).groups for layer in group.layers}


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("directions", [1, 2])
def test_nearly_equal_units_merge_at_a_threshold(op: str, directions: int) -> None:
    """With equal gates and candidates the merge is by 1, and the small model is its twin."""
    model = build("near", Form(op, directions=directions))
    result = condense(model, Options(threshold=0.999, align=1))
    assert widths(result.model)["producer"] == EXACT
    proof = result.report.verification
    assert proof is not None
    assert proof.surgery_error <= 1e-6
    assert 1e-5 < proof.approximation_error < 1e-2
    (plan,) = (g for g in result.plan.groups if g.layers == ("producer",))
    assert all(np.array(read.ratio)[list(COPIES)] == pytest.approx(1) for read in plan.reads)


def test_opposite_units_take_the_opposite_column() -> None:
    plan = condense(build("opposite", Form("LSTM", peepholes=True, initial="constant")), LOSSLESS).plan
    (group,) = plan.groups
    for read in group.reads:
        assert sorted(set(read.ratio)) == pytest.approx([-1, 1])


def test_a_plan_replays() -> None:
    model = build("equal", Form("GRU", directions=2, initial="derived"))
    result = condense(model, LOSSLESS)
    assert_close(result.model, rewrite(model, Plan.from_json(result.plan.to_json())), 1e-6)


def test_states_of_zeros_are_left_out_and_the_attribute_follows() -> None:
    small = condense(build("equal", Form("LSTM", initial="derived")), LOSSLESS).model
    node = next(n for n in small.graph.node if n.op_type == "LSTM")
    assert not any(node.input[5:7])
    assert {a.name: a.i for a in node.attribute}["hidden_size"] == EXACT
    assert "ConstantOfShape" not in {n.op_type for n in small.graph.node}


def test_what_does_not_shrink_keeps_its_states() -> None:
    model = build("shifted", Form("LSTM", initial="derived"))
    assert "ConstantOfShape" in {n.op_type for n in condense(model, LOSSLESS).model.graph.node}


def test_units_that_read_only_each_other_are_unread() -> None:
    """Nobody else reads units 0 and 1, which read each other."""
    net = Net()
    data, weight, _, bias = _weights(net, "RNN")
    recurrent = net.normal(1, FULL, FULL) * np.float32(0.4)
    recurrent[:, 2:, :2] = 0
    hidden = net.node("RNN", data, weight, net.constant(recurrent), bias, hidden_size=FULL, name="producer")
    columns = net.normal(4, FULL)
    columns[:, :2] = 0
    model = net.build(net.matmul("consumer", net.node("Squeeze", hidden, net.ints(1)), columns))
    small = condense(model, LOSSLESS).model
    assert FULL - widths(small)["producer"] >= 2
    assert_close(model, small, 1e-6)


def test_a_residual_around_a_recurrent_node() -> None:
    """Its units are the channels that it reads, as well."""
    net = Net()
    rows = net.normal(FULL, SIZE) * np.float32(0.4)
    rows[list(COPIES)] = rows[[0, 1, 5]]
    hidden = net.matmul("first", net.input(5, "batch", SIZE), rows)
    node = planted_node(net, "equal", Form("GRU", size=FULL), hidden)[0]
    model = net.build(
        _read(net, net.node("Unsqueeze", net.node("Add", hidden, net.node("Squeeze", node, net.ints(1))), net.ints(1)))
    )
    small = condense(model, LOSSLESS).model
    assert {k: v for k, v in widths(small).items() if k != "consumer"} == {"first": EXACT, "producer": EXACT}
    assert_close(model, small, 2e-5)


def test_the_width_of_recurrent_units_is_not_aligned() -> None:
    assert widths(condense(build("equal", Form("LSTM")), Options(lossless=True, align=4)).model)["producer"] == EXACT


def test_recurrent_weights_count() -> None:
    """Every step multiplies W and R; a consumer reads what is sliced."""
    model = build("equal", Form("GRU"))
    trace = traced(model)
    recurrent, consumer = 3 * FULL * (SIZE + FULL), 4 * FULL
    assert trace.reached() == 1
    assert count_macs(Twin(trace)) == 5 * 8 * (recurrent + consumer)
    trace = traced(_given())
    assert trace.reached() == 0
    assert {r.layer: r.parameters for r in trace.refusals}["producer"] == recurrent


def _both(*, uneven: int = 0, order: tuple[int, ...] = (0, 2, 1, 3)) -> onnx.ModelProto:
    """Both directions of a GRU with other copies in each; `uneven` of the second's are none."""
    model = build("equal", Form("GRU", directions=2))
    weights = {t.name: t for t in model.graph.initializer}
    node = next(n for n in model.graph.node if n.op_type == "GRU")
    changed = onnx.numpy_helper.to_array(weights[node.input[1]]).copy()
    changed.reshape(2, 3, FULL, SIZE)[1, :, [(c + 3) % FULL for c in COPIES[:uneven]]] += 0.5
    weights[node.input[1]].CopyFrom(onnx.numpy_helper.from_array(changed, node.input[1]))
    transpose = next(n for n in model.graph.node if n.op_type == "Transpose")
    transpose.attribute[0].ints[:] = order
    return model


@pytest.mark.parametrize(("uneven", "width"), [(0, 5), (1, 6), (2, 7), (3, 8)])
def test_both_directions_lose_equally_many_units(uneven: int, width: int) -> None:
    model = _both(uneven=uneven)
    small = condense(model, LOSSLESS).model
    assert widths(small)["producer"] == width
    assert_close(model, small, 2e-5)


def test_directions_that_are_mixed_unit_by_unit_stay_where_they_differ() -> None:
    """A Reshape that puts unit i of both directions side by side has no meaning for unlike units."""
    model = _both(order=(0, 2, 3, 1))
    result = condense(model, LOSSLESS)
    assert widths(result.model)["producer"] == FULL
    assert result.report.warnings


def test_last_states_of_both_directions_side_by_side() -> None:
    """As torch writes it: one state is taken after the other."""
    net = Net()
    _, last, _ = planted_node(net, "equal", Form("LSTM", directions=2), net.input(5, "batch", SIZE))
    taken = [net.node("Gather", last, net.constant(np.int64(i)), axis=0) for i in (0, 1)]
    halves = net.multiple("Split", last, outputs=2, axis=0)
    halves = [net.node("Squeeze", half, net.ints(0)) for half in halves]
    made = net.node("Concat", *taken, *halves[::-1], axis=-1)
    model = net.build(net.matmul("consumer", made, net.normal(4, 4 * FULL)))
    small = condense(model, LOSSLESS).model
    assert widths(small)["producer"] == EXACT
    assert_close(model, small, 2e-5)


def test_directions_that_are_added_merge_where_both_are_copies() -> None:
    """Units that meet at an Add are one channel: only unit 2 is a copy of unit 0 in both directions."""
    net = Net()
    hidden = planted_node(net, "equal", Form("RNN", directions=2), net.input(5, "batch", SIZE))[0]
    halves = net.multiple("Split", hidden, outputs=2, axis=1)
    model = net.build(_read(net, net.node("Add", *halves)))
    small = condense(model, LOSSLESS).model
    assert_close(model, small, 2e-5)
    assert widths(small)["producer"] == FULL - 1


@pytest.mark.parametrize(
    ("middle", "width"),
    [
        (lambda net, data: net.node("Relu", data), EXACT),
        (lambda net, data: net.node("Mul", data, net.constant(net.normal(FULL))), EXACT),
    ],
    ids=["function", "constant"],
)
def test_what_stands_between_unlike_directions(middle: Callable[[Net, str], str], width: int) -> None:
    """A function of each element passes; a constant per unit becomes another one in each direction."""
    net = Net()
    hidden = planted_node(net, "equal", Form("RNN", directions=2), net.input(5, "batch", SIZE))[0]
    hidden = net.node("Transpose", middle(net, hidden), perm=[0, 2, 1, 3])
    hidden = net.node("Reshape", hidden, net.ints(0, 0, -1))
    model = net.build(net.matmul("consumer", hidden, net.normal(4, 2 * FULL)))
    small = condense(model, LOSSLESS).model
    assert widths(small)["producer"] == width
    assert_close(model, small, 2e-5)
