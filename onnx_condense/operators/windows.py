"""The rows of pooling, reductions, padding and resizing."""

from __future__ import annotations

import numpy as np

from onnx_condense.operators.actions import BOUNDED, MAGNITUDE, Activation, Padding, Refused, Window
from onnx_condense.operators.answers import Action, Kind, Row
from onnx_condense.operators.reasons import Reason
from onnx_condense.operators.view import NodeView


def trilu(view: NodeView) -> Action:
    rank = len(view.shape())
    return Window((rank - 2, rank - 1), linear=True, padded=True, across=Reason.CLEARS_BY_POSITION)


def cumulative_sum(view: NodeView) -> Action:
    axis = view.ints("axis")
    if axis is None or len(axis) != 1:
        return Refused(Reason.SUM_ALONG_DATA)
    return Window((axis[0] % len(view.shape()),), linear=True, scale_free=False, across=Reason.ADDS_UP)


def resize(view: NodeView) -> Action:
    """Resize, and Upsample before it. Interpolation is linear; a cubic one may overshoot, so that no bounds pass."""
    if view.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return Refused(Reason.CROPS)
    if view.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        return Refused(Reason.ASPECT_RATIO)
    source, target = view.shape(), view.output_shape()
    axes = tuple(a % len(source) for a in view.attribute("axes", range(len(source))))
    by_size = view.has(3)
    amounts = view.value(3) if by_size else view.stated("scales")
    if amounts is None:
        return Refused(Reason.RESIZES_BY_DATA)
    mixed = {axis for axis, size in enumerate(source) if size != target[axis]}
    if not (view.is_weight(3) if by_size else view.is_constant("scales")):
        mixed |= set(range(2, len(source)))
    if not by_size:
        mixed |= {axis for axis, scale in zip(axes, amounts.reshape(-1), strict=True) if scale != 1}
    return Window(
        tuple(sorted(mixed)),
        linear=True,
        scale_free=view.attribute("mode", "nearest") != "cubic",
        across=Reason.RESIZES_CHANNELS if 1 in mixed else None,
        sized=(3, axes) if by_size else None,
    )


def pad(view: NodeView) -> Action:
    mode, rank = view.attribute("mode", "constant"), len(view.shape())
    pads = view.ints("pads")
    if pads is None:
        return Refused(Reason.PADS_BY_DATA)
    axes = view.ints("axes") or list(range(rank))
    if len(pads) != 2 * len(axes):
        return Refused(Reason.PADS_UNFIT)
    number = view.stated("value", 0.0)
    if mode == "constant" and number is None:
        return Refused(Reason.PADS_WITH_DATA)
    computed = not view.is_constant("pads")  # zero here, maybe not at other sizes
    padded = mode == "constant" and (computed or max(pads, default=0) > 0)
    before = BOUNDED if padded and np.any(number) else None
    window = Window(_resized(pads, axes, rank), linear=True, padded=padded, across=Reason.ADDS_CHANNELS, before=before)
    if not padded or computed or before is not None or min(pads) < 0:
        return window
    return _padding(pads, axes, rank, window)


def _resized(pads: list[int], axes: list[int], rank: int) -> tuple[int, ...]:
    """The axes whose size a Pad changes, in order."""
    return tuple(sorted(a % rank for i, a in enumerate(axes) if pads[i] or pads[i + len(axes)]))


def _padding(pads: list[int], axes: list[int], rank: int, window: Window) -> Padding:
    """A Pad of zeros, as many of them at all sizes of the model's inputs."""
    before, after = np.zeros((2, rank), dtype=int)
    before[axes], after[axes] = pads[: len(axes)], pads[len(axes) :]
    return Padding(tuple(before.tolist()), tuple(after.tolist()), tuple(a % rank for a in axes), window)


def pool(linear: bool) -> Row:
    def row(view: NodeView) -> Action:
        if view.is_used(1):
            return Refused(Reason.RETURNS_INDICES)
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
    return Window((axis,), False, dropped=dropped, scale_free=False, across=Reason.COMPARES, before=BOUNDED)


def _normalizes(view: NodeView) -> bool:
    """Whether a mean is taken off its data or is one of squares: LayerNormalization and its kin, spelled out."""
    data = view.node.inputs[0]
    for reader in view.node.outputs[0].outputs:
        if reader.op == "Sub" and any(t is data for t in reader.inputs):
            return True
    maker = data.inputs[0] if data.inputs else view.node
    return maker.op == "Pow" or (maker.op == "Mul" and maker.inputs[0] is maker.inputs[1])


def reduce(linear: bool, scale_free: bool, before: Activation | None = None) -> Row:
    """linear, scale_free: as of a `Window`. A mean is both, a sum is linear alone, a maximum free of scale alone."""

    def row(view: NodeView) -> Action:
        rank = len(view.shape())
        axes = view.ints("axes")
        if axes is None and view.has(1):
            return Refused(Reason.REDUCES_BY_DATA)
        if not axes:  # none are named: all
            if view.attribute("noop_with_empty_axes", 0) and before is not None:
                return Refused(Reason.REDUCES_NOTHING)
            if view.attribute("noop_with_empty_axes", 0):
                return Activation(Kind.LINEAR)
            axes = list(range(rank))
        keep = bool(view.attribute("keepdims", 1))
        return Window(
            tuple(sorted(a % rank for a in axes)),
            linear,
            dropped=not keep,
            scale_free=scale_free,
            across=Reason.NORMALIZES_TOGETHER if scale_free and linear and _normalizes(view) else Reason.REDUCES,
            before=before,
        )

    return row
