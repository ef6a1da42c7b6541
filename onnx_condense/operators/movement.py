"""The rows of operators that move data: Reshape, Transpose, Split, Slice, Gather and their kin."""

from __future__ import annotations

from onnx_condense.operators import moves
from onnx_condense.operators.actions import Contraction, Refused
from onnx_condense.operators.answers import Action
from onnx_condense.operators.reasons import Reason
from onnx_condense.operators.view import NodeView

UNKNOWN = Refused(Reason.MOVES_BY_DATA)


def sliced(view: NodeView) -> Action:
    starts, ends = view.ints("starts"), view.ints("ends")
    if starts is None or ends is None:
        return UNKNOWN
    axes = view.ints("axes") or list(range(len(starts)))
    steps = view.ints("steps") or [1] * len(starts)
    rank = len(view.shape())
    return moves.Slice(tuple((a % rank, s, e, t) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)))


def split(view: NodeView) -> Action:
    axis = view.attribute("axis", 0) % len(view.shape())
    return moves.Split(axis, tuple(view.output_shape(i)[axis] for i in range(len(view.node.outputs))))


def gather(view: NodeView) -> Action:
    """By constant indices a movement; rows of a constant table by data: an embedding, which makes channels."""
    axis = view.attribute("axis", 0) % len(view.shape())
    indices, table = view.value(1), view.value(0) if view.is_weight(0) else None
    if table is not None and table.ndim == 2 and axis == 0 and table.dtype.kind == "f" and indices is None:
        places = "abcdefgh"[: len(view.shape(1))]
        return Contraction(1, 0, None, places, "vo", places + "o", from_table=True)
    if indices is None or table is not None:
        return UNKNOWN
    return moves.Gather(axis, indices)


def expand(view: NodeView) -> Action:
    return UNKNOWN if view.value(1) is None else moves.Expand(view.output_shape())


def tile(view: NodeView) -> Action:
    repeats = view.ints("repeats")
    return UNKNOWN if repeats is None else moves.Tile(tuple(repeats))


def depth_to_space(view: NodeView) -> Action:
    mode = view.attribute("mode", "DCR")
    return moves.DepthToSpace(int(view.attribute("blocksize")), mode in ("DCR", b"DCR"))


def space_to_depth(view: NodeView) -> Action:
    mode = view.attribute("mode", "DCR")
    return moves.SpaceToDepth(int(view.attribute("blocksize")), mode in ("DCR", b"DCR"))


def transpose(view: NodeView) -> Action:
    return moves.Transpose(tuple(view.attribute("perm", range(len(view.shape()))[::-1])))


def concat(view: NodeView) -> Action:
    return moves.Concat(view.attribute("axis", 1) % len(view.output_shape()))


def reshape(view: NodeView) -> Action:
    return moves.Reshape(view.output_shape())


def squeeze(view: NodeView) -> Action:
    return moves.Squeeze(view.output_shape())


def regroup(view: NodeView) -> Action:
    """Flatten, Unsqueeze."""
    return moves.Regroup(view.output_shape())
