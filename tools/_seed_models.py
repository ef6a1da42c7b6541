"""Small models, of every kind of part that a file may have, for tools/fuzz_files.py to damage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Weights = dict[str, np.ndarray]
Parts = tuple[list[onnx.NodeProto], Weights, list[int | str], list[onnx.FunctionProto]]
"""Nodes, weights, the input's shape, functions."""


def seeds() -> dict[str, onnx.ModelProto]:
    """Small models, of every kind of part that a file may have."""
    return {name: _model(make(np.random.default_rng(number))) for number, (name, make) in enumerate(MODELS.items())}


def _model(parts: Parts) -> onnx.ModelProto:
    nodes, weights, shape, functions = parts
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid("f", 1)] if functions else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def _weights(generator: np.random.Generator, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def _dense(generator: np.random.Generator) -> Parts:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1, name="fc1"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "v", "c"], ["y"], transB=1, name="fc2"),
    ]
    return nodes, _weights(generator, w=(16, 8), b=(16,), v=(4, 16), c=(4,)), ["batch", 8], []


def _convolutions(generator: np.random.Generator) -> Parts:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1], name="conv1"),
        helper.make_node("BatchNormalization", ["h", "s", "t", "m", "d"], ["n"], name="bn"),
        helper.make_node("Clip", ["n", "low", "high"], ["r"], name="clip"),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "v"], ["q"], name="conv2"),
        helper.make_node("GlobalAveragePool", ["q"], ["a"]),
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([0, -1], dtype=np.int64))),
        helper.make_node("Reshape", ["a", "shape"], ["y"]),
    ]
    found = _weights(generator, w=(8, 3, 3, 3), s=(8,), t=(8,), m=(8,), v=(4, 8, 1, 1))
    limits = {"low": np.array(0, dtype=np.float32), "high": np.array(6, dtype=np.float32)}
    return nodes, found | {"d": np.ones(8, dtype=np.float32)} | limits, [1, 3, 8, 8], []


def _bodies(generator: np.random.Generator) -> Parts:
    ports = [helper.make_tensor_value_info(*port) for port in (("i", 7, []), ("k", 9, []), ("u", 1, None))]
    step = [
        helper.make_node("Identity", ["k"], ["k1"]),
        helper.make_node("MatMul", ["u", "w"], ["p"]),
        helper.make_node("Tanh", ["p"], ["u1"]),
    ]
    ends = [helper.make_tensor_value_info("k1", 9, []), helper.make_tensor_value_info("u1", 1, None)]
    body = helper.make_graph(step, "body", ports, ends)
    branches = [
        helper.make_graph([helper.make_node(op, ["l"], ["o"])], op, [], [helper.make_tensor_value_info("o", 1, None)])
        for op in ("Relu", "Neg")
    ]
    nodes = [
        helper.make_node("Loop", ["trip", "yes", "x"], ["l"], body=body, name="loop"),
        helper.make_node("If", ["yes"], ["e"], then_branch=branches[0], else_branch=branches[1], name="if"),
        helper.make_node("MatMul", ["e", "v"], ["y"], name="mm"),
    ]
    more = {"trip": np.array(3, dtype=np.int64), "yes": np.array(True)}
    return nodes, _weights(generator, w=(8, 8), v=(8, 4)) | more, [2, 8], []


def _shapes(generator: np.random.Generator) -> Parts:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="up"),
        helper.make_node("Split", ["h"], ["a", "b"], axis=2),
        helper.make_node("Sigmoid", ["a"], ["g"]),
        helper.make_node("Mul", ["g", "b"], ["m"]),
        helper.make_node("Shape", ["m"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["m", "to"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[0, 1, 3, 2]),
        helper.make_node("ReduceMean", ["t"], ["u"], axes=[1], keepdims=0),
        helper.make_node("Shape", ["u"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["z"]),
        helper.make_node("Add", ["u", "z"], ["y"]),
    ]
    more = {"zero": np.array([0], dtype=np.int64), "rest": np.array([-1, 4, 2], dtype=np.int64)}
    return nodes, _weights(generator, w=(6, 16)) | more, ["N", "T", 6], []


def _functions(generator: np.random.Generator) -> Parts:
    inner = [
        helper.make_node("MatMul", ["a", "m"], ["p"]),
        helper.make_node("LeakyRelu", ["p"], ["q"], alpha=0.1),
    ]
    layer = helper.make_function("f", "Layer", ["a", "m"], ["q"], inner, [helper.make_opsetid("", 17)])
    twice = [
        helper.make_node("Layer", ["a", "m"], ["b"], domain="f"),
        helper.make_node("Layer", ["b", "n"], ["c"], domain="f"),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    both = helper.make_function("f", "Both", ["a", "m", "n"], ["c"], twice, opsets)
    nodes = [helper.make_node("Both", ["x", "w", "v"], ["y"], domain="f", name="both")]
    return nodes, _weights(generator, w=(8, 12), v=(12, 4)), ["batch", 8], [layer, both]


def _recurrent(generator: np.random.Generator) -> Parts:
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "b"], ["h", "last", "cell"], hidden_size=6, name="lstm"),
        helper.make_node("Squeeze", ["last", "axes"], ["s"]),
        helper.make_node("Gemm", ["s", "v"], ["y"], transB=1, name="fc"),
    ]
    found = _weights(generator, w=(1, 24, 5), r=(1, 24, 6), b=(1, 48), v=(3, 6))
    return nodes, found | {"axes": np.array([0], dtype=np.int64)}, [4, "batch", 5], []


def _quantized(generator: np.random.Generator) -> Parts:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale", "point"], ["w"], axis=0, name="dq"),
        helper.make_node("MatMul", ["x", "w"], ["h"], name="up"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["s"], name="down"),
        helper.make_node("LayerNormalization", ["s", "one"], ["y"], axis=-1),
    ]
    more = {
        "q": generator.integers(-99, 99, (8, 12)).astype(np.int8),
        "scale": np.full(8, 0.02, dtype=np.float32),
        "point": np.zeros(8, dtype=np.int8),
        "one": np.ones(6, dtype=np.float32),
    }
    return nodes, _weights(generator, v=(12, 6)) | more, ["batch", 8], []


MODELS: dict[str, Callable[[np.random.Generator], Parts]] = {
    "dense": _dense,
    "convolutions": _convolutions,
    "bodies": _bodies,
    "shapes": _shapes,
    "functions": _functions,
    "recurrent": _recurrent,
    "quantized": _quantized,
}
