"""THE operator table: how each ONNX operator relates channels. It and its rows alone say what an operator means.

Rooms that rewrite the form of a graph (inlining, fused, qoperators, bodies, shuffles, reshaping) know names as well.

A row turns a node into an *action* (actions.py) that the tracer and the rewriter understand. Adding an operator is one
row here and one planted-duplicate test. An operator without a row, or a use of it that its row does not cover
(`Refused`), pins the channels that it touches, with a reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_condense import linear_rows, movement_rows
from onnx_condense import operator_rows as rows
from onnx_condense.actions import (
    BOUNDED,
    MAGNITUDE,
    RELU,
    UNBOUNDED,
    Action,
    Activation,
    Chosen,
    Elementwise,
    Kind,
    Refused,
    Window,
)
from onnx_condense.facts import Facts
from onnx_condense.operator_rows import HEADS, QUANTIZED, TOGETHER, NodeView
from onnx_condense.recurrent_rows import recurrent, reverse_sequence
from onnx_condense.runtime import Array

TABLE: Mapping[tuple[str, str], rows.Row] = {
    ("", op): row
    for op, row in {
        # linear maps
        "Gemm": linear_rows.gemm,
        "MatMul": linear_rows.matmul,
        "Einsum": linear_rows.einsum,
        "Conv": linear_rows.conv,
        "ConvTranspose": linear_rows.conv_transpose,
        "LSTM": recurrent,
        "GRU": recurrent,
        "RNN": recurrent,
        # per-channel parameters
        "BatchNormalization": rows.batchnorm,
        "InstanceNormalization": rows.instance_normalization,
        "PRelu": rows.prelu,
        # along another axis than the channels
        "LayerNormalization": rows.layer_normalization,
        "RMSNormalization": rows.layer_normalization,
        "GroupNormalization": rows.fixed(Refused(TOGETHER)),
        "LpNormalization": rows.normalization(lambda view: (view.attribute("axis", -1),)),
        "MeanVarianceNormalization": rows.normalization(lambda view: view.attribute("axes", (0, 2, 3))),
        "Softmax": rows.softmax,
        "LogSoftmax": rows.softmax,
        "Hardmax": rows.softmax,
        "ArgMax": rows.arg,
        "ArgMin": rows.arg,
        "CumSum": rows.cumulative_sum,
        "Trilu": rows.trilu,
        # elementwise functions
        "Identity": rows.fixed(Activation(Kind.LINEAR)),
        "Dropout": rows.dropout,
        "Cast": rows.cast,
        "CastLike": rows.cast_like,
        "Pow": rows.power,
        "Greater": rows.fixed(Elementwise("compare")),
        "GreaterOrEqual": rows.fixed(Elementwise("compare")),
        "Less": rows.fixed(Elementwise("compare")),
        "LessOrEqual": rows.fixed(Elementwise("compare")),
        "Equal": rows.fixed(Elementwise("compare")),
        "And": rows.fixed(Elementwise("compare")),
        "Or": rows.fixed(Elementwise("compare")),
        "Xor": rows.fixed(Elementwise("compare")),
        "Not": rows.fixed(BOUNDED),
        "QuantizeLinear": rows.quantize,
        "DequantizeLinear": rows.dequantize,
        "Neg": rows.fixed(Elementwise("neg")),
        "Relu": rows.fixed(RELU),
        "LeakyRelu": rows.fixed(Activation(Kind.HOMOGENEOUS)),
        "Abs": rows.fixed(Activation(Kind.ABSOLUTE, 0.0)),
        "Tanh": rows.fixed(Activation(Kind.ODD, -1.0, 1.0)),
        "Erf": rows.fixed(Activation(Kind.ODD, -1.0, 1.0)),
        "Softsign": rows.fixed(Activation(Kind.ODD, -1.0, 1.0)),
        "Atan": rows.fixed(Activation(Kind.ODD)),
        "Sin": rows.fixed(Activation(Kind.ODD, -1.0, 1.0)),
        "Sinh": rows.fixed(Activation(Kind.ODD)),
        "Asinh": rows.fixed(Activation(Kind.ODD)),
        "Asin": rows.fixed(Activation(Kind.ODD)),
        "Atanh": rows.fixed(Activation(Kind.ODD)),
        "Tan": rows.fixed(Activation(Kind.ODD)),
        "Round": rows.fixed(Activation(Kind.ODD)),
        "Shrink": rows.fixed(Activation(Kind.ODD)),
        "Clip": rows.clip,
        "Elu": rows.fixed(UNBOUNDED),
        "Celu": rows.fixed(UNBOUNDED),
        "Selu": rows.fixed(UNBOUNDED),
        "Gelu": rows.fixed(UNBOUNDED),
        "HardSwish": rows.fixed(UNBOUNDED),
        "Swish": rows.fixed(UNBOUNDED),
        "Mish": rows.fixed(UNBOUNDED),
        "Softplus": rows.fixed(Activation(Kind.UNBOUNDED, 0.0)),
        "ThresholdedRelu": rows.fixed(UNBOUNDED),
        "Sigmoid": rows.fixed(Activation(Kind.BOUNDED, 0.0, 1.0)),
        "HardSigmoid": rows.fixed(Activation(Kind.BOUNDED, 0.0, 1.0)),
        "Cos": rows.fixed(Activation(Kind.BOUNDED, -1.0, 1.0)),
        "Exp": rows.fixed(Activation(Kind.BOUNDED, 0.0)),
        "Log": rows.fixed(BOUNDED),
        "Sqrt": rows.fixed(Activation(Kind.BOUNDED, 0.0)),
        "Reciprocal": rows.fixed(BOUNDED),
        "Sign": rows.fixed(Activation(Kind.BOUNDED, -1.0, 1.0)),
        "Floor": rows.fixed(BOUNDED),
        "Ceil": rows.fixed(BOUNDED),
        "Acosh": rows.fixed(BOUNDED),
        "Acos": rows.fixed(BOUNDED),
        "Cosh": rows.fixed(Activation(Kind.BOUNDED, 1.0)),
        "IsNaN": rows.fixed(BOUNDED),
        "IsInf": rows.fixed(BOUNDED),
        "Mod": rows.modulo,
        # between tensors
        "Add": rows.fixed(Elementwise("add")),
        "Sum": rows.fixed(Elementwise("add")),
        "Sub": rows.fixed(Elementwise("sub")),
        "Mul": rows.fixed(Elementwise("mul")),
        "Div": rows.fixed(Elementwise("div")),
        "Max": rows.fixed(Elementwise("max")),
        "Min": rows.fixed(Elementwise("min")),
        "Where": rows.fixed(Chosen()),
        # windows
        "Pad": rows.pad,
        "MaxPool": rows.pool(linear=False),
        "AveragePool": rows.pool(linear=True),
        "GlobalAveragePool": rows.pool(linear=True),
        "GlobalMaxPool": rows.pool(linear=False),
        "ReduceMean": rows.reduce(linear=True, mean=True),
        "ReduceSum": rows.reduce(linear=True, mean=False),
        "ReduceMax": rows.reduce(linear=False, mean=True),
        "ReduceMin": rows.reduce(linear=False, mean=True),
        "ReduceL1": rows.reduce(linear=True, mean=False, before=MAGNITUDE),
        "ReduceL2": rows.reduce(linear=True, mean=False, before=MAGNITUDE),
        "ReduceSumSquare": rows.reduce(linear=True, mean=False, before=BOUNDED),
        "ReduceProd": rows.reduce(linear=True, mean=False, before=BOUNDED),
        "ReduceLogSum": rows.reduce(linear=True, mean=False, before=BOUNDED),
        "ReduceLogSumExp": rows.reduce(linear=True, mean=False, before=BOUNDED),
        "Crop": rows.fixed(Window((2, 3), linear=True)),
        "LpPool": rows.lp_pool,
        "GlobalLpPool": rows.lp_pool,
        "ReverseSequence": reverse_sequence,
        "Resize": rows.resize,
        "Upsample": rows.resize,
        # data movement
        "Reshape": movement_rows.move("reshape", movement_rows.reshape),
        "Flatten": movement_rows.move("reshape", movement_rows.shape_only),
        "Squeeze": movement_rows.move("reshape", movement_rows.shape_only),
        "Unsqueeze": movement_rows.move("reshape", movement_rows.shape_only),
        "Transpose": movement_rows.move("transpose", movement_rows.transpose),
        "Concat": movement_rows.move("concat", movement_rows.concat),
        "Split": movement_rows.move("split", movement_rows.split),
        "Slice": movement_rows.move("slice", movement_rows.sliced),
        "Gather": movement_rows.gather,
        "Expand": movement_rows.move("expand", movement_rows.expand),
        "Tile": movement_rows.move("tile", movement_rows.tile),
        "DepthToSpace": movement_rows.move("depth_to_space", movement_rows.depth_to_space),
        "SpaceToDepth": movement_rows.move("space_to_depth", movement_rows.space_to_depth),
        # what onnxruntime's optimizer writes (others: fused.py)
        "SimplifiedLayerNormalization": rows.layer_normalization,
    }.items()
} | {
    ("com.microsoft", op): row
    for op, row in {
        "FusedMatMul": linear_rows.matmul,
        "Gelu": rows.fixed(UNBOUNDED),
        "FastGelu": rows.fixed(UNBOUNDED),
        "QuickGelu": rows.fixed(UNBOUNDED),
        "Attention": linear_rows.attention,
        "MultiHeadAttention": rows.fixed(Refused(HEADS)),
        "SkipLayerNormalization": rows.fixed(Refused(TOGETHER)),
        "SkipSimplifiedLayerNormalization": rows.fixed(Refused(TOGETHER)),
        "EmbedLayerNormalization": rows.fixed(Refused(TOGETHER)),
    }.items()
}

ONE_MACHINE = ("com.microsoft.nchwc", "com.ms.internal.nhwc")
"""Domains of operators that onnxruntime writes for the machine that it runs on."""
QUANTIZED_OPERATORS = (
    "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear",
    # com.microsoft
    "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearLeakyRelu",
    "QLinearMul", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere", "QAttention",
    "QEmbedLayerNormalization", "QMoE", "QOrderedAttention", "QOrderedGelu", "QOrderedLayerNormalization",
    "QOrderedLongformerAttention", "QOrderedMatMul", "QuantizeWithOrder", "DequantizeWithOrder", "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul", "MatMulInteger16", "MatMulIntegerToFloat", "MatMulNBits", "MatMulBnb4", "MulInteger",
    "GatherBlockQuantized", "ReduceSumInteger",
)  # fmt: skip
"""Operators on integers without a row: what they read is refused with an advice."""

DEFAULT_DOMAINS = ("", "ai.onnx", None)


def read(node: gs.Node, facts: Facts) -> Action:
    """The action of a node, or Refused with a reason that completes "NODE ..."."""
    if any(t.name in facts.sparse for t in node.inputs):
        return Refused("has sparse weights, which stay")
    domain = "" if node.domain in DEFAULT_DOMAINS else node.domain
    if domain in ONE_MACHINE or (domain == "com.microsoft" and node.op.startswith("Nhwc")):
        return Refused("was optimized for another machine: condense the model that it was made from")
    row = TABLE.get((domain, node.op))
    if row is None:
        return Refused(QUANTIZED if node.op in QUANTIZED_OPERATORS else "is not supported yet")
    if any(facts.is_locked(t.name) for t in node.inputs):
        return Refused(QUANTIZED)
    return row(NodeView(node, facts))


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


RECURRENT = ("LSTM", "GRU", "RNN")
LINEAR = ("Gemm", "MatMul", "Einsum", "Conv", "ConvTranspose", *RECURRENT)


def is_recurrent(node: gs.Node) -> bool:
    return node.op in RECURRENT


def linear_weights(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """Names of what linear maps multiply, weights among them, each once."""
    return list(dict.fromkeys(name for node in nodes if node.op_type in LINEAR for name in node.input[:3] if name))


def has_weights(body: onnx.GraphProto) -> bool:
    """Whether a body, or one inside it, holds a linear map."""
    inner = (a.g for node in body.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH)
    return bool(linear_weights(body.node)) or any(map(has_weights, inner))


def formal_values(node: onnx.NodeProto, values: list[Array | None], turn: int) -> list[Array] | None:
    """What the inputs of the body of a Loop or Scan (from opset 9) hold first, from the node's inputs; else None.

    turn: the number of the iteration.
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
