"""Questions about messages and nodes whose answers depend on the operator."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_condense.arrays import Array
from onnx_condense.model.protos import FLOAT_TYPES, names_read
from onnx_condense.operators.actions import Activation, Window
from onnx_condense.operators.answers import Action
from onnx_condense.operators.reasons import Reason
from onnx_condense.operators.shapes import SHAPE_OPS


def foldable(node: gs.Node) -> tuple[gs.Node, int, float] | None:
    """For a BatchNormalization that alone reads a Conv or Gemm: (that node, its produced weight axis, epsilon)."""
    if node.op != "BatchNormalization" or node.attrs.get("training_mode", 0) or len(node.outputs) != 1:
        return None
    source = node.inputs[0]
    if len(source.inputs) != 1 or len(source.outputs) != 1:
        return None
    producer = source.inputs[0]
    constants = [*producer.inputs[1:], *node.inputs[1:5]]
    if producer.op not in ("Conv", "Gemm") or not all(isinstance(t, gs.Constant) or not t.name for t in constants):
        return None
    if producer.op == "Gemm" and (producer.attrs.get("alpha", 1.0) != 1 or producer.attrs.get("beta", 1.0) != 1):
        return None
    axis = 0 if producer.op == "Conv" or producer.attrs.get("transB", 0) else 1
    return producer, axis, float(node.attrs.get("epsilon", 1e-5))


def running_statistics(node: onnx.NodeProto) -> list[str]:
    """Names of the running mean and variance that a BatchNormalization reads."""
    return list(node.input[3:5]) if node.op_type == "BatchNormalization" else []


def is_constant_value(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> bool:
    """Whether an attribute is the tensor that a Constant holds."""
    return node.op_type == "Constant" and attribute.name == "value"


def constant_floats(node: onnx.NodeProto, kinds: Collection[int]) -> int:
    """How many numbers a Constant node of rank >= 1 holds, if they are of one of the kinds (TensorProto.DataType)."""
    if node.op_type != "Constant":
        return 0
    tensors = [a.t for a in node.attribute if a.name == "value" and a.t.dims and a.t.data_type in kinds]
    return sum(prod(t.dims) for t in tensors) + sum(len(a.floats) for a in node.attribute if a.name == "value_floats")


def expected_sizes(nodes: list[gs.Node], name: str, weights: Mapping[str, tuple[int, ...]]) -> dict[int, int]:
    """Sizes of an input's axes (by index, from the end where negative) that the weights of its readers imply."""
    found = {}
    for node in nodes:
        names = [t.name for t in node.inputs]
        if names[:1] != [name] or len(names) < 2 or names[1] not in weights:
            continue
        weight = weights[names[1]]
        if node.op == "Conv":
            found[1] = weight[1] * int(node.attrs.get("group", 1))
        elif node.op == "ConvTranspose":
            found[1] = weight[0]
        elif node.op == "MatMul" and len(weight) == 2:
            found[-1] = weight[0]
        elif node.op == "Gemm" and not node.attrs.get("transA", 0):
            found[1] = weight[1 if node.attrs.get("transB", 0) else 0]
    return found


