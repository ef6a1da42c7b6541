"""Local functions and sequences become plain nodes where that is exact; where not they stay, with a reason."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from support.builders import build, clustered, random
from support.lossless import LOSSLESS
from support.planted.net import run

import onnx_condense as oc
from onnx_condense.model.protos import serialize

ROWS = clustered(8, 7, 5)[[0, 5, 1, 6, 2, 7, 3, 4]]
"""Copies lie beside each other: channels merge only where the same tensors hold them."""

WEIGHTS = {"w0": ROWS[:, :6].copy(), "b0": ROWS[:, 6].copy(), "w1": random(4, 8)}


def condensed(model: onnx.ModelProto) -> tuple[oc.Result, dict[str, tuple[int, int]]]:
    """Condenses without loss; the result must load, be valid and compute the same."""
    result = oc.condense(model, LOSSLESS)
    if not result.model.functions:  # the checker wants their operator set to be the model's, onnxruntime does not
        onnx.checker.check_model(result.model, full_check=True)
    x = random(3, 6, seed=9)
    for a, b in zip(run(model, {"x": x}), run(result.model, {"x": x}), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    return result, {g.layers[0]: (g.width_before, g.width_after) for g in result.report.groups}


def with_functions(dense: int = 17, act: int = 17, relu: str = "Relu") -> onnx.ModelProto:
    """Gemm, Relu, Gemm, each in a function; `dense` and `act`: the operator sets of their functions."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "my" : 1, "pkg.nn" : 1]>
        g (float[N, 6] x) => (float[N, 4] y) {{
            [first] h = my.dense(x, w0, b0)
            r = pkg.nn.act(h)
            [second] y = my.scaled<flag = 1>(r, w1)
        }}
        <domain : "my", opset_import : ["" : {dense}]> dense (x, w, b) => (y) {{ y = Gemm<transB = 1>(x, w, b) }}
        <domain : "pkg.nn", opset_import : ["" : {act}, "my" : 1]> act (x) => (y) {{
            t = my.inner(x)
            y = Identity(t)
        }}
        <domain : "my", opset_import : ["" : {act}]> inner (x) => (y) {{ y = {relu}(x) }}
        <domain : "my", opset_import : ["" : 17]> scaled <flag : int = 0>(x, w) => (y) {{
            y = Gemm<transB : int = @flag>(x, w)
        }}"""
    )
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in WEIGHTS.items())
    return model


def test_functions_are_inlined() -> None:
    result, groups = condensed(with_functions())
    assert groups == {"w0": (8, 5)}
    assert not result.model.functions
    assert serialize(oc.rewrite(result.source.proto, result.plan)) == serialize(result.model)


@pytest.mark.parametrize("opset", [16, 18])
def test_a_function_of_another_version_whose_operators_are_the_same(opset: int) -> None:
    assert condensed(with_functions(dense=opset, act=opset))[1] == {"w0": (8, 5)}


def test_a_function_whose_operators_mean_something_else_stays() -> None:
    """Softmax before opset 13 covers all axes behind its own."""
    result, _ = condensed(with_functions(act=11, relu="Softmax"))
    assert result.model is result.source.proto
    assert result.report.refusals[0].reason == "is read by an act, which is not supported yet"


def test_a_function_of_constants_that_stays() -> None:
    model = with_functions(act=11)
    model.graph.node.insert(0, onnx.helper.make_node("inner", ["b0"], ["b"], domain="my"))
    model.graph.node[1].input[2] = "b"
    condensed(model)


def test_a_model_with_functions_that_does_not_shrink_stays_as_it_is() -> None:
    model = with_functions()
    result = oc.condense(model, oc.Options(lossless=True, exclude=("*",)))
    assert result.model is model
    assert model.functions


# ------------------------------------------------------------------------------------------------- sequences


def sequence(middle: str, opset: int = 17, weights: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """The 8 units of a Gemm as `h`, and `k` of 8 for another one."""
    return build(
        f"""g (float[N, 6] x) => (float[N, 4] y) {{
            z = Gemm<transB = 1>(x, w0, b0)
            h = Relu(z)
            zero = Constant<value = int64 {{0}}>()
            one = Constant<value = int64 {{1}}>()
            minus = Constant<value = int64 {{-1}}>()
            four = Constant<value = int64 {{4}}>()
            {middle}
            y = Gemm<transB = 1>(k, w1)
        }}""",
        WEIGHTS | (weights or {}),
        opset=opset,
    )


SPLIT = "s = SplitToSequence<axis = 1>(h, {}) a = SequenceAt(s, zero) b = SequenceAt(s, {}) k = Concat<axis = 1>({})"


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize(
    "middle",
    [
        SPLIT.format("four", "one", "a, b"),
        SPLIT.format("four", "minus", "a, b"),
        SPLIT.format("sizes", "one", "a, b"),
        "s = SequenceConstruct(h) k = SequenceAt(s, zero)",
        "s = SplitToSequence<axis = 1>(h, sizes) k = ConcatFromSequence<axis = 1>(s)",
        "e = SequenceEmpty() s = SequenceInsert(e, h) k = ConcatFromSequence<axis = 1>(s)",
    ],
)
def test_sequences(middle: str, opset: int) -> None:
    model = sequence(middle, opset, {"sizes": np.array([2, 6])})
    result, groups = condensed(model)
    assert groups == {"w0": (8, 5)}
    assert not any("Sequence" in node.op_type for node in result.model.graph.node)


@pytest.mark.parametrize(
    "middle",
    [
        "s = SplitToSequence<axis = 1>(h) k = ConcatFromSequence<axis = 1>(s)",
        "s = SplitToSequence<axis = 1, keepdims = 0>(h) k = ConcatFromSequence<axis = 1, new_axis = 1>(s)",
    ],
)
def test_a_sequence_of_single_channels(middle: str) -> None:
    """Every channel lies in a tensor of its own, so that none merges."""
    for opset in (11, 17):
        _, groups = condensed(sequence(middle, opset))
        assert groups in ({}, {"w0": (8, 8)})


def test_an_index_that_is_computed_keeps_the_sequence() -> None:
    middle = "i = Shape(x) j = Gather(i, zero) m = Mod(j, one) s = SequenceConstruct(h) k = SequenceAt(s, m)"
    result, _ = condensed(sequence(middle))
    assert result.model is result.source.proto


def test_a_sequence_that_is_an_output_stays() -> None:
    model = sequence(SPLIT.format("four", "one", "a, b"))
    tensor = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
    model.graph.output.append(onnx.helper.make_value_info("s", onnx.helper.make_sequence_type_proto(tensor)))
    result = oc.condense(model, LOSSLESS)
    x = random(3, 6)
    for a, b in zip(run(model, {"x": x})[0], run(result.model, {"x": x})[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    assert not result.changed
