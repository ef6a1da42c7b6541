"""The small model: biases that appear, private copies, and where weights live."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.lossless import LOSSLESS, condensed
from support.models import attributes, node, operators, weights
from support.planted.cases import (
    COPIES,
    EXACT,
    FULL,
    MAINS,
    planted_columns,
    planted_rows,
)
from support.planted.net import (
    Net,
    assert_close,
    traced,
    widths,
)

from onnx_condense import Options, condense, rewrite
from onnx_condense.merging.twin import Twin
from onnx_condense.rewriting.checks import check_shapes
from onnx_condense.rewriting.kept import Disagreement
from onnx_condense.tracing.trace import Trace

# ---------------------------------------------------------------------------------------------------- biases


def shifted(net: Net) -> str:
    return net.dense("producer", net.input("batch", 6), *planted_rows(net, "shifted", 6))


def test_a_matmul_without_bias_gets_an_add() -> None:
    net = Net()
    model = net.build(net.matmul("consumer", shifted(net), planted_columns(net, "shifted", 6)))
    small = condensed(model, {"producer": EXACT})
    assert operators(small) == ["Gemm", "MatMul", "Add"]
    assert [o.name for o in small.graph.output] == [o.name for o in model.graph.output]


def test_nodes_that_come_have_names_of_their_own() -> None:
    net = Net()
    made = net.matmul("consumer", shifted(net), planted_columns(net, "shifted", 6))
    small = condensed(net.build(net.node("Relu", made, name="consumer_bias")), {"producer": EXACT})
    assert [node.name for node in small.graph.node] == ["producer", "consumer", "consumer_bias_1", "consumer_bias"]


def test_a_matmul_uses_the_add_that_follows() -> None:
    net = Net()
    hidden = net.matmul("consumer", shifted(net), planted_columns(net, "shifted", 6), net.normal(6))
    small = condensed(net.build(net.node("Relu", hidden)), {"producer": EXACT})
    assert operators(small) == ["Gemm", "MatMul", "Add", "Relu"]


@pytest.mark.parametrize("alone", [True, False])
def test_a_batchnormalization_takes_a_bias_from_its_mean(alone: bool) -> None:
    """Where it alone reads the Conv, which has no bias then as before: the model does not become larger."""
    net = Net()
    rows, bias = planted_rows(net, "shifted", 6)
    hidden = net.conv("producer", net.input("batch", 6, 3, 3), rows[:, :, None, None], bias)
    made = net.conv("consumer", hidden, planted_columns(net, "shifted", 6)[:, :, None, None])
    results = [net.node("Relu", net.batchnorm(made, *net.normal(3, 6), np.ones(6)))]
    small = condensed(net.build(*results, *([] if alone else [net.node("Tanh", made)])), {"producer": EXACT})
    assert len(node(small, "consumer").input) == (2 if alone else 3)


def test_an_add_that_another_reads_past_is_left_alone() -> None:
    """The product is read twice: the Add behind it is only one of the readers."""
    net = Net()
    product = net.matmul("consumer", shifted(net), planted_columns(net, "shifted", 6))
    added = net.node("Add", product, net.constant(net.normal(6)))
    condensed(net.build(added, net.node("Tanh", product)), {"producer": EXACT})


def test_a_matmul_with_its_weight_on_the_left() -> None:
    """W · x with channels as rows, and no bias: the Add is a column."""
    net = Net()
    hidden = net.node("Transpose", shifted(net), perm=[1, 0])
    columns = net.constant(planted_columns(net, "shifted", 6), "left.weight")
    model = net.build(net.node("MatMul", columns, hidden, name="consumer"))
    condensed(model, {"producer": EXACT})


def test_a_gemm_without_bias_gets_one() -> None:
    net = Net()
    model = net.build(net.dense("consumer", shifted(net), planted_columns(net, "shifted", 6)))
    small = condensed(model, {"producer": EXACT})
    assert len(node(small, "consumer").input) == 3


@pytest.mark.parametrize("biased", [False, True])
def test_gemm_with_alpha_and_beta(biased: bool) -> None:
    net = Net()
    rows, bias = planted_rows(net, "shifted", 6)
    first = [net.constant(rows.T, "producer.weight"), net.constant(bias)]
    hidden = net.node("Gemm", net.input("batch", 6), *first, name="producer", alpha=0.5, beta=2.0)
    second = [net.constant(planted_columns(net, "shifted", 6).T, "consumer.weight")]
    second += [net.constant(net.normal(6))] if biased else []
    model = net.build(net.node("Gemm", hidden, *second, name="consumer", alpha=-1.5, beta=0.25))
    small = condensed(model, {"producer": EXACT})
    assert attributes(small, "consumer") == {"alpha": -1.5, "beta": 0.25}


def test_gemm_with_a_scalar_or_row_bias() -> None:
    """C may be broadcast: [1, n] or one number for all."""
    for shape in ((1, FULL), (1,), ()):
        net = Net()
        rows, bias = planted_rows(net, "scaled", 6)
        value = bias.reshape(shape) if shape == (1, FULL) else np.zeros(shape, dtype=np.float32)
        inputs = [net.constant(rows.T, "producer.weight"), net.constant(value)]
        hidden = net.node("Gemm", net.input("batch", 6), *inputs, name="producer")
        columns = planted_columns(net, "scaled", 4)
        condensed(net.build(net.dense("consumer", net.node("Relu", hidden), columns)), {"producer": EXACT})


def test_constants_reach_a_consumer_with_a_broadcast_bias() -> None:
    for shape in ((1, 6), (1,), ()):
        net = Net()
        columns = net.constant(planted_columns(net, "shifted", 6).T, "consumer.weight")
        bias = net.constant(np.full(shape, 0.5, dtype=np.float32))
        model = net.build(net.node("Gemm", shifted(net), columns, bias, name="consumer"))
        condensed(model, {"producer": EXACT})


# ---------------------------------------------------------------------------------------------------- sharing


def test_a_shared_bias_gets_a_private_copy() -> None:
    """Two layers with one bias initializer, of which one shrinks."""
    net = Net()
    data = net.input("batch", 6)
    rows, _ = planted_rows(net, "scaled", 6)
    zero = net.constant(np.zeros(FULL), "shared")
    hidden = net.node("Relu", net.node("Gemm", data, net.constant(rows.T, "producer.weight"), zero, name="producer"))
    other = net.node("Gemm", data, net.constant(net.normal(6, FULL), "other.weight"), zero, name="other")
    columns = planted_columns(net, "scaled", 4)
    model = net.build(net.dense("consumer", hidden, columns), net.node("Softmax", other))
    small = condensed(model, {"producer": EXACT, "other": FULL})
    assert weights(small)["shared"].shape == (FULL,)
    assert node(small, "producer").input[2] != node(small, "other").input[2]


def test_shared_constants_that_all_shrink_alike_stay_one() -> None:
    net = Net()
    data = net.input("batch", 6)
    slope = net.constant(np.full(FULL, 0.25), "slope")
    hidden = net.node("PRelu", net.dense("producer", data, *planted_rows(net, "scaled", 6)), slope)
    hidden = net.node("PRelu", hidden, slope)
    model = net.build(net.dense("consumer", hidden, planted_columns(net, "scaled", 4)))
    small = condensed(model, {"producer": EXACT})
    assert sum(t.dims == [EXACT] and "slope" in t.name for t in small.graph.initializer) == 1


def test_tied_matrices_are_left_alone() -> None:
    net = Net()
    data = net.input("batch", 8)
    tied = net.constant(net.normal(8, 8), "tied")
    hidden = net.node("Relu", net.node("MatMul", data, tied, name="a"))
    hidden = net.node("Relu", net.node("MatMul", hidden, tied, name="b"))
    model = net.build(net.dense("consumer", hidden, net.normal(4, 8)))
    result = condense(model, LOSSLESS)
    assert widths(result.model)["a"] == widths(result.model)["b"] == 8
    assert "whose weight also reads something else" in " ".join(r.reason for r in result.report.refusals)


def siamese(later: str) -> tuple[Net, str, str]:
    """Two branches through the same two layers, planted; `later` is the second branch's activation."""
    net = Net()
    rows, bias = planted_rows(net, "scaled", 6)
    first, offsets = net.constant(rows.T, "first"), net.constant(bias, "offsets")
    second = net.constant(planted_columns(net, "scaled", 5).T, "second")
    branches = []
    for name, activation in (("left", "Relu"), ("right", later)):
        hidden = net.node("Gemm", net.input("batch", 6, name=name), first, offsets, name=f"{name}_first")
        branches.append(net.node("MatMul", net.node(activation, hidden), second, name=f"{name}_second"))
    return net, branches[0], branches[1]


