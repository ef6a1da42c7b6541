"""Tables of constants of which as many rows are taken as an input is long: cosines and sines of positions."""

from __future__ import annotations

import numpy as np

from onnx_condense.arrays import Array
from onnx_condense.operators.facts import Facts
from onnx_condense.operators.view import NodeView


def whole_table(facts: Facts, name: str, rank: int, axis: int) -> Array | None:
    """The table of which a tensor of this rank holds rows, but for an axis of which it holds all; None of no table.

    Its shape has the tensor's rank.
    """
    inserted = list[list[int]]()
    while name not in facts.static:
        index = facts.maker(name)
        if index is None:
            return None
        view = NodeView(facts.nodes[index], facts)
        axes = _axes(view)
        if axes is None or axis in (axes := [a % rank for a in axes]):
            return None
        if view.node.op == "Unsqueeze":
            inserted.append(axes)
            axis -= sum(a < axis for a in axes)
            rank -= len(axes)
        name = view.node.inputs[0].name
    table = facts.value_by_name(name)
    if table is None or table.dtype.kind != "f":
        return None
    for axes in reversed(inserted):
        table = np.expand_dims(table, tuple(axes))
    return table


def rows_of(facts: Facts, name: str) -> int | None:
    """The node that makes a tensor of rows, or of copies, of its first input, a constant; None of no such tensor.

    How many there are follows from shapes. The last axis is that of the constant.
    """
    index = facts.maker(name) if name in facts.derived and len(facts.consumers(name)) == 1 else None
    if index is None or name in facts.read_outside:
        return None
    view = NodeView(facts.nodes[index], facts)
    table = facts.value(view.node.inputs[0]) if view.node.inputs[0].name in facts.static else None
    if table is None or table.dtype.kind != "f" or table.ndim < 2:
        return None
    op, last, axes = view.node.op, table.ndim - 1, _axes(view) if view.node.op == "Slice" else None
    taken = op == "Gather" and view.attribute("axis", 0) % table.ndim != last
    sliced = axes is not None and last not in [axis % table.ndim for axis in axes]
    shape = view.node.inputs[1].name if op == "Expand" else ""
    sizes = facts.value_by_name(shape)
    copied = sizes is not None and sizes.size > 0 and sizes[-1] == 1 and not facts.changing(shape)[-1]
    return index if taken or sliced or copied else None


def _axes(view: NodeView) -> list[int] | None:
    """The axes that a Slice cuts or an Unsqueeze inserts; None of another node."""
    if view.node.op == "Unsqueeze":
        return view.ints("axes")
    if view.node.op != "Slice" or (starts := view.ints("starts")) is None:
        return None
    return view.ints("axes") or list(range(len(starts)))
