"""Models that keep a weight [16, 32] in another file, in every place where a model may hold a tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

from support import builders

WEIGHT = builders.random(16, 32)

Made = tuple[onnx.ModelProto, TensorProto]
"""A model of x [3, 16] that gives y = x · WEIGHT, and the tensor in it that holds WEIGHT."""

PLAIN = "g (float[3, 16] x) => (float[3, 32] y) { y = MatMul(x, w) }"


def _initializer() -> Made:
    model = builders.build(PLAIN, {"w": WEIGHT})
    return model, model.graph.initializer[0]


def _constant() -> Made:
    model = builders.build(PLAIN, check=False)
    return model, _before(model.graph.node)


def _branch() -> Made:
    inner = "t () => (float[3, 32] ty) { ty = MatMul(x, w) }"
    other = "e () => (float[3, 32] ey) { ey = MatMul(x, v) }"
    text = f"g (float[3, 16] x) => (float[3, 32] y) {{ y = If(c) <then_branch = {inner}, else_branch = {other}> }}"
    model = builders.build(text, {"c": np.array(True), "v": builders.random(16, 32, seed=1)}, check=False)
    return model, _before(model.graph.node[0].attribute[0].g.node)


def _body() -> Made:
    inner = "b (float[16] r) => (float[32] o) { o = MatMul(r, w) }"
    text = f"g (float[3, 16] x) => (float[3, 32] y) {{ y = Scan<body = {inner}, num_scan_inputs = 1>(x) }}"
    model = builders.build(text, check=False)
    body = next(attribute.g for attribute in model.graph.node[0].attribute if attribute.name == "body")
    body.initializer.append(numpy_helper.from_array(WEIGHT, "w"))
    return model, body.initializer[0]


def _function() -> Made:
    text = """<ir_version: 8, opset_import: ["": 17, "my": 1]>
        g (float[3, 16] x) => (float[3, 32] y) { y = my.F(x) }
        <domain: "my", opset_import: ["": 17]> F (a) => (b) { b = MatMul(a, w) }"""
    model = onnx.parser.parse_model(text)
    return model, _before(model.functions[0].node)


def _sparse() -> Made:
    model = builders.build(PLAIN, check=False)
    model.graph.sparse_initializer.append(_every_number())
    return model, model.graph.sparse_initializer[0].values


def _sparse_constant() -> Made:
    model = builders.build(PLAIN, check=False)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=_every_number()))
    return model, model.graph.node[0].attribute[0].sparse_tensor.values


def _every_number() -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(WEIGHT.reshape(-1), "w")
    indices = numpy_helper.from_array(np.arange(WEIGHT.size, dtype=np.int64), "places")
    return onnx.SparseTensorProto(values=values, indices=indices, dims=WEIGHT.shape)


def _before(nodes: object) -> TensorProto:
    """A Constant before all other nodes."""
    nodes.insert(0, helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(WEIGHT)))  # type: ignore[attr-defined]
    found: TensorProto = nodes[0].attribute[0].t  # type: ignore[index]
    return found


KINDS: dict[str, Callable[[], Made]] = {
    "initializer": _initializer,
    "constant": _constant,
    "branch": _branch,
    "body": _body,
    "function": _function,
    "sparse": _sparse,
    "sparse constant": _sparse_constant,
}
"""Where the weight is."""


def saved(kind: str, path: Path, location: str = "w.bin", **stated: object) -> Path:
    """Saves a model of a kind, with the weight in a file beside it; `stated`: other keys of its external data."""
    model, tensor = KINDS[kind]()
    data = tensor.raw_data
    for key, value in ({"location": location, "offset": 0, "length": len(data)} | stated).items():
        tensor.external_data.add(key=key, value=str(value))
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    file = path.parent / location
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.write_bytes(data)
    path.write_bytes(model.SerializeToString())
    return path
