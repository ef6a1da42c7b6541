"""The rows of operators that move data: Reshape, Transpose, Split, Slice, Gather and their kin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from onnx_condense.actions import Action, Contraction, Move, Refused
from onnx_condense.operator_rows import NodeView, Row


def move(name: str, read: Callable[[NodeView], Mapping[str, Any] | None]) -> Row:
    def row(view: NodeView) -> Action:
        parameters = read(view)
        if parameters is None:
            return Refused("moves data by amounts that are computed from data")
        return Move(name, parameters)

    return row


def sliced(view: NodeView) -> Mapping[str, Any] | None:
    starts, ends = view.ints("starts", 1), view.ints("ends", 2)
    if starts is None or ends is None:
        return None
    axes = view.ints("axes", 3) or list(range(len(starts)))
    steps = view.ints("steps", 4) or [1] * len(starts)
    rank = len(view.shape())
    return {"slices": tuple((a % rank, s, e, t) for a, s, e, t in zip(axes, starts, ends, steps, strict=True))}


def split(view: NodeView) -> Mapping[str, Any] | None:
    axis = view.attribute("axis", 0) % len(view.shape())
    return {"axis": axis, "sizes": tuple(view.output_shape(i)[axis] for i in range(len(view.node.outputs)))}


def gather(view: NodeView) -> Action:
    """By constant indices a movement; rows of a constant table by data: an embedding, which makes channels."""
    axis = view.attribute("axis", 0) % len(view.shape())
    indices, table = view.value(1), view.value(0) if view.is_weight(0) else None
    if table is not None and table.ndim == 2 and axis == 0 and table.dtype.kind == "f" and indices is None:
        places = "abcdefgh"[: len(view.shape(1))]
        return Contraction(1, 0, None, places, "vo", places + "o", lookup=True)
    if indices is None or table is not None:
        return Refused("moves data by amounts that are computed from data")
    return Move("gather", {"axis": axis, "indices": indices})


def expand(view: NodeView) -> Mapping[str, Any] | None:
    return None if view.value(1) is None else {"shape": view.output_shape()}


def tile(view: NodeView) -> Mapping[str, Any] | None:
    repeats = view.ints("repeats", 1)
    return None if repeats is None else {"repeats": tuple(repeats)}


def depth_to_space(view: NodeView) -> Mapping[str, Any]:
    return {"block": int(view.attribute("blocksize")), "mode": view.attribute("mode", "DCR")}


def space_to_depth(view: NodeView) -> Mapping[str, Any]:
    return {"block": int(view.attribute("blocksize"))}


def transpose(view: NodeView) -> Mapping[str, Any]:
    return {"order": tuple(view.attribute("perm", range(len(view.shape()))[::-1]))}


def reshape(view: NodeView) -> Mapping[str, Any] | None:
    return {"shape": view.output_shape()}


def concat(view: NodeView) -> Mapping[str, Any]:
    return {"axis": view.attribute("axis", 1) % len(view.output_shape())}


def shape_only(view: NodeView) -> Mapping[str, Any]:
    return {"shape": view.output_shape()}