def test_tied_layers_shrink_together_and_stay_tied() -> None:
    net, left, right = siamese("Relu")
    model = net.build(net.node("Sub", left, right))
    result = condense(model, LOSSLESS)
    assert widths(result.model)["left_first"] == widths(result.model)["right_first"] == EXACT
    assert [t.name for t in result.model.graph.initializer] == [t.name for t in model.graph.initializer]
    assert_close(model, result.model, 1e-5)


@pytest.mark.parametrize("scale", [0.1, 0.37, 1.9, 3.3])
def test_copies_of_two_layers_that_one_reads_merge_alike(scale: float) -> None:
    """As in heads over several levels: how large a copy is, is known of each to rounding."""
    net, data = Net(), "x"
    tied = net.constant(net.normal(12, 5), "tied")
    net.input("batch", 6)
    branches = []
    for name in ("left", "right"):
        rows, bias = net.normal(12, 6), net.normal(12)
        rows[5], bias[5] = np.float32(scale) * rows[9], np.float32(scale) * bias[9]
        hidden = net.node("Relu", net.dense(name, data, rows, bias))
        branches.append(net.node("MatMul", hidden, tied, name=f"{name}_head"))
    model = net.build(*branches)
    result = condense(model, LOSSLESS)
    assert widths(result.model)["left"] == widths(result.model)["right"] == 11
    assert sum(len(t.dims) == 2 for t in result.model.graph.initializer) == 3
    assert_close(model, result.model, 1e-5)


