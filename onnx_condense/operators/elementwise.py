"""The rows of functions of single elements that depend on a node's attributes or inputs."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx

from onnx_condense.model.protos import FLOAT_TYPES
from onnx_condense.operators.actions import BOUNDED, Activation, Refused
from onnx_condense.operators.answers import ANYTHING, Action, Kind
from onnx_condense.operators.reasons import Reason
from onnx_condense.operators.view import INTEGER_TYPES, NodeView


def modulo(view: NodeView) -> Action:
    divisor = view.value(1)
    if divisor is None or divisor.size != 1:
        return Refused(Reason.REMAINDER)
    return BOUNDED


def clip(view: NodeView) -> Action:
    def bound(name: str, default: float) -> float | None:
        value = view.stated(name, default)
        return None if value is None else float(value.reshape(-1)[0])

    if view.is_derived(1) or view.is_derived(2):
        return BOUNDED
    low, high = bound("min", -np.inf), bound("max", np.inf)
    if low is None or high is None:
        return Refused(Reason.CLIPS_BY_DATA)
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
        return Refused(Reason.SLOPES_FROM_DATA)
    return Activation(Kind.HOMOGENEOUS, slope=1)


def dropout(view: NodeView) -> Action:
    return Refused(Reason.RETURNS_MASK) if view.is_used(1) else Activation(Kind.LINEAR)


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
        return Refused(Reason.SCALE_FROM_DATA)
    scale = view.shape(1)
    if view.attribute("block_size", 0) or len(scale) > 1:
        return Refused(Reason.SCALE_IN_BLOCKS)
    if prod(scale) == 1:
        return Activation(Kind.BOUNDED, low, high)
    axis = view.attribute("axis", 1) % len(view.shape())
    return Activation(Kind.BOUNDED, uniform_axes=(axis,), across=Reason.SCALE_PER_CHANNEL)


def power(view: NodeView) -> Action:
    exponent = view.value(1)
    if exponent is None or exponent.size != 1:
        return Refused(Reason.POWER)
    first = float(exponent.reshape(-1)[0]) == 1 and not view.is_derived(1)
    return Activation(Kind.LINEAR) if first else BOUNDED
