"""Weights that have a batch dimension: every member loses channels of its own, and as many as any other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, TensorShapeProto, helper, numpy_helper
from support.lossless import LOSSLESS
from support.planted.cases import (
    COPIES,
    EXACT,
    FULL,
    copies,
    planted_columns,
)
from support.planted.net import Net, assert_close

from onnx_condense import Options, analyze, condense
from onnx_condense.forms import stacked as found

Rows = NDArray[np.float32]

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
    nodes = [node for node in model.graph.node if node.op_type in ("MatMul", "Einsum")]
    return [shapes[name] for node in nodes for name in node.input if name in shapes]


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("relation", "function"), [("equal", "Tanh"), ("scaled", "Relu"), ("dead", "Sigmoid")])
def test_members_are_condensed_each(data: str, relation: str, function: str) -> None:
    model = experts(relation, data, function)
    assert_close(model, small := condense(model, LOSSLESS).model, 2e-5)
    assert stacked(small) == [(E, 6, EXACT), (E, EXACT, 4)]
    onnx.checker.check_model(small, full_check=True)
    extra = ["Add"] if relation == "dead" else []  # their constants
    assert [node.op_type for node in small.graph.node] == [*(node.op_type for node in model.graph.node), *extra]


@pytest.mark.parametrize("options", [LOSSLESS, Options(budget=("params", 0.6), align=1)])
def test_nodes_may_be_named_as_members_would_be(options: Options) -> None:
    """As torch names products: /MatMul, /MatMul_1."""
    model = experts()
    for number, node in enumerate(model.graph.node):
        node.name = f"/MatMul_{number}" if number else "/MatMul"
    small = condense(model, options).model
    names = [node.name for node in small.graph.node]
    assert {node.name for node in model.graph.node} <= set(names)
    assert len(names) == len(set(names))


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
    monkeypatch.setattr(found, "MOST", E - 1)
    assert stacked(condense(experts(), LOSSLESS).model) == [(E, 6, FULL), (E, FULL, 4)]


def planted(relation: str) -> tuple[Net, Rows, Rows, Rows]:
    """Rows [E, 8, 6], biases [E, 8] and columns [E, 4, 8], with other copies in each member."""
    net = Net()
    rows = np.stack([np.roll(copies(relation, net.normal(FULL, 6)), number, 0) for number in range(E)])
    bias = np.stack([np.roll(copies(relation, net.normal(FULL)), number, 0) for number in range(E)])
    columns = np.stack([np.roll(planted_columns(net, relation, 4), number, 1) for number in range(E)])
    return net, rows, bias, columns


@pytest.mark.parametrize("data", [(6, "places"), (E, 6, "places"), ("batch", 1, 6, 5)])
@pytest.mark.parametrize(("relation", "function"), [("equal", "Tanh"), ("scaled", "Relu"), ("dead", "Sigmoid")])
def test_on_the_left(data: tuple[int | str, ...], relation: str, function: str) -> None:
    net, rows, bias, columns = planted(relation)
    hidden = net.node("MatMul", net.constant(rows), net.input(*data), name="first")
    hidden = net.node(function, net.node("Add", hidden, net.constant(bias[:, :, None])))
    model = net.build(net.node("MatMul", net.constant(columns), hidden, name="second"))
    assert_close(model, small := condense(model, LOSSLESS).model, 2e-5)
    assert stacked(small) == [(E, EXACT, 6), (E, 4, EXACT)]
    onnx.checker.check_model(small, full_check=True)


@pytest.mark.parametrize("shape", [(1, E, 6, FULL), (E, 1, 6, FULL)])
@pytest.mark.parametrize("data", [("batch", 6), (1, "batch", 6), (4, 1, "batch", 6), (1, E, "batch", 6), (E, 2, 5, 6)])
def test_more_leading_axes(shape: tuple[int, ...], data: tuple[int | str, ...]) -> None:
    if (shape[0] == 1 and data[0] == E) or (shape[0] == E and data[:2] == (1, E)) or (shape[0] == E and data[0] == 4):
        pytest.skip("no such product")
    net, rows, bias, columns = planted("equal")
    hidden = net.node("MatMul", net.input(*data), net.constant(rows.transpose(0, 2, 1).reshape(shape)), name="first")
    hidden = net.node("Tanh", net.node("Add", hidden, net.constant(bias.reshape(*shape[:2], 1, FULL))))
    weight = net.constant(columns.transpose(0, 2, 1).reshape(*shape[:2], FULL, 4))
    model = net.build(net.node("MatMul", hidden, weight, name="second"))
    assert_close(model, small := condense(model, LOSSLESS).model, 2e-5)
    assert stacked(small) == [(*shape[:3], EXACT), (*shape[:2], EXACT, 4)]


EQUATIONS = {
    "unnamed": ("...i,eio->...eo", "...eo,eon->...en", ("batch", 2, 6), (0, 2, 1), (0, 2, 1)),
    "implied": ("bi,eio", "beo,eon->ben", ("batch", 6), (0, 2, 1), (0, 2, 1)),
    "shared": ("bi,eio->beo", "beo,eon->ben", ("batch", 6), (0, 2, 1), (0, 2, 1)),
    "its own": ("ebi,eio->ebo", "ebo,eon->ebn", (E, "batch", 6), (0, 2, 1), (0, 2, 1)),
    "members inside": ("bsi,oei->bseo", "bseo,noe->bsen", ("batch", 3, 6), (1, 0, 2), (1, 2, 0)),
    "made first": ("bei,eoi->obe", "obe,noe->bne", ("batch", E, 6), (0, 1, 2), (1, 2, 0)),
}


@pytest.mark.parametrize("weight_first", [False, True])
@pytest.mark.parametrize("case", EQUATIONS)
@pytest.mark.parametrize(("relation", "function"), [("equal", "Tanh"), ("scaled", "Relu"), ("dead", "Sigmoid")])
def test_einsum(case: str, weight_first: bool, relation: str, function: str) -> None:
    first, second, data, turned, behind = EQUATIONS[case]
    net, rows, _, columns = planted(relation)
    weights = [net.constant(rows.transpose(turned)), net.constant(columns.transpose(behind))]

    def product(equation: str, left: str, weight: str) -> str:
        if not weight_first:
            return net.node("Einsum", left, weight, equation=equation)
        terms, arrow, made = equation.partition("->")
        return net.node("Einsum", weight, left, equation=",".join(terms.split(",")[::-1]) + arrow + made)

    hidden = product(first, net.input(*data), weights[0])
    model = net.build(product(second, net.node(function, hidden), weights[1]))
    onnx.checker.check_model(model, full_check=True)
    assert_close(model, small := condense(model, LOSSLESS).model, 2e-5)
    assert sorted(d for shape in stacked(small) for d in shape) == sorted([E, 6, EXACT, E, EXACT, 4])
    onnx.checker.check_model(small, full_check=True)


GATES = {
    "data": lambda net: net.input(E, "places", 1, name="gate"),
    "softmax": lambda net: net.node(
        "Unsqueeze",
        net.node("Transpose", net.node("Softmax", net.dense("router", "x", net.normal(E, 6))), perm=[1, 0]),
        net.ints(2),
    ),
    "sigmoid": lambda net: net.node(
        "Unsqueeze",
        net.node("Transpose", net.node("Sigmoid", net.dense("router", "x", net.normal(E, 6))), perm=[1, 0]),
        net.ints(2),
    ),
}


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("relation", "function"), [("equal", "Tanh"), ("scaled", "Relu"), ("opposite", "Tanh")])
def test_gates(gate: str, relation: str, function: str, summed: bool) -> None:
    """What each member is multiplied with is the same for its channels, and another for those of others."""
    net, rows, _, columns = planted(relation)
    hidden = net.node("MatMul", net.input("places", 6), net.constant(rows.transpose(0, 2, 1)), name="first")
    hidden = net.node("Mul", GATES[gate](net), net.node(function, hidden))
    made = net.node("MatMul", hidden, net.constant(columns.transpose(0, 2, 1)), name="second")
    if summed:
        made = net.node(
            "ReduceSum",
            net.node("Mul", made, GATES["data"](net) if gate != "data" else "gate"),
            net.ints(0),
            keepdims=0,
        )
    model = net.build(made)
    assert_close(model, small := condense(model, LOSSLESS).model, 2e-5)
    assert stacked(small)[-2:] == [(E, 6, EXACT), (E, EXACT, 4)]


def test_channels_of_gated_members_that_are_summed() -> None:
    """They are one, and lose alike; a constant that is gated is none."""
    for relation, expected in (("equal", EXACT), ("shifted", FULL)):
        net = Net()
        rows = np.stack([copies(relation, net.normal(FULL, 6)).T for _ in range(E)])
        bias = np.zeros((E, 1, FULL))
        if relation == "shifted":
            bias[:, :, list(COPIES)] += 0.7
        hidden = net.node("MatMul", net.input("places", 6), net.constant(rows), name="expert")
        hidden = net.node("Mul", net.node("Add", hidden, net.constant(bias)), net.input(E, "places", 1, name="gate"))
        total = net.node("ReduceSum", hidden, net.ints(0), keepdims=0)
        model = net.build(net.dense("consumer", total, planted_columns(net, "equal", 4)))
        assert_close(model, small := condense(model, LOSSLESS).model, 2e-5)
        assert stacked(small) == [(E, 6, expected)]


SUMS = {
    "einsum": lambda net, made: net.node("Einsum", made, net.input("places", E, name="gate"), equation="enc,ne->nc"),
    "einsum, gate first": lambda net, made: net.node(
        "Einsum", net.input("places", E, name="gate"), made, equation="ne,enc->nc"
    ),
    "matmul": lambda net, made: net.node(
        "Squeeze",
        net.node("MatMul", net.input("places", 1, E, name="gate"), net.node("Transpose", made, perm=[1, 0, 2])),
        net.ints(1),
    ),
}


@pytest.mark.parametrize("how", SUMS)
@pytest.mark.parametrize("relation", ["equal", "scaled", "shifted", "other"])
def test_gated_sums_of_members(how: str, relation: str) -> None:
    """Channels of the members are one where they are summed; what is gated keeps a ratio, but no constant."""
    net = Net()
    planted_in = "equal" if relation == "other" else relation
    rows = np.stack([copies(planted_in, net.normal(FULL, 6)).T for _ in range(E)])
    bias = np.stack([copies(planted_in, net.normal(FULL)) for _ in range(E)])[:, None]
    if relation == "shifted":
        bias[:, :, list(COPIES)] += np.float32(0.7)
    if relation == "other":  # copies in two of the members alone
        rows[1] = net.normal(6, FULL)
    hidden = net.node("MatMul", net.input("places", 6), net.constant(rows), name="expert")
    hidden = net.node("Relu", net.node("Add", hidden, net.constant(bias)))
    made = SUMS[how](net, hidden)
    model = net.build(net.dense("consumer", made, planted_columns(net, "equal", 4)))
    assert_close(model, small := condense(model, LOSSLESS).model, 2e-5)
    assert stacked(small) == [(E, 6, EXACT if relation in ("equal", "scaled") else FULL)]


def test_gates_of_what_shrinks_along_the_members_stay() -> None:
    """Where the channels of a member become one, only members could go: the gate holds a number for each."""
    net = Net()
    rows = np.stack([net.normal(FULL, 6).T] * E)
    hidden = net.node("MatMul", net.input("places", 6), net.constant(rows), name="expert")
    hidden = net.node("Mul", hidden, net.input(E, "places", 1, name="gate"))
    total = net.node("ReduceMean", hidden, axes=[2], keepdims=1)
    moved = net.node("Transpose", net.node("Squeeze", total, net.ints(2)), perm=[1, 0])
    model = net.build(net.dense("consumer", moved, net.normal(4, E)))
    small = condense(model, Options(threshold=0.5, align=1)).model
    assert_close(model, small, 2e-5)
    assert stacked(small) == [(E, 6, FULL)]


@pytest.mark.parametrize("kind", ["If", "Loop"])
def test_in_bodies(kind: str) -> None:
    net, rows, bias, columns = planted("equal")
    inner = Net(first=1000)  # names of their own
    weights = [inner.constant(value.transpose(0, 2, 1)) for value in (rows, columns)]
    hidden = inner.node("MatMul", "state" if kind == "Loop" else "x", weights[0])
    hidden = inner.node("Tanh", inner.node("Add", hidden, inner.constant(bias[:, None])))
    made = inner.node("MatMul", hidden, weights[1])
    made = inner.node("Concat", made, made, axis=2)
    made = inner.node("Slice", made, inner.ints(0), inner.ints(6), inner.ints(2))
    value = [helper.make_tensor_value_info(made, TensorProto.FLOAT, [E, 2, 6])]
    if kind == "If":
        body = helper.make_graph(inner.nodes, "body", [], value, inner.initializers)
        condition = net.node("Greater", net.node("ReduceSum", net.input(E, 2, 6)), net.constant(np.float32(-1e9)))
        other = net.node("Neg", "x")
        least = helper.make_graph(
            [helper.make_node("Identity", [other], ["same"])],
            "other",
            [],
            [helper.make_tensor_value_info("same", TensorProto.FLOAT, [E, 2, 6])],
        )
        made = net.node("If", net.node("Squeeze", condition), then_branch=body, else_branch=least)
    else:
        formal = [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [E, 2, 6]),
        ]
        go_on = helper.make_node("Identity", ["on"], ["go_on"])
        value.insert(0, helper.make_tensor_value_info("go_on", TensorProto.BOOL, []))
        body = helper.make_graph([*inner.nodes, go_on], "body", formal, value, inner.initializers)
        made = net.node("Loop", net.constant(np.array(3)), net.constant(np.array(True)), net.input(E, 2, 6), body=body)
    model = net.build(made)
    if kind == "Loop":
        model.graph.output[0].type.tensor_type.shape.dim.extend([TensorShapeProto.Dimension() for _ in range(3)])
    onnx.checker.check_model(model, full_check=True)
    assert_close(model, small := condense(model, LOSSLESS).model, 2e-5)
    (body,) = (a.g for n in small.graph.node for a in n.attribute if a.name in ("body", "then_branch"))
    shapes = {t.name: tuple(t.dims) for t in body.initializer}
    found = [shapes[n.input[1]] for n in body.node if n.op_type == "MatMul"]
    assert found == [(E, 6, EXACT), (E, EXACT, 4)]
    assert {n.op_type for n in body.node} - {"Identity"} == {n.op_type for n in inner.nodes}
