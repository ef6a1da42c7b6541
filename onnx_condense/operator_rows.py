"""The rows of the operator table that depend on a node's attributes, inputs or shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_condense.actions import (
    BOUNDED,
    MAGNITUDE,
    Action,
    Activation,
    Kind,
    Normalization,
    Padding,
    Refused,
    Window,
)
from onnx_condense.facts import Facts
from onnx_condense.runtime import Array

PARTS = ("Slice", "Split", "Gather", "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Identity", "Cast")
"""Operators whose output is a part of their first input."""


class NodeView:
    """What a row may ask about a node."""

    def __init__(self, node: gs.Node, facts: Facts) -> None:
        self.node = node
        self.opset = facts.opset
        self._facts = facts

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.node.attrs.get(name, default)

    def has(self, index: int) -> bool:
        return index < len(self.node.inputs) and bool(self.node.inputs[index].name)

    def is_used(self, output: int) -> bool:
        """Whether an optional output is read or is an output of the model."""
        tensors = self.node.outputs[output : output + 1]
        return any(t.outputs or any(t is o for o in self._facts.graph.outputs) for t in tensors if t.name)

    def value(self, index: int) -> Array | None:
        return self._facts.value(self.node.inputs[index]) if self.has(index) else None

    def type(self, index: int) -> int | None:
        """The element type of an input (TensorProto.DataType)."""
        return self._facts.types.get(self.node.inputs[index].name)

    def type_of_output(self) -> int | None:
        return self._facts.types.get(self.node.outputs[0].name)

    def is_weight(self, index: int) -> bool:
        """Whether an input is constant and can therefore be rewritten."""
        return self.has(index) and self.node.inputs[index].name in self._facts.static and self.value(index) is not None

    def is_derived(self, index: int) -> bool:
        """Whether an input is computed from shapes."""
        return self.has(index) and self.node.inputs[index].name in self._facts.derived

    def shape(self, index: int = 0) -> tuple[int, ...]:
        value = self.value(index)
        return tuple(value.shape) if value is not None else self._facts.shapes[self.node.inputs[index].name]

    def output_shape(self, index: int = 0) -> tuple[int, ...]:
        return self._facts.shapes[self.node.outputs[index].name]

    def is_zero(self, index: int) -> bool:
        """Whether an input that no data reaches is all zeros, whatever the sizes of the model's inputs."""
        name, value = self.node.inputs[index].name, self.value(index)
        other = self._facts.other_value(name) if name in self._facts.derived else None
        return value is not None and not value.any() and (other is None or not other.any())

    def is_given(self, index: int) -> bool:
        """Whether an input is one of the model's, maybe a part of it."""
        tensor = self.node.inputs[index]
        while tensor.inputs and tensor.inputs[0].op in PARTS:
            tensor = tensor.inputs[0].inputs[0]
        return any(tensor is given for given in self._facts.graph.inputs)

    def ints(self, attribute: str, index: int | None = None) -> list[int] | None:
        """Integers that old opsets keep in an attribute and new ones in an input; None when absent or not constant."""
        if attribute in self.node.attrs:
            return [int(v) for v in np.atleast_1d(self.node.attrs[attribute])]
        value = self.value(index) if index is not None else None
        return None if value is None else [int(v) for v in value.reshape(-1)]


FLOAT_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)

ANYTHING = (-np.inf, np.inf)

INTEGER_TYPES = tuple(getattr(onnx.TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64))

HEADS = "has attention heads, which stay"
TOGETHER = "normalizes channels together"
QUANTIZED = "is quantized: condense the float model, then quantize it"

Row = Callable[[NodeView], Action]


def fixed(action: Action) -> Row:
    return lambda view: action


def batchnorm(view: NodeView) -> Action:
    training = view.attribute("training_mode", 0) or len([o for o in view.node.outputs if o.name]) > 1
    if view.opset < 7 or training or view.attribute("spatial", 1) != 1:
        return Refused("normalizes with statistics of the batch")
    if not all(view.is_weight(i) for i in range(1, 5)):
        return Refused("normalizes with parameters that are computed from data")
    return Normalization(float(view.attribute("epsilon", 1e-5)))


def instance_normalization(view: NodeView) -> Action:
    if not (view.is_weight(1) and view.is_weight(2)):
        return Refused("normalizes with parameters that are computed from data")
    return Normalization(float(view.attribute("epsilon", 1e-5)), mean=None, var=None)


def layer_normalization(view: NodeView) -> Action:
    """LayerNormalization and RMSNormalization."""
    rank = len(view.shape())
    axes = tuple(range(view.attribute("axis", -1) % rank, rank))
    if view.is_used(1) or view.is_used(2):
        return Refused("also returns its statistics")
    for position in (1, 2):
        if view.has(position) and not view.is_weight(position):
            return Refused("normalizes with parameters that are computed from data")
        if view.has(position) and prod(view.shape(position)[: -len(axes)]) > 1:
            return Refused("normalizes with parameters that vary along other axes")
    return Activation(Kind.BOUNDED, uniform_axes=axes, across=TOGETHER)


