"""What exporters leave in a graph makes no difference: the same network reaches the same size and outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from support.lossless import LOSSLESS
from support.planted.cases import (
    EXACT,
    FULL,
    planted_columns,
    planted_rows,
)
from support.planted.net import (
    Net,
    assert_close,
    run,
    signed_feed,
    widths,
)

from onnx_condense import condense
from onnx_condense.operators.reasons import Reason

Noise = Callable[[onnx.ModelProto], None]


def network(opset: int = 17) -> onnx.ModelProto:
    """Conv and Gemm of 8 channels, of which 5 differ; Relu behind both."""
    net = Net(opset)
    hidden = net.conv("conv", net.input("batch", 3, 8, 8), *planted_rows(net, "scaled", 3, 3, 3), pads=[1] * 4)
    hidden = net.node("GlobalAveragePool", net.node("Relu", hidden))
    hidden = net.node("Reshape", hidden, net.ints(-1, FULL))
    hidden = net.node("Relu", net.dense("gemm", hidden, *planted_rows(net, "scaled", FULL, positive=True)))
    return net.build(net.dense("last", hidden, planted_columns(net, "scaled", 4), net.normal(4), trans_b=False))


def prepend(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> None:
    after = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *after])


def weights(model: onnx.ModelProto, rank: int = 1) -> list[tuple[onnx.TensorProto, NDArray[np.float32]]]:
    arrays = [(t, numpy_helper.to_array(t)) for t in list(model.graph.initializer)]
    return [(t, array) for t, array in arrays if array.dtype == np.float32 and array.ndim >= rank]


def through(
    model: onnx.ModelProto, rank: int, change: Callable[[NDArray[np.float32]], NDArray], *nodes: onnx.NodeProto
) -> None:
    """Every weight W is stored as change(W), and made from it by a chain of nodes (their names do not count)."""
    for tensor, array in weights(model, rank):
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(array)), f"{name}_stored"))
        chain = []
        for step, node in enumerate(nodes):
            made = onnx.NodeProto()
            made.CopyFrom(node)
            extra = [f"{name}_{i}" for i in made.input[1:]]
            made.input[:] = [f"{name}_stored" if step == 0 else f"{name}_{step}", *extra]
            made.output[:] = [name if step == len(nodes) - 1 else f"{name}_{step + 1}"]
            chain.append(made)
            for constant in extra:
                values = {"shape": array.shape, "axes": [0]}[constant.rpartition("_")[2]]
                model.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype=np.int64), constant))
        prepend(model, *chain)


def node(op: str, *inputs: str, **attributes: int) -> onnx.NodeProto:
    return helper.make_node(op, ["", *inputs], [""], **attributes)


def constants(model: onnx.ModelProto) -> None:
    for tensor in list(model.graph.initializer):
        prepend(model, helper.make_node("Constant", [], [tensor.name], value=tensor))
        model.graph.initializer.remove(tensor)


def lists_of_floats(model: onnx.ModelProto) -> None:
    for tensor, array in weights(model):
        if array.ndim == 1:
            prepend(model, helper.make_node("Constant", [], [tensor.name], value_floats=array.tolist()))
            model.graph.initializer.remove(tensor)


def inputs_too(model: onnx.ModelProto) -> None:
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def identities(model: onnx.ModelProto) -> None:
    through(model, 1, lambda w: w, node("Identity"), node("Identity"))


def transposed(model: onnx.ModelProto) -> None:
    through(model, 2, lambda w: w.T, node("Transpose"))


def in_double(model: onnx.ModelProto) -> None:
    through(model, 1, lambda w: w.astype(np.float64), node("Cast", to=TensorProto.FLOAT))


def flat(model: onnx.ModelProto) -> None:
    through(model, 1, np.ravel, node("Reshape", "shape"))


def with_an_axis_more(model: onnx.ModelProto) -> None:
    through(model, 1, lambda w: w[None], node("Squeeze", "axes"))


def in_halves(model: onnx.ModelProto) -> None:
    for tensor, array in weights(model):
        halves = np.array_split(array, 2)
        names = [f"{tensor.name}_{half}" for half in range(2)]
        model.graph.initializer.extend(numpy_helper.from_array(h, n) for h, n in zip(halves, names, strict=True))
        prepend(model, helper.make_node("Concat", names, [tensor.name], axis=0))
        model.graph.initializer.remove(tensor)


def no_names(model: onnx.ModelProto) -> None:
    for item in model.graph.node:
        item.name = ""


def stale_sizes(model: onnx.ModelProto) -> None:
    model.CopyFrom(onnx.shape_inference.infer_shapes(model))
    for value in model.graph.value_info:
        for dim in value.type.tensor_type.shape.dim:
            dim.dim_param = f"wrong_{dim.dim_value}"


def unused(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ones((3, 3), dtype=np.float32), "unused"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((0, 3), dtype=np.float32), "empty"))
    prepend(model, helper.make_node("Relu", ["unused"], ["unread"]), helper.make_node("Shape", ["x"], ["unread_shape"]))
    model.graph.node.append(helper.make_node("Constant", [], ["nothing"]))
    model.graph.node[-1].attribute.add(name="value_ints", type=onnx.AttributeProto.INTS)


def identities_and_dropouts(model: onnx.ModelProto) -> None:
    outputs = {o.name for o in model.graph.output}
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for item in nodes:
        model.graph.node.append(item)
        name = item.output[0]
        if name not in outputs:
            model.graph.node[-1].output[0] = f"{name}_before"
            model.graph.node.append(helper.make_node("Dropout", [f"{name}_before"], [f"{name}_after", f"{name}_mask"]))
            model.graph.node.append(helper.make_node("Identity", [f"{name}_after"], [name]))


def shape_chains(model: onnx.ModelProto) -> None:
    """Around every Relu: Reshape to the sizes that Shape, Gather and Concat tell of its own output."""
    ranks = {
        v.name: len(v.type.tensor_type.shape.dim) for v in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for item in nodes:
        model.graph.node.append(item)
        if item.op_type == "Relu":
            name = item.output[0]
            model.graph.node[-1].output[0] = source = f"{name}_before"
            sizes = [f"{name}_size_{axis}" for axis in range(ranks[name])]
            model.graph.node.append(helper.make_node("Shape", [source], [f"{name}_shape"]))
            for axis, size in enumerate(sizes):
                model.graph.initializer.append(numpy_helper.from_array(np.array([axis]), f"{size}_axis"))
                model.graph.node.append(helper.make_node("Gather", [f"{name}_shape", f"{size}_axis"], [size]))
            model.graph.node.append(helper.make_node("Concat", sizes, [f"{name}_wanted"], axis=0))
            model.graph.node.append(helper.make_node("Reshape", [source, f"{name}_wanted"], [name]))


def empty_inputs(model: onnx.ModelProto) -> None:
    for item in model.graph.node:
        if item.op_type == "Relu":
            item.op_type = "Clip"
            item.input.extend(["zero", ""])
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))


def input_is_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.input[0])


def domain_in_full(model: onnx.ModelProto) -> None:
    for item in model.graph.node:
        item.domain = "ai.onnx"


NOISE: list[Noise] = [
    constants,
    lists_of_floats,
    inputs_too,
    identities,
    transposed,
    in_double,
    flat,
    with_an_axis_more,
    in_halves,
    no_names,
    stale_sizes,
    unused,
    identities_and_dropouts,
    shape_chains,
    empty_inputs,
    input_is_output,
    domain_in_full,
]


@pytest.mark.parametrize("noise", NOISE, ids=lambda noise: noise.__name__)
def test_noise(noise: Noise) -> None:
    model = network()
    noise(model)
    result = condense(model, LOSSLESS)
    assert [(g.width_before, g.width_after) for g in result.report.groups] == [(FULL, EXACT)] * 2
    feed = signed_feed(network())
    for a, b in zip(run(model, feed), run(result.model, feed), strict=True):
        assert a.shape == b.shape
        assert np.linalg.norm(a - b) <= 2e-5 * np.linalg.norm(a)
    written = result.model.ByteSize() - sum(m.ByteSize() for m in result.model.metadata_props)
    assert written < model.ByteSize(), "no weight may be there twice"


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 15, 18, 20, 21, 22, 23])
def test_operator_sets(opset: int) -> None:
    model = network(opset)
    result = condense(model, LOSSLESS)
    assert widths(result.model) == {"conv": EXACT, "gemm": EXACT, "last": 4}
    assert_close(model, result.model, 2e-5)


def test_data_of_its_own_file(tmp_path: Path) -> None:
    onnx.save(network(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    result = condense(tmp_path / "m.onnx", LOSSLESS)
    assert widths(result.model) == {"conv": EXACT, "gemm": EXACT, "last": 4}


def test_a_weight_that_is_an_output_stays() -> None:
    """It must be returned as it was: condensing would only add a second one."""
    model = network()
    kernel = next(t for t in model.graph.initializer if t.name == "conv.weight")
    model.graph.output.append(helper.make_tensor_value_info(kernel.name, kernel.data_type, kernel.dims))
    result = condense(model, LOSSLESS)
    assert widths(result.model) == {"conv": FULL, "gemm": EXACT, "last": 4}
    reasons = {layer: r.reason for r in result.report.refusals for layer in r.layers}
    assert reasons["conv"] == Reason.WEIGHTS_ARE_OUTPUT.value
    assert_close(model, result.model, 2e-5)


@pytest.mark.parametrize("constant", [False, True])
def test_sparse_weights_stay(constant: bool) -> None:
    model = network()
    tensor = next(t for t in model.graph.initializer if t.name == "gemm.weight")
    array = numpy_helper.to_array(tensor)
    values = numpy_helper.from_array(array.ravel(), tensor.name)
    places = numpy_helper.from_array(np.arange(array.size), "places")
    sparse = helper.make_sparse_tensor(values, places, array.shape)
    model.graph.initializer.remove(tensor)
    if constant:
        prepend(model, helper.make_node("Constant", [], [tensor.name], sparse_value=sparse))
    else:
        model.graph.sparse_initializer.append(sparse)
    result = condense(model, LOSSLESS)
    assert not result.changed
    (found,) = (r for r in result.report.refusals if r.layers == ("gemm",))
    assert (found.reason, found.parameters) == (Reason.WEIGHTS_SPARSE.value, FULL * FULL)


@pytest.mark.parametrize("opset", [13, 17])
def test_nothing_to_condense(opset: int) -> None:
    """No weights; and constants that have no elements or one."""
    net = Net(opset)
    data = net.input("batch", 3)
    scaled = net.node("Mul", data, net.constant(np.float32(2)))
    model = net.build(net.node("Concat", scaled, net.constant(np.zeros((8, 0))), axis=1))
    assert condense(model, LOSSLESS).model is model
