"""The rows of linear maps: Gemm, MatMul, Einsum, Conv and their kin."""

from __future__ import annotations

import re
from math import prod

from onnx_condense.operators.actions import Contraction, Filter, Product, Reader, Refused
from onnx_condense.operators.answers import Action
from onnx_condense.operators.reasons import Reason
from onnx_condense.operators.view import NodeView


def gemm(view: NodeView) -> Action:
    trans_a, trans_b = view.attribute("transA", 0), view.attribute("transB", 0)
    alpha, beta = float(view.attribute("alpha", 1.0)), float(view.attribute("beta", 1.0))
    bias = 2 if view.has(2) else None
    if bias is not None and not view.is_weight(bias):
        return Refused(Reason.BIAS_FROM_DATA)
    if bias is not None and len(view.shape(bias)) == 2 and view.shape(bias)[0] > 1:
        return Refused(Reason.BIAS_ALONG_BATCH)
    if view.is_weight(1) and not view.is_weight(0):
        return Contraction(
            0, 1, bias, "in" if trans_a else "ni", "oi" if trans_b else "io", "no", alpha=alpha, beta=beta
        )
    if view.is_weight(0) and bias is None:
        return Contraction(1, 0, None, "ni" if trans_b else "in", "io" if trans_a else "oi", "on", alpha=alpha)
    if bias is None:
        return Product("kn" if trans_a else "nk", "mk" if trans_b else "km", "nm")
    return Refused(Reason.PRODUCT_OF_DATA)


def matmul(view: NodeView) -> Action:
    """MatMul, and the FusedMatMul of onnxruntime."""
    if view.attribute("transBatchA", 0) or view.attribute("transBatchB", 0):
        return Refused(Reason.BATCH_TRANSPOSED)
    alpha = float(view.attribute("alpha", 1.0))
    left, right = (bool(view.attribute(name, 0)) for name in ("transA", "transB"))
    ranks = [len(view.shape(i)) for i in (0, 1)]
    if view.is_weight(0) and view.is_weight(1):
        return Refused(Reason.PRODUCT_OF_CONSTANTS)
    if not (view.is_weight(0) or view.is_weight(1)):
        return _product(ranks, left, right)
    data, weight = (0, 1) if view.is_weight(1) else (1, 0)
    if ranks[weight] == 1:
        axis = ranks[data] - 1 if data == 0 else max(ranks[data] - 2, 0)
        return Reader(data, weight, axis, 0, Reason.ONE_OUTPUT)
    leading = view.shape(weight)[:-2]
    if prod(leading) > 1 or ranks[data] < ranks[weight]:
        return Refused(Reason.BATCH_OF_WEIGHTS)
    dots = "." * len(leading)
    batch = "abcdefgh"[: ranks[data] - 2]
    if data == 0:
        return Contraction(
            0, 1, None, batch + ("in" if left else "ni"), dots + ("oi" if right else "io"), batch + "no", alpha=alpha
        )
    weight_axes = dots + ("io" if left else "oi")
    return Contraction(1, 0, None, batch + ("ni" if right else "in"), weight_axes, batch + "on", alpha=alpha)


def _product(ranks: list[int], left: bool, right: bool) -> Action:
    """Of two tensors of data; left, right: whether they are transposed."""
    if min(ranks) < 2:
        return Refused(Reason.PRODUCT_WITH_VECTOR)
    batch = "abcdefgh"[: max(ranks) - 2]
    batches = [batch[len(batch) + 2 - rank :] for rank in ranks]
    return Product(batches[0] + ("kn" if left else "nk"), batches[1] + ("mk" if right else "km"), batch + "nm")


def einsum(view: NodeView) -> Action:
    """Of two operands: a linear map with one axis contracted and one produced, or a product of data."""
    terms = re.fullmatch(
        r"([A-Za-z]+),([A-Za-z]+)->([A-Za-z]*)", _text(view.attribute("equation", "")).replace(" ", "")
    )
    if terms is None or len(view.node.inputs) != 2 or any(len(set(t)) < len(t) for t in terms.groups()):
        return Refused(Reason.UNKNOWN_EQUATION)
    left, right, output = terms.groups()
    if not (view.is_weight(0) or view.is_weight(1)):
        return Product(left, right, output)
    data, weight = (0, 1) if view.is_weight(1) else (1, 0)
    data_axes, weight_axes = (left, right) if weight == 1 else (right, left)
    inner = [letter for letter in weight_axes if letter in data_axes and letter not in output]
    outer = [letter for letter in weight_axes if letter in output and letter not in data_axes]
    if len(inner) != 1 or len(outer) != 1 or len(weight_axes) != 2:
        return Refused(Reason.SEVERAL_AXES)
    return Contraction(data, weight, None, data_axes, weight_axes, output)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def conv(view: NodeView) -> Action:
    if not view.is_weight(1) or (view.has(2) and not view.is_weight(2)):
        return Refused(Reason.KERNELS_FROM_DATA)
    group, shape = view.attribute("group", 1), view.shape(1)
    channels = view.shape(0)[1]
    pads = view.attribute("pads", [0])
    padded = any(pads) or view.attribute("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    if group == channels and shape[1] == 1 and group > 1:
        return Filter(shape[0] // group, padded)
    stars, dots = "*" * (len(shape) - 2), "." * (len(shape) - 2)
    bias = 2 if view.has(2) else None
    return Contraction(0, 1, bias, "ni" + stars, "oi" + dots, "no" + stars, padded, groups=group)


def conv_transpose(view: NodeView) -> Action:
    if not view.is_weight(1) or (view.has(2) and not view.is_weight(2)):
        return Refused(Reason.KERNELS_FROM_DATA)
    group, shape = view.attribute("group", 1), view.shape(1)
    if group == shape[0] and shape[1] == 1 and group > 1:
        return Filter(1, padded=True)
    stars, dots = "*" * (len(shape) - 2), "." * (len(shape) - 2)
    bias = 2 if view.has(2) else None
    strides = prod(view.attribute("strides", [1]))
    axes = "ni" + stars, "io" + dots, "no" + stars
    return Contraction(0, 1, bias, *axes, padded=True, scattered=strides, groups=group)


def attention(view: NodeView) -> Action:
    """The Attention of onnxruntime: projects its input [batch, places, i] with [i, q + k + v]."""
    if not view.is_weight(1):
        return Refused(Reason.WEIGHTS_FROM_DATA)
    return Reader(0, 1, 2, 0, Reason.HEADS)
