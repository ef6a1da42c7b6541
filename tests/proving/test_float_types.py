"""float16, bfloat16 and float64 weights keep their type, and their error bounds fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given
from onnx import TensorProto, numpy_helper
from support.drawing import examples
from support.lossless import LOSSLESS
from support.planted.cases import (
    EXACT,
    FULL,
    MAINS,
    copies,
    planted_columns,
    planted_rows,
)
from support.planted.net import Net
from support.proofs import condensed, disturbed, proof
from support.random_graphs import models
from support.retyped import narrowed, retyped

from onnx_condense import InputError, Options, VerificationError, condense
from onnx_condense.errors import CondenseError
from onnx_condense.merging.plan import GroupPlan
from onnx_condense.merging.twin import Twin
from onnx_condense.tracing.trace import Group

NEAR = Options(threshold=0.9, align=1)
KINDS = {"float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE, "bfloat16": TensorProto.BFLOAT16}


def dense(net: Net, relation: str) -> str:
    hidden = net.node("Relu", net.dense("producer", net.input("batch", 6), *planted_rows(net, relation, 6)))
    return net.dense("consumer", hidden, planted_columns(net, relation, 4), net.normal(4), trans_b=False)


def product(net: Net, relation: str) -> str:
    hidden = net.node("Relu", net.matmul("producer", net.input("batch", 6), *planted_rows(net, relation, 6)))
    return net.matmul("consumer", hidden, planted_columns(net, relation, 4), net.normal(4))


def constant(net: Net, relation: str) -> str:
    """Channels that are constant go into the bias, which a MatMul has not."""
    rows, bias = planted_rows(net, "dead", 6)
    hidden = net.node("Relu", net.matmul("producer", net.input("batch", 6), rows, bias + 1))
    return net.matmul("consumer", hidden, planted_columns(net, "equal", 4))


def slopes(net: Net, relation: str) -> str:
    hidden = net.dense("producer", net.input("batch", 6), *planted_rows(net, relation, 6))
    hidden = net.node("PRelu", hidden, net.constant(copies("equal", 0.1 + 0.1 * np.abs(net.normal(FULL)))))
    return net.dense("consumer", hidden, planted_columns(net, relation, 4))


def normalized(net: Net, relation: str) -> str:
    hidden = net.dense("producer", net.input("batch", 6), *planted_rows(net, "equal", 6))
    parameters = [copies("equal", 0.5 + np.abs(net.normal(FULL))) for _ in range(4)]
    hidden = net.node("Relu", net.batchnorm(hidden, *parameters))
    return net.dense("consumer", hidden, planted_columns(net, "equal", 4), net.normal(4))


def conv(net: Net, relation: str) -> str:
    rows, bias = planted_rows(net, relation, 3, 3, 3)
    hidden = net.node("Relu", net.conv("producer", net.input("batch", 3, 8, 8), rows, bias, pads=[1] * 4))
    taps = copies(relation, net.normal(FULL, 1, 3, 3))
    hidden = net.node("Relu", net.conv("filter", hidden, taps, group=FULL))
    return net.conv("consumer", hidden, planted_columns(net, relation, 4, 3, 3), net.normal(4))


def transposed(net: Net, relation: str) -> str:
    rows, bias = planted_rows(net, relation, 3, 2, 2)
    kernels = net.constant(np.swapaxes(rows, 0, 1), "producer.weight")
    data = net.input("batch", 3, 4, 4)
    hidden = net.node("ConvTranspose", data, kernels, net.constant(bias), name="producer", strides=[2, 2])
    columns = net.constant(np.swapaxes(planted_columns(net, relation, 4, 2, 2), 0, 1))
    return net.node("ConvTranspose", net.node("Relu", hidden), columns, net.constant(net.normal(4)))


Body = Callable[[Net, str], str]
BODIES: tuple[Body, ...] = (dense, product, constant, slopes, normalized, conv, transposed)


def types(model: onnx.ModelProto) -> set[int]:
    return {t.data_type for t in model.graph.initializer if t.data_type != TensorProto.INT64}


def width(model: onnx.ModelProto) -> int:
    """The producer's channels."""
    shape = next(t.dims for t in model.graph.initializer if t.name.startswith("producer.weight"))
    return next(n for n in shape if n in (FULL, EXACT))


@pytest.mark.parametrize("body", BODIES, ids=lambda b: b.__name__)
@pytest.mark.parametrize("kind", ["float16", "float64"])
@pytest.mark.parametrize("options", [LOSSLESS, NEAR], ids=["lossless", "threshold"])
def test_weights_keep_their_type(body: Body, kind: str, options: Options) -> None:
    net = Net()
    model = retyped(net.build(body(net, "equal" if options.lossless else "scaled")), KINDS[kind])
    if kind == "float64" and body in (conv, transposed):
        with pytest.raises(InputError, match="no kernel for its types: convert the model to float32 first"):
            condense(model, options)
        return
    result = condense(model, options)
    assert width(result.model) == EXACT
    assert types(result.model) == {KINDS[kind]}


