"""Small graphs that tests build node by node, and what they ask of models: widths, outputs, values of channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.compose
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_condense.merging.paths import Path
from onnx_condense.merging.twin import Twin
from onnx_condense.model.surgeon import import_graph
from onnx_condense.operators.actions import Contraction, Reader, Recurrent
from onnx_condense.operators.facts import Facts
from onnx_condense.tracing.shuffles import trace_unshuffled
from onnx_condense.tracing.trace import Trace

Array = NDArray[np.float32]


class Net:
    """A graph under construction; every method returns the name of the tensor that it makes."""

    def __init__(self, opset: int = 17, seed: int = 0, first: int = 0) -> None:
        """first: what its fresh names are counted from."""
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self._count = first

    def fresh(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    def input(self, *shape: int | str, name: str = "x") -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        return name

    def constant(self, value: Any, name: str = "") -> str:
        """An initializer; floats become float32."""
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        name = name or self.fresh("const")
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64))

    def node(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        return self.multiple(op, *inputs, outputs=1, name=name, **attributes)[0]

    def multiple(self, op: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: Any) -> list[str]:
        made = [self.fresh(op.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), made, name=name or made[0], **attributes))
        return made

    def dense(self, name: str, data: str, rows: Any, bias: Any = None, trans_b: bool = True) -> str:
        """Gemm with rows [outputs, inputs]."""
        rows = np.asarray(rows)
        inputs = [data, self.constant(rows if trans_b else rows.T, f"{name}.weight")]
        if bias is not None:
            inputs.append(self.constant(bias, f"{name}.bias"))
        return self.node("Gemm", *inputs, name=name, transB=int(trans_b))

    def matmul(self, name: str, data: str, rows: Any, bias: Any = None) -> str:
        """MatMul with rows [outputs, inputs], and an Add where there is a bias."""
        made = self.node("MatMul", data, self.constant(np.asarray(rows).T, f"{name}.weight"), name=name)
        return made if bias is None else self.node("Add", made, self.constant(bias, f"{name}.bias"))

    def conv(self, name: str, data: str, kernels: Any, bias: Any = None, **attributes: Any) -> str:
        inputs = [data, self.constant(kernels, f"{name}.weight")]
        if bias is not None:
            inputs.append(self.constant(bias, f"{name}.bias"))
        return self.node("Conv", *inputs, name=name, **attributes)

    def batchnorm(self, data: str, scale: Any, shift: Any, mean: Any, var: Any) -> str:
        return self.node("BatchNormalization", data, *(self.constant(v) for v in (scale, shift, mean, var)))

    def normal(self, *shape: int) -> Array:
        return self.rng.standard_normal(shape).astype(np.float32)

    def build(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "planted",
            self.inputs,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.initializers,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(domain, 1) for domain in sorted({n.domain for n in self.nodes if n.domain})]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10 if self.opset >= 20 else 8)
        shaped = onnx.shape_inference.infer_shapes(model).graph.output
        for value, known in zip(model.graph.output, shaped, strict=True):
            value.CopyFrom(known)
        return model


def widths(model: onnx.ModelProto) -> dict[str, int]:
    """By node name: output channels of Gemm, MatMul and Conv with constant weights, units of recurrent nodes."""
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
        elif node.op_type == "Gather" and node.input[0] in shapes:
            found[node.name] = shapes[node.input[0]][1]
        elif node.op_type == "Einsum":
            equation = next(a.s.decode() for a in node.attribute)
            terms, made = equation.partition("->")[0].split(","), equation.partition("->")[2]
            axis = next(i for i, letter in enumerate(terms[1]) if letter in made and letter not in terms[0])
            found[node.name] = shapes[node.input[1]][axis] if node.input[1] in shapes else 0
        elif node.op_type in ("LSTM", "GRU", "RNN") and node.input[2] in shapes:
            found[node.name] = shapes[node.input[2]][2]
        elif node.op_type == "ConvTranspose":
            found[node.name] = shapes[node.input[1]][1] * next((a.i for a in node.attribute if a.name == "group"), 1)
        elif node.op_type in ("Conv", "Gemm", "MatMul", "FusedMatMul", "Einsum") and node.input[1] in shapes:
            attributes = {a.name: a.i for a in node.attribute}
            first = node.op_type == "Conv" or attributes.get("transB", 0)
            found[node.name] = shapes[node.input[1]][0 if first else -1]
    return found


def run(
    model: onnx.ModelProto, feed: Mapping[str, NDArray[Any]], names: Sequence[str] | None = None
) -> list[NDArray[Any]]:
    """Outputs in onnxruntime; of `names`, which may be inner tensors."""
    if names is not None:
        wider = onnx.ModelProto()
        wider.CopyFrom(model)
        known = {o.name for o in wider.graph.output}
        wider.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
        model = wider
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None if names is None else list(names), dict(feed))]


def joined(models: Mapping[str, onnx.ModelProto]) -> onnx.ModelProto:
    """Models of the same inputs, side by side in one; all other names begin with their key and a slash."""
    whole = onnx.ModelProto()
    for key, model in models.items():
        part = onnx.compose.add_prefix(model, f"{key}/", rename_inputs=False, rename_functions=False)
        if not whole.graph.node:
            whole.CopyFrom(part)
            continue
        assert list(part.graph.input) == list(whole.graph.input)
        assert (list(part.opset_import), list(part.functions)) == (list(whole.opset_import), list(whole.functions))
        for name in ("node", "initializer", "output"):
            getattr(whole.graph, name).extend(getattr(part.graph, name))
    return whole


def signed_feed(model: onnx.ModelProto, seed: int = 5, batch: int = 8) -> dict[str, Array]:
    """Standard normal inputs, symbolic dimensions of size `batch`."""
    rng = np.random.default_rng(seed)
    feed = {}
    for value in model.graph.input:
        shape = [d.dim_value or batch for d in value.type.tensor_type.shape.dim]
        numbers = value.type.tensor_type.elem_type == TensorProto.INT64
        feed[value.name] = rng.integers(0, 5, shape) if numbers else rng.standard_normal(shape).astype(np.float32)
    return feed


def assert_close(model: onnx.ModelProto, other: onnx.ModelProto, limit: float) -> None:
    """Both models give the same outputs, within a relative L2 per output."""
    feed = signed_feed(model)
    for a, b in zip(run(model, feed), run(other, feed), strict=True):
        assert a.shape == b.shape
        assert np.isfinite(a).all()
        assert np.linalg.norm(a - b) <= limit * np.linalg.norm(a)


def traced(model: onnx.ModelProto) -> Trace:
    """The trace of a model, on `signed_feed`."""
    return trace_unshuffled(Facts(model, import_graph(model), signed_feed(model)))


def read_along(twin: Twin, path: Path) -> str:
    """The tensor that a consumer reads along a path; of a state its own Y, of the step before."""
    action, node = twin.trace.actions[path.slot.node], twin.trace.facts.nodes[path.slot.node]
    assert isinstance(action, Contraction | Reader | Recurrent)
    state = isinstance(action, Recurrent) and path.slot.input == 2
    return str((node.outputs[0] if state else node.inputs[action.data]).name)


def channel_values(twin: Twin, path: Path, values: NDArray[Any]) -> NDArray[np.float64]:
    """[channels at the path's places, values] of the tensor that a consumer reads along a path."""
    action = twin.trace.actions[path.slot.node]
    assert isinstance(action, Contraction | Reader | Recurrent)
    if isinstance(action, Recurrent) and path.slot.input == 2:
        return values.astype(np.float64).transpose(1, 3, 0, 2).reshape(-1, values[:, 0, :, 0].size)[path.places]
    axis = action.data_axes.index(action.inner) if isinstance(action, Contraction) else action.data_axis
    moved = np.moveaxis(values.astype(np.float64), axis, 0)
    return moved.reshape(len(moved), -1)[path.places]
