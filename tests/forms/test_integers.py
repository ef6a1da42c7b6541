"""Operators on integers: exact merges, the same operators afterwards, the same integers out of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from support.lossless import LOSSLESS
from support.models import operators
from support.planted.cases import EXACT, FULL
from support.planted.net import Net, run, signed_feed
from support.planted.quantized import integer_columns, integer_rows, integers

from onnx_condense import condense
from onnx_condense.forms.integers import MEANINGS, enter
from onnx_condense.forms.stack import Entered
from onnx_condense.model.protos import names_read

CONTRIB = "com.microsoft"
Step = Callable[["Integer", str], str]


class Integer(Net):
    """A graph under construction whose tensors are uint8 in steps of 0.1 around 120."""

    def __init__(self, relation: str) -> None:
        super().__init__(13)
        self.relation = relation
        self.grid = self.constant(0.1), self.constant(np.array(120, dtype=np.uint8))
        self.fine = self.constant(0.02), self.constant(np.array(0, dtype=np.int8))

    def data(self, *shape: int | str) -> str:
        return self.node("QuantizeLinear", self.input(*shape), *self.grid)

    def contrib(self, op: str, *inputs: str, **attributes: Any) -> str:
        return self.node(op, *inputs, domain=CONTRIB, **attributes)

    def rows(self, *tail: int) -> tuple[str, str]:
        rows, bias = integer_rows(self, self.relation, *tail)
        return self.constant(rows), self.constant(20 * bias)

    def columns(self, outputs: int, *tail: int) -> str:
        return self.constant(integer_columns(self, self.relation, outputs, *tail))

    def turned(self, name: str) -> str:
        """The transposed constant."""
        value = next(numpy_helper.to_array(t) for t in self.initializers if t.name == name)
        return self.constant(np.ascontiguousarray(value.T))

    def convolved(self, data: str, weight: str, *bias: str, **attributes: Any) -> str:
        return self.node("QLinearConv", data, *self.grid, weight, *self.fine, *self.grid, *bias, **attributes)

    def finished(self, data: str) -> onnx.ModelProto:
        return self.build(self.node("DequantizeLinear", data, *self.grid))


def around(step: Step, outputs: int = 1) -> Callable[[Integer], onnx.ModelProto]:
    """QLinearConv, the step, QLinearConv."""

    def build(net: Integer) -> onnx.ModelProto:
        weight, bias = net.rows(3, 3, 3)
        hidden = net.convolved(net.data("batch", 3, 8, 8), weight, bias, name="producer", pads=[1] * 4)
        hidden = step(net, hidden)
        columns = [integer_columns(net, net.relation, 4, 1, 1) for _ in range(outputs)]
        return net.finished(net.convolved(hidden, net.constant(np.concatenate(columns, 1)), name="consumer"))

    return build


def contrib(op: str, **attributes: Any) -> Callable[[Integer], onnx.ModelProto]:
    return around(lambda net, x: net.contrib(op, x, *net.grid, *net.grid, **attributes))


def with_constant(op: str) -> Callable[[Integer], onnx.ModelProto]:
    def step(net: Integer, data: str) -> str:
        values = np.repeat(integers(net, 1), FULL).astype(np.uint8)
        values = values if net.relation == "equal" else values + np.arange(FULL, dtype=np.uint8)
        constant = net.constant(values.reshape(1, FULL, 1, 1))
        return net.contrib(op, data, *net.grid, constant, *net.grid, *net.grid)

    return around(step)


def concatenated(net: Integer, data: str) -> str:
    other = net.contrib("QLinearLeakyRelu", data, *net.grid, *net.grid, alpha=0.1)
    return net.contrib("QLinearConcat", *net.grid, data, *net.grid, other, *net.grid, axis=1)


def depthwise(net: Integer, data: str) -> str:
    taps = np.repeat(integers(net, 1, 1, 3, 3), FULL, axis=0)
    return net.convolved(data, net.constant(taps), group=FULL, pads=[1] * 4)


def products(net: Integer) -> onnx.ModelProto:
    weight = net.turned(net.rows(6)[0])
    hidden = net.node("QLinearMatMul", net.data("batch", 6), *net.grid, weight, *net.fine, *net.grid, name="producer")
    columns = net.turned(net.columns(4))
    return net.finished(net.node("QLinearMatMul", hidden, *net.grid, columns, *net.fine, *net.grid))


def gemms(net: Integer) -> onnx.ModelProto:
    weight, bias = net.rows(6)
    data, columns = net.data("batch", 6), net.turned(net.columns(4))
    hidden = net.contrib("QGemm", data, *net.grid, weight, *net.fine, bias, *net.grid, transB=1, name="producer")
    out = net.constant(np.arange(4, dtype=np.int32))
    return net.finished(net.contrib("QGemm", hidden, *net.grid, columns, *net.fine, out, *net.grid))


def sums(op: str) -> Callable[[Integer], onnx.ModelProto]:
    """A product of integers, scaled and rounded by nodes of their own, twice."""

    def build(net: Integer) -> onnx.ModelProto:
        conv = op == "ConvInteger"
        weight, columns = net.rows(3, 3, 3)[0] if conv else net.rows(6)[0], net.columns(4, *([1, 1] if conv else []))
        data = net.data("batch", 3, 8, 8) if conv else net.data("batch", 6)
        for name, values in (("producer", weight), ("consumer", columns)):
            values = values if conv else net.turned(values)
            made = net.node(op, data, values, net.grid[1], net.fine[1], name=name)
            made = net.node("Mul", net.node("Cast", made, to=TensorProto.FLOAT), net.constant(0.002))
            data = net.node("QuantizeLinear", net.node("Relu", made), *net.grid)
        return net.finished(data)

    return build


BUILDERS: dict[str, list[Callable[[Integer], onnx.ModelProto]]] = {
    "QLinearConv": [around(lambda net, x: x), around(depthwise)],
    "QLinearMatMul": [products],
    "ConvInteger": [sums("ConvInteger")],
    "MatMulInteger": [sums("MatMulInteger")],
    "QGemm": [gemms],
    "QLinearAdd": [
        with_constant("QLinearAdd"),
        around(lambda n, x: n.contrib("QLinearAdd", *2 * (x, *n.grid), *n.grid)),
    ],
    "QLinearMul": [with_constant("QLinearMul")],
    "QLinearAveragePool": [contrib("QLinearAveragePool", kernel_shape=[2, 2])],
    "QLinearGlobalAveragePool": [contrib("QLinearGlobalAveragePool")],
    "QLinearLeakyRelu": [contrib("QLinearLeakyRelu", alpha=0.1)],
    "QLinearSigmoid": [contrib("QLinearSigmoid")],
    "QLinearSoftmax": [contrib("QLinearSoftmax", axis=3, opset=13)],
    "QLinearConcat": [around(concatenated, outputs=2)],
}

CASES = [(build, f"{op}-{i}") for op, builders in BUILDERS.items() for i, build in enumerate(builders)]


def test_every_operator_on_integers_has_a_case() -> None:
    assert set(BUILDERS) == {op for _, op in MEANINGS}


def produced(model: onnx.ModelProto) -> int:
    """Channels of the producer: the axis of its weight that is not 3, 6 or a kernel's."""
    node = next(n for n in model.graph.node if n.name == "producer")
    shapes = {t.name: t.dims for t in model.graph.initializer if len(t.dims) > 1}
    shape = next(shapes[name] for name in node.input if name in shapes)
    return next(n for n in shape if n in (FULL, EXACT))