def test_tied_layers_that_want_different_columns_stay() -> None:
    """Through Tanh the ratio is 1, through Relu it is that of the norms: one weight cannot hold both."""
    net, left, right = siamese("Tanh")
    model = net.build(net.node("Sub", left, right))
    result = condense(model, Options(threshold=0.5, merge="ratio", align=1))
    assert widths(result.model)["left_first"] == widths(result.model)["right_first"] == FULL
    assert result.report.verification is not None
    assert "cannot be removed evenly" in result.report.warnings[0]


# -------------------------------------------------------------------------------- where weights live


def constant_node(net: Net, value: NDArray[np.floating]) -> str:
    return net.node("Constant", value=numpy_helper.from_array(value.astype(np.float32)))


def test_weights_from_constant_nodes() -> None:
    net = Net()
    rows, bias = planted_rows(net, "shifted", 6)
    inputs = [net.input("batch", 6), constant_node(net, rows.T), constant_node(net, bias)]
    hidden = net.node("Gemm", *inputs, name="producer")
    columns = constant_node(net, planted_columns(net, "shifted", 4).T)
    model = net.build(net.node("MatMul", hidden, columns, name="consumer"))
    small = condensed(model, {})
    assert len(small.SerializeToString()) < len(model.SerializeToString()) + 1024
    assert condense(model, LOSSLESS).report.groups[0].width_after == EXACT


def test_a_model_in_memory_is_not_changed() -> None:
    """GraphSurgeon renames the tensors of Constant nodes in the message that it works on."""
    net = Net()
    rows, bias = planted_rows(net, "equal", 6)
    hidden = net.node("Gemm", net.input("batch", 6), constant_node(net, rows.T), constant_node(net, bias))
    model = net.build(net.dense("consumer", net.node("Relu", hidden), planted_columns(net, "equal", 3)))
    before = model.SerializeToString(deterministic=True)
    result = condense(model, LOSSLESS)
    assert model.SerializeToString(deterministic=True) == before
    assert rewrite(model, result.plan).SerializeToString(deterministic=True) == result.model.SerializeToString(
        deterministic=True
    )