def embedding_rows(facts_nodes: list[gs.Node], name: str, sizes: Mapping[str, int]) -> int | None:
    """How many rows the table has that an integer input indexes (through Cast and the like), None for no table."""
    names = {name}
    for node in facts_nodes:
        inputs = [t.name for t in node.inputs]
        if node.op in ("Cast", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Flatten") and inputs[0] in names:
            names.update(t.name for t in node.outputs)
        elif node.op == "Gather" and len(inputs) > 1 and inputs[1] in names and inputs[0] in sizes:
            return sizes[inputs[0]]
    return None


def branch_sources(node: gs.Node, output: int) -> list[str]:
    """For an output of an If: per branch the tensor whose numbers it holds, seen through what only changes shapes."""
    sources = []
    for body in (a for a in node.attrs.values() if node.op == "If" and isinstance(a, gs.Graph)):
        makers = {t.name: inner for inner in body.nodes for t in inner.outputs}
        name = body.outputs[output].name
        while name in makers and makers[name].op in ("Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten"):
            name = makers[name].inputs[0].name
        sources.append(name)
    return sources


def takes_shape(node: gs.Node) -> bool:
    """Whether a node reads the shape of its input alone."""
    return node.op in SHAPE_OPS


RECURRENT = ("LSTM", "GRU", "RNN")
LINEAR = ("Gemm", "MatMul", "Einsum", "Conv", "ConvTranspose", *RECURRENT)


def linear_weights(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """Names of what linear maps multiply, weights among them, each once."""
    return list(dict.fromkeys(name for node in nodes if node.op_type in LINEAR for name in node.input[:3] if name))


def has_weights(body: onnx.GraphProto) -> bool:
    """Whether a body, or one inside it, holds a linear map."""
    inner = (a.g for node in body.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH)
    return bool(linear_weights(body.node)) or any(map(has_weights, inner))


def formal_values(node: onnx.NodeProto, values: list[Array | None], turn: int) -> list[Array] | None:
    """What the inputs of the body of a Loop or Scan (from opset 9) hold first, from the node's inputs; else None.

    values: of any shape, None for what is not known. turn: the number of the iteration.
    """
    if node.op_type == "Loop" and len(values) >= 2:
        proceed = np.array(True) if values[1] is None else values[1]
        values = [np.array(turn, dtype=np.int64), proceed, *values[2:]]
    elif node.op_type == "Scan":
        attributes = {a.name: a for a in node.attribute}
        states = len(values) - attributes["num_scan_inputs"].i
        axes = list(attributes["scan_input_axes"].ints) if "scan_input_axes" in attributes else [0] * len(values)
        scanned = zip(values[states:], axes, strict=False)
        values = [*values[:states], *(None if v is None or not v.size else v.take(0, axis) for v, axis in scanned)]
    else:
        return None
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None


def count_parameters(graph: onnx.GraphProto) -> tuple[int, int]:
    """(without, with) running statistics of BatchNormalization; see ModelFacts."""
    read = names_read(graph)
    tensors = [t for t in (*graph.initializer, *(s.values for s in graph.sparse_initializer)) if t.name in read]
    return parameters_in(graph.node, ((t.name, tuple(t.dims), t.data_type) for t in tensors))


def parameters_in(
    nodes: Collection[onnx.NodeProto], tensors: Iterable[tuple[str, tuple[int, ...], int]]
) -> tuple[int, int]:
    """As `count_parameters`, of nodes and of constants: the name, shape and type (TensorProto.DataType) of each."""
    statistics = {name for node in nodes for name in running_statistics(node)}
    sizes = [(name, prod(shape)) for name, shape, kind in tensors if shape and kind in FLOAT_TYPES]
    for node in nodes:
        sizes.append((node.output[0] if node.output else "", constant_floats(node, FLOAT_TYPES)))
    without, whole = sum(size for name, size in sizes if name not in statistics), sum(size for _, size in sizes)
    for node in nodes:
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                inner = count_parameters(body)
                without, whole = without + inner[0], whole + inner[1]
    return without, whole


def normalizes(action: Action) -> bool:
    """Whether it normalizes the channels of each place together, or takes a mean for that."""
    if isinstance(action, Activation):
        return action.affine is not None
    return isinstance(action, Window) and action.across is Reason.NORMALIZES_TOGETHER


def mean_axes(action: Action) -> tuple[int, ...]:
    """The axes along which it takes a mean for a normalization, and keeps them; none of others."""
    taken = isinstance(action, Window) and normalizes(action) and not action.dropped
    return action.axes if taken and isinstance(action, Window) else ()


def mixed_axes(action: Action) -> tuple[int, ...]:
    """The axes along which a function mixes places (Softmax); none of others."""
    return action.uniform_axes if isinstance(action, Activation) else ()
