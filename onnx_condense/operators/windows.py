"""The rows of pooling, reductions, padding and resizing."""

from __future__ import annotations

import numpy as np

from onnx_condense.operators.actions import (
    BOUNDED,
    MAGNITUDE,
    Action,
    Activation,
    Kind,
    Padding,
    Refused,
    Window,
)
from onnx_condense.operators.view import TOGETHER, NodeView, Row


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
