"""The rows of linear maps: Gemm, MatMul, Einsum, Conv and their kin."""

from __future__ import annotations

from math import prod

from onnx_condense.operators.actions import Contraction, Filter, Product, Reader, Refused
from onnx_condense.operators.answers import Action
from onnx_condense.operators.products import Term, equation, letters_of, matrices
from onnx_condense.operators.reasons import Reason
from onnx_condense.operators.view import NodeView


def gemm(view: NodeView) -> Action:
    trans_a, trans_b = view.attribute("transA", 0), view.attribute("transB", 0)
    alpha, beta = float(view.attribute("alpha", 1.0)), float(view.attribute("beta", 1.0))
    bias, terms = view.optional(2), (((0, _axes("nk", trans_a)), (1, _axes("km", trans_b))),)
    if bias is not None and not view.is_weight(bias):
        return Refused(Reason.BIAS_FROM_DATA, terms)
    if bias is not None and len(view.shape(bias)) == 2 and view.shape(bias)[0] > 1:
        return Refused(Reason.BIAS_ALONG_BATCH, terms)
    if view.is_weight(1) and not view.is_weight(0):
        axes = _axes("ni", trans_a), _axes("io", trans_b), "no"
        return Contraction(0, 1, bias, *axes, alpha=alpha, beta=beta)
    if view.is_weight(0) and bias is None:
        return Contraction(1, 0, None, _axes("in", trans_b), _axes("oi", trans_a), "on", alpha=alpha)
    if bias is None:
        return Product(_axes("nk", trans_a), _axes("km", trans_b), "nm")
    return Refused(Reason.PRODUCT_OF_DATA, terms)


def _axes(letters: str, transposed: bool) -> str:
    """The letters of a matrix as it is stored."""
    return letters[::-1] if transposed else letters


def matmul(view: NodeView) -> Action:
    """MatMul, and the FusedMatMul of onnxruntime."""
    if view.attribute("transBatchA", 0) or view.attribute("transBatchB", 0):
        return Refused(Reason.BATCH_TRANSPOSED)
    weights = [i for i in (0, 1) if view.is_weight(i)]
    if len(weights) == 2:
        return Refused(Reason.PRODUCT_OF_CONSTANTS)
    if not weights:
        return _product(view)
    return _matrix(view, 1 - weights[0], weights[0])


def _transposed(view: NodeView) -> tuple[bool, bool]:
    """Whether each operand of a FusedMatMul is."""
    return bool(view.attribute("transA", 0)), bool(view.attribute("transB", 0))


def _matrix(view: NodeView, data: int, weight: int) -> Action:
    """Of data and a constant, given their positions."""
    ranks = [len(view.shape(i)) for i in (0, 1)]
    if ranks[weight] == 1:
        axis = ranks[data] - 1 if data == 0 else max(ranks[data] - 2, 0)
        return Reader(data, weight, axis, 0, Reason.ONE_OUTPUT)
    leading = view.shape(weight)[:-2]
    if prod(leading) > 1 or ranks[data] < ranks[weight]:
        return Refused(Reason.BATCH_OF_WEIGHTS, (matrices(ranks, _transposed(view)),))
    turned = _transposed(view)
    letters = ("ni", "io", "no") if data == 0 else ("in", "oi", "on")
    batch, dots = "abcdefgh"[: ranks[data] - 2], "." * len(leading)
    data_axes, weight_axes = batch + _axes(letters[0], turned[data]), dots + _axes(letters[1], turned[weight])
    alpha = float(view.attribute("alpha", 1.0))
    return Contraction(data, weight, None, data_axes, weight_axes, batch + letters[2], alpha=alpha)


def _product(view: NodeView) -> Action:
    """Of two tensors of data."""
    left, right = _transposed(view)
    ranks = [len(view.shape(i)) for i in (0, 1)]
    if min(ranks) < 2:
        return Refused(Reason.PRODUCT_WITH_VECTOR, (matrices(ranks, (left, right)),))
    batch = "abcdefgh"[: max(ranks) - 2]
    batches = [batch[len(batch) + 2 - rank :] for rank in ranks]
    return Product(batches[0] + _axes("nk", left), batches[1] + _axes("km", right), batch + "nm")