def normalization(axes: Callable[[NodeView], Sequence[int]]) -> Row:
    """Without parameters."""

    def row(view: NodeView) -> Action:
        used = tuple(axis % len(view.shape()) for axis in axes(view))
        return Activation(Kind.BOUNDED, uniform_axes=used, across=TOGETHER)

    return row


def modulo(view: NodeView) -> Action:
    divisor = view.value(1)
    if divisor is None or divisor.size != 1:
        return Refused("takes the remainder of a division by what is not one constant")
    return BOUNDED


def trilu(view: NodeView) -> Action:
    rank = len(view.shape())
    return Window((rank - 2, rank - 1), linear=True, padded=True, across="clears channels by their position")


def cumulative_sum(view: NodeView) -> Action:
    axis = view.ints("axis", 1)
    if axis is None or len(axis) != 1:
        return Refused("adds up along an axis that is computed from data")
    return Window((axis[0] % len(view.shape()),), linear=True, scale_free=False, across="adds up channels")


def resize(view: NodeView) -> Action:
    """Resize, and Upsample before it. Interpolation is linear; a cubic one may overshoot, so that no bounds pass."""
    old = view.node.op == "Upsample" or view.opset < 11
    if view.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return Refused("crops, and fills with a number what lies beyond the border")
    if view.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        return Refused("resizes to sizes that depend on the aspect ratio")
    source, target = view.shape(), view.output_shape()
    axes = tuple(a % len(source) for a in view.attribute("axes", range(len(source))))
    stated = 1 if old else 2
    scales = view.attribute("scales", view.value(stated))
    by_size = not old and view.has(3)
    if (view.value(3) if by_size else scales) is None:
        return Refused("resizes by amounts that are computed from data")
    mixed = {axis for axis, size in enumerate(source) if size != target[axis]}
    if not view.is_weight(3 if by_size else stated) and "scales" not in view.node.attrs:
        mixed |= set(range(2, len(source)))
    if not by_size:
        mixed |= {axis for axis, scale in zip(axes, np.ravel(scales), strict=True) if scale != 1}
    return Window(
        tuple(sorted(mixed)),
        linear=True,
        scale_free=view.attribute("mode", "nearest") != "cubic",
        across="resizes along its channels" if 1 in mixed else "",
        sized=(3, axes) if by_size else None,
    )


def clip(view: NodeView) -> Action:
    def bound(attribute: str, index: int, default: float) -> float | None:
        if view.has(index):
            value = view.value(index)
            return None if value is None else float(value.reshape(-1)[0])
        return float(view.attribute(attribute, default))

    if view.is_derived(1) or view.is_derived(2):
        return BOUNDED
    low, high = bound("min", 1, -np.inf), bound("max", 2, np.inf)
    if low is None or high is None:
        return Refused("clips to bounds that are computed from data")
    low, high = (-np.inf if low <= -3e38 else low), (np.inf if high >= 3e38 else high)
    if (low, high) == (-np.inf, np.inf):
        return Activation(Kind.LINEAR)
    kind = Kind.BOUNDED
    if (low, high) in ((0.0, np.inf), (-np.inf, 0.0)):
        kind = Kind.HOMOGENEOUS
    elif low == 0 or not np.isfinite(low + high):
        kind = Kind.UNBOUNDED
    elif low == -high:
        kind = Kind.ODD
    return Activation(kind, low, high, (low, high))


def prelu(view: NodeView) -> Action:
    if not view.is_weight(1):
        return Refused("has slopes that are computed from data")
    return Activation(Kind.HOMOGENEOUS, slope=1)


def dropout(view: NodeView) -> Action:
    return Refused("also returns its mask") if view.is_used(1) else Activation(Kind.LINEAR)


def cast(view: NodeView) -> Action:
    return Activation(Kind.LINEAR if int(view.attribute("to")) in FLOAT_TYPES else Kind.BOUNDED)


def cast_like(view: NodeView) -> Action:
    return Activation(Kind.LINEAR if view.type(1) in FLOAT_TYPES else Kind.BOUNDED)


def quantize(view: NodeView) -> Action:
    return _per_tensor(view, *_integer_limits(view.type_of_output()))


def dequantize(view: NodeView) -> Action:
    scale, zero = view.value(1), view.value(2) if view.has(2) else np.zeros(1)
    if scale is None or scale.size != 1 or zero is None:
        return _per_tensor(view, *ANYTHING)
    ends = (np.array(_integer_limits(view.type(0))) - float(zero.reshape(-1)[0])) * float(scale.reshape(-1)[0])
    return _per_tensor(view, float(ends.min()), float(ends.max()))


def _integer_limits(kind: int | None) -> tuple[float, float]:
    if kind is None or kind not in INTEGER_TYPES:
        return ANYTHING
    limits = np.iinfo(onnx.helper.tensor_dtype_to_np_dtype(kind))
    return float(limits.min), float(limits.max)


