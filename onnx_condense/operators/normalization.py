"""The rows of normalizations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from onnx_condense.operators.actions import Activation, Normalization, Refused
from onnx_condense.operators.answers import Action, Kind, Row
from onnx_condense.operators.reasons import Reason
from onnx_condense.operators.view import NodeView


def batchnorm(view: NodeView) -> Action:
    training = view.attribute("training_mode", 0) or len([o for o in view.node.outputs if o.name]) > 1
    if view.opset < 7 or training or view.attribute("spatial", 1) != 1:
        return Refused(Reason.BATCH_STATISTICS)
    if not all(view.is_weight(i) for i in range(1, 5)):
        return Refused(Reason.PARAMETERS_FROM_DATA)
    return Normalization(float(view.attribute("epsilon", 1e-5)))


def instance_normalization(view: NodeView) -> Action:
    if not (view.is_weight(1) and view.is_weight(2)):
        return Refused(Reason.PARAMETERS_FROM_DATA)
    return Normalization(float(view.attribute("epsilon", 1e-5)), mean=None, var=None)


def layer_normalization(view: NodeView) -> Action:
    """LayerNormalization and RMSNormalization."""
    rank = len(view.shape())
    axes = tuple(range(view.attribute("axis", -1) % rank, rank))
    if view.is_used(1) or view.is_used(2):
        return Refused(Reason.RETURNS_STATISTICS)
    for position in (1, 2):
        if view.has(position) and not view.is_weight(position):
            return Refused(Reason.PARAMETERS_FROM_DATA)
        if view.has(position) and prod(view.shape(position)[: -len(axes)]) > 1:
            return Refused(Reason.PARAMETERS_ALONG_OTHERS)
    affine = (rank - 1, 1, 2 if view.has(2) else None) if view.has(1) and len(axes) == 1 else None
    centres = view.node.op == "LayerNormalization"
    across = Reason.NORMALIZES_TOGETHER
    return Activation(Kind.BOUNDED, uniform_axes=axes, across=across, affine=affine, centres=centres)


def normalization(axes: Callable[[NodeView], Sequence[int]]) -> Row:
    """Without parameters."""

    def row(view: NodeView) -> Action:
        used = tuple(axis % len(view.shape()) for axis in axes(view))
        return Activation(Kind.BOUNDED, uniform_axes=used, across=Reason.NORMALIZES_TOGETHER)

    return row


def softmax(view: NodeView) -> Action:
    """Softmax, LogSoftmax and Hardmax; before opset 13 over all axes from `axis` on."""
    rank = len(view.shape())
    axis = view.attribute("axis", 1 if view.opset < 13 else -1) % rank
    axes = tuple(range(axis, rank)) if view.opset < 13 else (axis,)
    return Activation(Kind.BOUNDED, -np.inf if view.node.op == "LogSoftmax" else 0.0, 1.0, uniform_axes=axes)