@pytest.mark.parametrize("build", [c[0] for c in CASES], ids=[c[1] for c in CASES])
@pytest.mark.parametrize(("relation", "width"), [("equal", EXACT), ("unread", EXACT), ("near", FULL)])
def test_planted_channels(build: Callable[[Integer], onnx.ModelProto], relation: str, width: int) -> None:
    model = build(Integer(relation))
    small = condense(model, LOSSLESS).model
    assert produced(small) == width
    before, after = (run(m, signed_feed(model))[0] for m in (model, small))
    assert len(np.unique(before)) > 3, "the outputs must depend on the inputs"
    np.testing.assert_array_equal(before, after)
    assert operators(small) == operators(model)
    kinds = [
        {t.data_type for t in m.graph.initializer if t.dims and t.name in names_read(m.graph)} for m in (model, small)
    ]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("build", [c[0] for c in CASES], ids=[c[1] for c in CASES])
def test_opening_and_closing_gives_the_model_back(build: Callable[[Integer], onnx.ModelProto]) -> None:
    model = build(Integer("near"))
    opened = enter(Entered(model))
    assert not set(operators(opened.model)) & {op for _, op in MEANINGS}
    assert opened.leave(opened.model, opened.model) == model


def test_tensors_that_are_named_like_what_is_opened_stay() -> None:
    model = contrib("QLinearSigmoid")(Integer("near"))
    for node in model.graph.node:
        node.input[:] = [f"__opened_{name}" if name.startswith("const") else name for name in node.input]
    for tensor in model.graph.initializer:
        tensor.name = f"__opened_{tensor.name}"
    opened = enter(Entered(model))
    assert opened.model is not model
    assert opened.leave(opened.model, opened.model) == model


def test_what_has_another_meaning_stays_closed() -> None:
    for attributes in ({"channels_last": 1, "kernel_shape": [1, 1]}, {"opset": 11}):
        op = "QLinearSoftmax" if "opset" in attributes else "QLinearAveragePool"
        model = contrib(op, **attributes)(Integer("equal"))
        assert set(operators(model)) - set(operators(enter(Entered(model)).model)) == {"QLinearConv"}
    net = Integer("equal")
    x = net.data("batch", 6)
    made = net.contrib("QGemm", x, *net.grid, net.rows(6)[0], *net.fine, "", *net.grid, transB=1, alpha=0.5)
    scaled = net.finished(made)
    assert enter(Entered(scaled)).model is scaled
    dynamic = Net(13)
    parts = dynamic.multiple("DynamicQuantizeLinear", dynamic.input("batch", 6), outputs=3)
    made = dynamic.node("MatMulInteger", parts[0], dynamic.constant(integers(dynamic, 6, 4)), parts[2])
    model = dynamic.build(dynamic.node("Cast", made, to=TensorProto.FLOAT))
    assert enter(Entered(model)).model is model