def _per_tensor(view: NodeView, low: float, high: float) -> Action:
    """Rounding to a grid that is the same for every channel; with one grid per channel they stay."""
    if not all(view.is_weight(i) for i in (1, 2) if view.has(i)):
        return Refused("quantizes with a scale that is computed from data")
    scale = view.shape(1)
    if view.attribute("block_size", 0) or len(scale) > 1:
        return Refused("quantizes in blocks")
    if prod(scale) == 1:
        return Activation(Kind.BOUNDED, low, high)
    axis = view.attribute("axis", 1) % len(view.shape())
    return Activation(Kind.BOUNDED, uniform_axes=(axis,), across="quantizes each channel with a scale of its own")


def power(view: NodeView) -> Action:
    exponent = view.value(1)
    if exponent is None or exponent.size != 1:
        return Refused("raises to a power that is not one constant")
    first = float(exponent.reshape(-1)[0]) == 1 and not view.is_derived(1)
    return Activation(Kind.LINEAR) if first else BOUNDED


def pad(view: NodeView) -> Action:
    mode, rank = view.attribute("mode", "constant"), len(view.shape())
    pads = view.ints("pads", 1)
    if pads is None:
        return Refused("pads by amounts that are computed from data")
    axes = view.ints("axes", 3) or list(range(rank))
    if len(pads) != 2 * len(axes):
        return Refused("pads by amounts that do not fit its input")
    used = tuple(sorted(a % rank for i, a in enumerate(axes) if pads[i] or pads[i + len(axes)]))
    number = view.value(2) if view.has(2) else np.asarray(view.attribute("value", 0.0))
    if mode == "constant" and number is None:
        return Refused("pads with a number that is computed from data")
    computed = "pads" not in view.node.attrs and view.is_derived(1)  # zero here, maybe not at other sizes
    padded = mode == "constant" and (computed or max(pads, default=0) > 0)
    if padded and number is not None and number.any():
        return Window(used, linear=True, padded=True, across="adds channels", before=BOUNDED)
    window = Window(used, linear=True, padded=padded, across="adds channels")
    if not padded or computed or min(pads) < 0:
        return window
    before, after = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        before[axis], after[axis] = pads[place], pads[place + len(axes)]
    return Padding(tuple(before), tuple(after), tuple(a % rank for a in axes), window)


def softmax(view: NodeView) -> Action:
    """Softmax, LogSoftmax and Hardmax; before opset 13 over all axes from `axis` on."""
    rank = len(view.shape())
    axis = view.attribute("axis", 1 if view.opset < 13 else -1) % rank
    axes = tuple(range(axis, rank)) if view.opset < 13 else (axis,)
    return Activation(Kind.BOUNDED, -np.inf if view.node.op == "LogSoftmax" else 0.0, 1.0, uniform_axes=axes)


def pool(linear: bool) -> Row:
    def row(view: NodeView) -> Action:
        if view.is_used(1):
            return Refused("also returns the indices of its maxima")
        pads = any(view.attribute("pads", [0])) or view.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        counts_zeros = linear and pads and bool(view.attribute("count_include_pad", 0))
        return Window(tuple(range(2, len(view.shape()))), linear, padded=counts_zeros)

    return row


def lp_pool(view: NodeView) -> Action:
    return Window(tuple(range(2, len(view.shape()))), linear=True, scale_free=False, before=MAGNITUDE)


def arg(view: NodeView) -> Action:
    """ArgMax, ArgMin."""
    axis = view.attribute("axis", 0) % len(view.shape())
    dropped = not view.attribute("keepdims", 1)
    return Window((axis,), False, dropped=dropped, scale_free=False, across="compares channels", before=BOUNDED)


def _normalizes(view: NodeView) -> bool:
    """Whether a mean is taken off its data or is one of squares: LayerNormalization and its kin, spelled out."""
    data = view.node.inputs[0]
    for reader in view.node.outputs[0].outputs:
        if reader.op == "Sub" and any(t is data for t in reader.inputs):
            return True
    maker = data.inputs[0] if data.inputs else view.node
    return maker.op == "Pow" or (maker.op == "Mul" and maker.inputs[0] is maker.inputs[1])


def reduce(linear: bool, mean: bool, before: Activation | None = None) -> Row:
    def row(view: NodeView) -> Action:
        rank = len(view.shape())
        axes = view.ints("axes", 1)
        if axes is None:
            if view.has(1):
                return Refused("reduces over axes that are computed from data")
            if view.attribute("noop_with_empty_axes", 0) and before is not None:
                return Refused("reduces over no axis")
            if view.attribute("noop_with_empty_axes", 0):
                return Activation(Kind.LINEAR)
            axes = list(range(rank))
        keep = bool(view.attribute("keepdims", 1))
        return Window(
            tuple(sorted(a % rank for a in axes)),
            linear,
            dropped=not keep,
            scale_free=mean,
            across=TOGETHER if mean and linear and _normalizes(view) else "reduces over channels",
            before=before,
        )

    return row
