"""Weights that have a batch dimension: every member loses channels of its own, and as many as any other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.lossless import LOSSLESS
from support.planted.net import EXACT, FULL, Net, assert_close, copies, planted_columns

from onnx_condense import Options, analyze, condense
from onnx_condense.forms import members

E = 3

DATA = {
    "shared": ("batch", 6),
    "its own": (E, "batch", 6),
    "one": (1, "batch", 6),
    "behind a batch": ("batch", E, 4, 6),
}


def experts(
    relation: str = "equal", data: str = "its own", function: str = "Tanh", turned: bool = True, opset: int = 17
) -> onnx.ModelProto:
    """Two products with stacked weights; other channels of each member are copies where they are turned."""
    net = Net(opset)
    rows = [copies(relation, net.normal(FULL, 6)) for _ in range(E)]
    bias = [copies(relation, net.normal(FULL)) for _ in range(E)]
    columns = [planted_columns(net, relation, 4) for _ in range(E)]
    for number in range(E if turned else 0):
        rows[number], bias[number] = np.roll(rows[number], number, 0), np.roll(bias[number], number, 0)
        columns[number] = np.roll(columns[number], number, 1)
    weight = net.constant(np.stack(rows).swapaxes(1, 2), "first.weight")
    hidden = net.node("MatMul", net.input(*DATA[data]), weight, name="first")
    hidden = net.node(function, net.node("Add", hidden, net.constant(np.stack(bias)[:, None])))
    weight = net.constant(np.stack(columns).swapaxes(1, 2), "second.weight")
    return net.build(net.node("MatMul", hidden, weight, name="second"))


def stacked(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    """The shapes of what each product multiplies with."""
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    return [shapes[node.input[1]] for node in model.graph.node if node.op_type == "MatMul"]


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("relation", "function"), [("equal", "Tanh"), ("scaled", "Relu"), ("dead", "Sigmoid")])
def test_members_are_condensed_each(data: str, relation: str, function: str) -> None:
    model = experts(relation, data, function)
    assert_close(model, small := condense(model, LOSSLESS).model, 2e-5)
    assert stacked(small) == [(E, 6, EXACT), (E, EXACT, 4)]
    onnx.checker.check_model(small, full_check=True)
    extra = ["Add"] if relation == "dead" else []  # their constants
    assert [node.op_type for node in small.graph.node] == [*(node.op_type for node in model.graph.node), *extra]


@pytest.mark.parametrize("opset", [11, 13])
def test_older_operator_sets(opset: int) -> None:
    model = experts(data="shared", opset=opset)
    assert_close(model, small := condense(model, LOSSLESS).model, 2e-5)
    assert stacked(small) == [(E, 6, EXACT), (E, EXACT, 4)]


def test_a_member_without_copies_keeps_all() -> None:
    """And so do the others."""
    model = experts()
    (weight,) = (t for t in model.graph.initializer if t.name == "first.weight")
    value = numpy_helper.to_array(weight).copy()
    value[1] += np.random.default_rng(0).standard_normal(value[1].shape).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(value, weight.name))
    small = condense(model, LOSSLESS).model
    assert stacked(small) == [(E, 6, FULL), (E, FULL, 4)]
    assert_close(model, small, 2e-5)


def test_members_whose_mean_is_read() -> None:
    """The channels that they have in common lose alike."""
    net = Net()
    rows = np.stack([copies("equal", net.normal(FULL, 6)).T for _ in range(E)])
    hidden = net.node("Relu", net.node("MatMul", net.input("batch", 6), net.constant(rows), name="expert"))
    total = net.node("ReduceMean", hidden, axes=[0], keepdims=0)
    model = net.build(net.dense("consumer", total, planted_columns(net, "equal", 4)))
    assert_close(model, small := condense(model, LOSSLESS).model, 2e-5)
    assert stacked(small) == [(E, 6, EXACT)]


@pytest.mark.parametrize("options", [Options(budget=("params", 0.6), align=1), Options(threshold=0.9, align=1)])
def test_with_loss(options: Options) -> None:
    model = experts("near")
    result = condense(model, options)
    (first, second) = stacked(result.model)
    assert first[2] == second[1] <= EXACT
    assert (first[0], second[0]) == (E, E)
    assert condense(model, options, replay=result.plan).model.SerializeToString() == result.model.SerializeToString()


def test_they_are_counted_and_reached() -> None:
    analysis = analyze(experts(data="shared"), LOSSLESS)
    assert analysis.share == 1
    assert [len(group.layers) for group in analysis.groups] == [E]
    assert analysis.model.macs == E * (6 * FULL + FULL * 4)


def test_weights_that_others_read_are_left_alone() -> None:
    model = experts()
    model.graph.node.append(onnx.helper.make_node("ReduceSum", ["first.weight"], ["sum"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, None))
    small = condense(model, LOSSLESS).model
    assert stacked(small)[0] == (E, 6, FULL)


def test_too_many_members_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MOST", E - 1)
    assert stacked(condense(experts(), LOSSLESS).model) == [(E, 6, FULL), (E, FULL, 4)]