def test_weights_from_transpose_nodes() -> None:
    net = Net()
    rows, bias = planted_rows(net, "scaled", 6)
    weight = net.node("Transpose", net.constant(rows, "producer.weight"), perm=[1, 0])
    hidden = net.node("MatMul", net.input("batch", 6), weight, name="producer")
    hidden = net.node("Relu", net.node("Add", hidden, net.constant(bias)))
    columns = net.node("Transpose", net.constant(planted_columns(net, "scaled", 4), "consumer.weight"))
    model = net.build(net.node("MatMul", hidden, columns, name="consumer"))
    small = condensed(model, {"producer": EXACT})
    assert "Transpose" not in operators(small)
    assert "producer.weight" not in weights(small), "the original must not stay beside its slice"


def test_initializers_that_are_inputs_too() -> None:
    """IR version 3: every initializer is also a graph input."""
    net = Net(opset=8)
    hidden = net.node("Relu", net.dense("producer", net.input("batch", 6), *planted_rows(net, "scaled", 6)))
    model = net.build(net.dense("consumer", hidden, planted_columns(net, "scaled", 4), net.normal(4)))
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    result = condense(model, LOSSLESS).model
    onnx.checker.check_model(result, full_check=True)
    assert widths(result)["producer"] == EXACT
    declared = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in result.graph.input}
    assert all(declared.get(t.name, list(t.dims)) == list(t.dims) for t in result.graph.initializer)


def shuffle() -> Trace:
    """Channels as [2, 3], transposed, with a function before they are flat again: no chain of movements alone."""
    net = Net()
    hidden = net.node("Reshape", net.dense("producer", net.input("batch", 5), net.normal(6, 5)), net.ints(0, 2, 3))
    hidden = net.node("Relu", net.node("Transpose", hidden, perm=[0, 2, 1]))
    hidden = net.node("Reshape", hidden, net.ints(0, 6))
    return traced(net.build(net.dense("consumer", hidden, net.normal(4, 6))))


def removing(trace: Trace, *gone: int) -> Twin:
    twin = Twin(trace)
    for group in trace.groups:
        twin.alive[group.units[list(gone)]] = False
    return twin


def test_ragged_removal_is_a_disagreement() -> None:
    """One of a line is too few; other places in each line would arrive in another order."""
    trace = shuffle()
    for gone in ((1,), (0, 4)):
        with pytest.raises(Disagreement):
            check_shapes(removing(trace, *gone))
    check_shapes(removing(trace, 1, 4))


def test_a_channel_shuffle_is_right_or_refused() -> None:
    """Masking old labels was silently wrong here (design, section 3)."""
    net = Net(seed=5)
    rows = net.normal(6, 5)
    rows[4] = 2 * rows[0]
    hidden = net.node("Reshape", net.dense("producer", net.input("batch", 5), rows), net.ints(0, 2, 3))
    hidden = net.node("Reshape", net.node("Transpose", hidden, perm=[0, 2, 1]), net.ints(0, 6))
    model = net.build(net.dense("consumer", hidden, net.normal(4, 6)))
    result = condense(model, LOSSLESS)
    assert_close(model, result.model, 2e-5)
    assert widths(result.model)["producer"] in (5, 6)


@pytest.mark.parametrize("bias", ["vector", "scalar", "none"])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_a_constant_meets_every_kind_of_gemm_bias(bias: str, beta: float) -> None:
    """A constant channel goes into the bias of a Gemm whose own rows merge as well."""
    net = Net()
    rows, offsets = planted_rows(net, "equal", 6)
    rows[7], offsets[7] = 0, 2.0
    hidden = net.node("Relu", net.dense("producer", net.input("batch", 6), rows, offsets))
    middle = planted_columns(net, "equal", 8)
    middle[COPIES[0]] = middle[MAINS[COPIES[0]]]
    own = {"vector": np.full(8, 0.3), "scalar": np.array(0.3), "none": None}[bias]
    inputs = [hidden, net.constant(middle)] + ([net.constant(own.astype(np.float32))] if own is not None else [])
    hidden = net.node("Relu", net.node("Gemm", *inputs, transB=1, alpha=1.5, beta=beta, name="middle"))
    model = net.build(net.dense("consumer", hidden, net.normal(3, 8)))
    small = condense(model, LOSSLESS).model
    assert widths(small)["producer"] == EXACT
    assert widths(small)["middle"] < FULL
    assert_close(model, small, 1e-5)
