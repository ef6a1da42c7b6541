"""THE operator table: how each ONNX operator relates channels. It and its rows alone say what an operator means.

On this floor queries.py and nodes.py know operators by name as well, and so do the forms, which take some apart.

A row turns a node into an *action* (actions.py, moves.py) that the tracer and the rewriter understand. Adding an
operator is one row here and one planted case (docs/adding-an-operator.md). An operator without a row, or a use of it
that its row does not cover (`Refused`), pins the channels that it touches, with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from onnx_condense.operators import attention, between, elementwise, linear, movement, normalization, windows
from onnx_condense.operators.actions import (
    BOUNDED,
    MAGNITUDE,
    RELU,
    UNBOUNDED,
    Activation,
    Refused,
    Window,
)
from onnx_condense.operators.answers import Action, Kind, Row, fixed
from onnx_condense.operators.facts import Facts
from onnx_condense.operators.reasons import Reason
from onnx_condense.operators.recurrent import recurrent, reverse_sequence
from onnx_condense.operators.view import NodeView

TABLE: Mapping[tuple[str, str], Row] = {
    ("", op): row
    for op, row in {
        # linear maps
        "Gemm": linear.gemm,
        "MatMul": linear.matmul,
        "Einsum": linear.einsum,
        "Conv": linear.conv,
        "ConvTranspose": linear.conv_transpose,
        "LSTM": recurrent,
        "GRU": recurrent,
        "RNN": recurrent,
        # per-channel parameters
        "BatchNormalization": normalization.batchnorm,
        "InstanceNormalization": normalization.instance_normalization,
        "PRelu": elementwise.prelu,
        # along another axis than the channels
        "LayerNormalization": normalization.layer_normalization,
        "RMSNormalization": normalization.layer_normalization,
        "GroupNormalization": fixed(Refused(Reason.NORMALIZES_TOGETHER)),
        "LpNormalization": normalization.normalization(lambda view: (view.attribute("axis", -1),)),
        "MeanVarianceNormalization": normalization.normalization(lambda view: view.attribute("axes", (0, 2, 3))),
        "Softmax": normalization.softmax,
        "LogSoftmax": normalization.softmax,
        "Hardmax": normalization.softmax,
        "ArgMax": windows.arg,
        "ArgMin": windows.arg,
        "CumSum": windows.cumulative_sum,
        "Trilu": windows.trilu,
        # elementwise functions
        "Identity": fixed(Activation(Kind.LINEAR)),
        "Dropout": elementwise.dropout,
        "Cast": elementwise.cast,
        "CastLike": elementwise.cast_like,
        "Pow": elementwise.power,
        "Not": fixed(BOUNDED),
        "QuantizeLinear": elementwise.quantize,
        "DequantizeLinear": elementwise.dequantize,
        "Relu": fixed(RELU),
        "LeakyRelu": fixed(Activation(Kind.HOMOGENEOUS)),
        "Abs": fixed(Activation(Kind.ABSOLUTE, 0.0)),
        "Tanh": fixed(Activation(Kind.ODD, -1.0, 1.0)),
        "Erf": fixed(Activation(Kind.ODD, -1.0, 1.0)),
        "Softsign": fixed(Activation(Kind.ODD, -1.0, 1.0)),
        "Atan": fixed(Activation(Kind.ODD)),
        "Sin": fixed(Activation(Kind.ODD, -1.0, 1.0)),
        "Sinh": fixed(Activation(Kind.ODD)),
        "Asinh": fixed(Activation(Kind.ODD)),
        "Asin": fixed(Activation(Kind.ODD)),
        "Atanh": fixed(Activation(Kind.ODD)),
        "Tan": fixed(Activation(Kind.ODD)),
        "Round": fixed(Activation(Kind.ODD)),
        "Shrink": fixed(Activation(Kind.ODD)),
        "Clip": elementwise.clip,
        "Elu": fixed(UNBOUNDED),
        "Celu": fixed(UNBOUNDED),
        "Selu": fixed(UNBOUNDED),
        "Gelu": fixed(UNBOUNDED),
        "HardSwish": fixed(UNBOUNDED),
        "Swish": fixed(UNBOUNDED),
        "Mish": fixed(UNBOUNDED),
        "Softplus": fixed(Activation(Kind.UNBOUNDED, 0.0)),
        "ThresholdedRelu": fixed(UNBOUNDED),
        "Sigmoid": fixed(Activation(Kind.BOUNDED, 0.0, 1.0)),
        "HardSigmoid": fixed(Activation(Kind.BOUNDED, 0.0, 1.0)),
        "Cos": fixed(Activation(Kind.BOUNDED, -1.0, 1.0)),
        "Exp": fixed(Activation(Kind.BOUNDED, 0.0)),
        "Log": fixed(BOUNDED),
        "Sqrt": fixed(Activation(Kind.BOUNDED, 0.0)),
        "Reciprocal": fixed(BOUNDED),
        "Sign": fixed(Activation(Kind.BOUNDED, -1.0, 1.0)),
        "Floor": fixed(BOUNDED),
        "Ceil": fixed(BOUNDED),
        "Acosh": fixed(BOUNDED),
        "Acos": fixed(BOUNDED),
        "Cosh": fixed(Activation(Kind.BOUNDED, 1.0)),
        "IsNaN": fixed(BOUNDED),
        "IsInf": fixed(BOUNDED),
        "Mod": elementwise.modulo,
        # between tensors
        **between.OPERATORS,
        # heads
        "Attention": attention.standard,
        "RotaryEmbedding": attention.rotary,
        # windows
        "Pad": windows.pad,
        "MaxPool": windows.pool(linear=False),
        "AveragePool": windows.pool(linear=True),
        "GlobalAveragePool": windows.pool(linear=True),
        "GlobalMaxPool": windows.pool(linear=False),
        "ReduceMean": windows.reduce(linear=True, scale_free=True),
        "ReduceSum": windows.reduce(linear=True, scale_free=False),
        "ReduceMax": windows.reduce(linear=False, scale_free=True),
        "ReduceMin": windows.reduce(linear=False, scale_free=True),
        "ReduceL1": windows.reduce(linear=True, scale_free=False, before=MAGNITUDE),
        "ReduceL2": windows.reduce(linear=True, scale_free=False, before=MAGNITUDE),
        "ReduceSumSquare": windows.reduce(linear=True, scale_free=False, before=BOUNDED),
        "ReduceProd": windows.reduce(linear=True, scale_free=False, before=BOUNDED),
        "ReduceLogSum": windows.reduce(linear=True, scale_free=False, before=BOUNDED),
        "ReduceLogSumExp": windows.reduce(linear=True, scale_free=False, before=BOUNDED),
        "Crop": fixed(Window((2, 3), linear=True)),
        "LpPool": windows.lp_pool,
        "GlobalLpPool": windows.lp_pool,
        "ReverseSequence": reverse_sequence,
        "Resize": windows.resize,
        "Upsample": windows.resize,
        # data movement
        "Reshape": movement.reshape,
        "Flatten": movement.regroup,
        "Squeeze": movement.squeeze,
        "Unsqueeze": movement.regroup,
        "Transpose": movement.transpose,
        "Concat": movement.concat,
        "Split": movement.split,
        "Slice": movement.sliced,
        "Gather": movement.gather,
        "Expand": movement.expand,
        "Tile": movement.tile,
        "DepthToSpace": movement.depth_to_space,
        "SpaceToDepth": movement.space_to_depth,
        # what onnxruntime's optimizer writes (others: forms/fused.py)
        "SimplifiedLayerNormalization": normalization.layer_normalization,
    }.items()
} | {
    ("com.microsoft", op): row
    for op, row in {
        "FusedMatMul": linear.matmul,
        "Gelu": fixed(UNBOUNDED),
        "FastGelu": fixed(UNBOUNDED),
        "QuickGelu": fixed(UNBOUNDED),
        "Attention": attention.attention,
        "MultiHeadAttention": attention.multi_head,
        "GroupQueryAttention": attention.grouped,
        "RotaryEmbedding": attention.rotary,
        "SkipLayerNormalization": fixed(Refused(Reason.NORMALIZES_TOGETHER)),
        "SkipSimplifiedLayerNormalization": fixed(Refused(Reason.NORMALIZES_TOGETHER)),
        "EmbedLayerNormalization": fixed(Refused(Reason.NORMALIZES_TOGETHER)),
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
        return Refused(Reason.WEIGHTS_SPARSE)
    domain = "" if node.domain in DEFAULT_DOMAINS else node.domain
    if domain in ONE_MACHINE or (domain == "com.microsoft" and node.op.startswith("Nhwc")):
        return Refused(Reason.OTHER_MACHINE)
    row = TABLE.get((domain, node.op))
    if row is None:
        return Refused(Reason.QUANTIZED if node.op in QUANTIZED_OPERATORS else Reason.UNSUPPORTED)
    if any(facts.is_locked(t.name) for t in node.inputs):
        return Refused(Reason.QUANTIZED)
    return row(NodeView(node, facts))