@pytest.mark.parametrize("body", BODIES, ids=lambda b: b.__name__)
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("options", [LOSSLESS, NEAR], ids=["lossless", "threshold"])
def test_weights_behind_a_cast_keep_their_type(body: Body, kind: str, options: Options) -> None:
    """As float16 and bfloat16 models are stored for devices that compute in float32."""
    net = Net()
    model = narrowed(net.build(body(net, "equal" if options.lossless else "scaled")), KINDS[kind])
    result = condense(model, options)
    assert width(result.model) == EXACT
    added = [TensorProto.FLOAT] if body is constant else []
    assert types(result.model) == {KINDS[kind], *added}, "a new bias has no Cast"
    assert [n.op_type for n in result.model.graph.node if n.op_type == "Cast"] == ["Cast"] * sum(
        n.op_type == "Cast" for n in model.graph.node
    )


def test_equal_rows_fold_into_one_rounding() -> None:
    """3 columns of float16 are added in float64: rounded once, not twice."""
    net = Net()
    rows, columns = net.normal(4, 6), net.normal(5, 4)
    rows[1] = rows[2] = rows[0]
    hidden = net.node("Relu", net.dense("producer", net.input("batch", 6), rows))
    model = retyped(net.build(net.dense("consumer", hidden, columns)), TensorProto.FLOAT16)
    small = condense(model, LOSSLESS).model
    found = next(numpy_helper.to_array(t) for t in small.graph.initializer if t.name == "consumer.weight")
    exact = columns.astype(np.float16).astype(np.float64)[:, :3].sum(1)
    np.testing.assert_array_equal(found[:, 0], exact.astype(np.float16))


def test_lossless_in_float16_rounds_scaled_rows() -> None:
    net = Net()
    result = condense(retyped(net.build(dense(net, "scaled")), TensorProto.FLOAT16), LOSSLESS)
    found = result.report.verification
    assert result.changed
    assert found is not None
    assert found.approximation_error <= 3e-3


def test_lossless_in_float64_is_exact_to_float64() -> None:
    net = Net()
    model = retyped(net.build(dense(net, "equal")), TensorProto.DOUBLE)
    found = condense(model, LOSSLESS).report.verification
    assert found is not None
    assert found.approximation_error <= 1e-15


def test_folding_float64_in_float32_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    model = retyped(net.build(dense(net, "equal")), TensorProto.DOUBLE)
    apply = Twin.apply

    def coarse(self: Twin, group: Group, plan: GroupPlan) -> None:
        apply(self, group, plan)
        for key, value in self.folded.items():
            self.folded[key] = value.astype(np.float32).astype(np.float64) * (1 + 1e-8)

    monkeypatch.setattr(Twin, "apply", coarse)
    with pytest.raises(VerificationError, match="lossless"):
        condense(model, LOSSLESS)


@pytest.mark.parametrize("layer", ["producer.weight", "consumer.weight"])
@pytest.mark.parametrize(("kind", "by"), [("float16", 0.05), ("float64", 1e-7)])
def test_a_wrong_weight_is_found(layer: str, kind: str, by: float) -> None:
    net = Net()
    model = retyped(net.build(dense(net, "equal")), KINDS[kind])
    opened, small, twin = condensed(model, LOSSLESS)
    proof(opened, small, twin, LOSSLESS)
    with pytest.raises(VerificationError, match="surgery"):
        proof(opened, disturbed(small, layer, by), twin, LOSSLESS)


def test_a_wrong_weight_is_found_where_float16_outputs_are_blind() -> None:
    net = Net()
    hidden = net.node("Relu", net.dense("producer", net.input("batch", 6), *planted_rows(net, "equal", 6)))
    hidden = net.node("Relu", net.dense("middle", hidden, planted_columns(net, "equal", 4)))
    model = net.build(net.dense("consumer", hidden, np.zeros((3, 4)), net.normal(3)))
    opened, small, twin = condensed(retyped(model, TensorProto.FLOAT16), LOSSLESS)
    proof(opened, small, twin, LOSSLESS)
    with pytest.raises(VerificationError, match="surgery"):
        proof(opened, disturbed(small, "middle.weight", 0.1), twin, LOSSLESS)


def test_rows_that_differ_by_more_than_rounding_are_not_equal_in_float16() -> None:
    """By 1 %: ten units of the type."""
    net = Net()
    rows = net.normal(FULL, 6)
    rows = rows[list(MAINS)] * (1 + 0.01 * net.normal(FULL, 6))
    hidden = net.node("Tanh", net.dense("producer", net.input("batch", 6), rows))
    model = net.build(net.dense("consumer", hidden, net.normal(4, FULL)))
    assert not condense(retyped(model, TensorProto.FLOAT16), LOSSLESS).changed


def test_random_graphs_in_float16_and_float64() -> None:
    """The surgery limits of these types are not too tight. Some functions have no kernels for them."""
    changed: list[int] = []

    @given(models())
    @examples(15)
    def check(model: onnx.ModelProto) -> None:
        for kind in ("float16", "float64"):
            for options in (LOSSLESS, NEAR):
                try:
                    result = condense(retyped(model, KINDS[kind]), options)
                except InputError:
                    continue
                changed.append(result.changed)

    check()
    assert sum(changed) > 20


def test_types_without_kernels_give_one_line() -> None:
    net = Net(22)
    model = retyped(net.build(conv(net, "equal")), TensorProto.BFLOAT16)
    with pytest.raises(CondenseError) as found:
        condense(model)
    assert str(found.value).startswith("onnxruntime cannot load the model: Could not find an implementation for Conv")
    assert str(found.value).endswith("convert the model to float32 first)")
    assert "\n" not in str(found.value)