def einsum(view: NodeView) -> Action:
    """Of two operands: a linear map with one axis contracted and one produced, or a product of data."""
    terms, counted = _terms(view), _counted(view)
    if terms is None:
        return Refused(Reason.UNKNOWN_EQUATION, counted)
    left, right, output = terms
    if not (view.is_weight(0) or view.is_weight(1)):
        return Product(left, right, output)
    data, weight = (0, 1) if view.is_weight(1) else (1, 0)
    data_axes, weight_axes = (left, right) if weight == 1 else (right, left)
    inner = set(weight_axes) & (set(data_axes) - set(output))
    outer = set(weight_axes) & (set(output) - set(data_axes))
    if len(inner) != 1 or len(outer) != 1 or len(weight_axes) != 2:
        return Refused(Reason.SEVERAL_AXES, counted)
    return Contraction(data, weight, None, data_axes, weight_axes, output)


def _terms(view: NodeView) -> tuple[str, str, str] | None:
    return letters_of(view.attribute("equation", ""), [len(view.shape(i)) for i in range(len(view.node.inputs))])


def _counted(view: NodeView) -> tuple[Term, ...]:
    """What an Einsum multiplies, of any number of operands."""
    ranks = [len(view.shape(i)) for i in range(len(view.node.inputs))]
    found = equation(_text(view.attribute("equation", "")), ranks)
    return () if found is None else (found,)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def conv(view: NodeView) -> Action:
    if not view.is_weight(1) or (view.has(2) and not view.is_weight(2)):
        spots = "xyzuvw"[: len(view.shape(1)) - 2]
        return Refused(Reason.KERNELS_FROM_DATA, (((-1, "no" + spots), (1, "oi" + spots.upper())),))
    group, shape = view.attribute("group", 1), view.shape(1)
    channels = view.shape(0)[1]
    pads = view.attribute("pads", [0])
    padded = any(pads) or view.attribute("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    if group == channels and shape[1] == 1 and group > 1:
        return Filter(shape[0] // group, padded)
    return Contraction(0, 1, view.optional(2), *_spatial(view, "ni", "oi", "no"), padded, groups=group)


def conv_transpose(view: NodeView) -> Action:
    if not view.is_weight(1) or (view.has(2) and not view.is_weight(2)):
        spots = "xyzuvw"[: len(view.shape(1)) - 2]
        return Refused(Reason.KERNELS_FROM_DATA, (((0, "ni" + spots), (1, "io" + spots.upper())),))
    group, shape = view.attribute("group", 1), view.shape(1)
    if group == shape[0] and shape[1] == 1 and group > 1:
        return Filter(1, padded=True)
    strides = prod(view.attribute("strides", [1]))
    axes = _spatial(view, "ni", "io", "no")
    return Contraction(0, 1, view.optional(2), *axes, padded=True, scattered=strides, groups=group)


def _spatial(view: NodeView, data: str, weight: str, output: str) -> tuple[str, str, str]:
    """The letters of a convolution, those of the axes behind its channels added."""
    kernel, before, after = view.shape(1)[2:], view.shape(0)[2:], view.output_shape(0)[2:]
    strides = view.attribute("strides", [1] * len(kernel))
    pads = view.attribute("pads", [0] * 2 * len(kernel))
    ends = [pads[axis :: len(kernel)] for axis in range(len(kernel))]
    alone = [
        size == step == 1 and not any(end) and a == b
        for size, step, end, a, b in zip(kernel, strides, ends, before, after, strict=True)
    ]
    axes = "".join(letter if apart else "*" for letter, apart in zip("abcdefgh", alone, strict=False))
    return data + axes, weight + "." * len(kernel), output + axes
