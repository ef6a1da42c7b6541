"""How data movement is stated for smaller tensors, each place brought where it belongs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from onnx_condense.arrays import Bools, Labels
from onnx_condense.operators import moves
from onnx_condense.operators.answers import Action
from onnx_condense.operators.moves import (
    DepthToSpace,
    Gather,
    Move,
    Regroup,
    Reshape,
    Slice,
    SpaceToDepth,
    Split,
    Squeeze,
    Tile,
    Transpose,
)
from onnx_condense.rewriting.edits import Attribute, Edit, Input, broadcast, stated
from onnx_condense.rewriting.shapes import Shapes
from onnx_condense.tracing.labels import varying

Restating = Callable[[Shapes, int, Any], list[Edit]]


def _moving(restated: Restating) -> Restating:
    """A rule for movements that do not touch only tensors which stay as they are. Raises Disagreement."""

    def rule(shapes: Shapes, index: int, action: Move) -> list[Edit]:
        node = shapes.facts.nodes[index]
        if all(t.name not in shapes.smaller for t in (*node.inputs, *node.outputs)):
            return restated(shapes, index, action) if _is_told_otherwise(shapes, index) else []
        _check_order(shapes, index, action)
        return restated(shapes, index, action)

    return rule


def _is_told_otherwise(shapes: Shapes, index: int) -> bool:
    """Whether the size of a tensor elsewhere that became smaller says how this one is moved."""
    facts = shapes.facts
    found = [(facts.value(t), shapes.derived[t.name]) for t in facts.nodes[index].inputs[1:] if t.name in facts.derived]
    return any(before is None or not np.array_equal(before, now) for before, now in found)


def _check_order(shapes: Shapes, index: int, action: Move) -> None:
    """Raises Disagreement unless the movement leads to what is alive of its output, each place where it belongs."""
    node, trace = shapes.facts.nodes[index], shapes.trace
    source, *others = [t.name for t in node.inputs if t.name in trace.labels]
    result = node.outputs[0].name
    if others or result not in trace.labels:
        return
    if all(len(varying(trace.cuts[name][0])) < 2 for name in (source, result)):
        return
    kept = shapes.kept.get(source)
    if kept is not None and kept.axis in action.indexed:
        cut = action.cut(kept.axis, kept.lines)
        if cut is None:
            raise shapes.disagreement(source)
        action = cut
    moved = action.to(shapes.sizes[result]).moved(shapes.labels(source), shapes.sizes[source])
    for tensor, labels in zip(node.outputs, moved, strict=True):
        if tensor.name in trace.labels and not _alike(labels, shapes.labels(tensor.name)):
            raise shapes.disagreement(tensor.name)


def _alike(left: Labels, right: Labels) -> bool:
    """Whether two arrays of labels say the same where they are broadcast."""
    shape = broadcast(left.shape, right.shape)
    return shape is not None and np.array_equal(np.broadcast_to(left, shape), np.broadcast_to(right, shape))


def _as_it_is(shapes: Shapes, index: int, action: Move) -> list[Edit]:
    return []


def _split(shapes: Shapes, index: int, action: Split) -> list[Edit]:
    """The sizes of the parts."""
    node, axis = shapes.facts.nodes[index], action.axis
    if shapes.line(node.inputs[0].name, axis) is None:
        return []
    sizes = [shapes.sizes[t.name][axis] for t in node.outputs]
    return [stated(shapes, index, "split", sizes), Attribute(index, "num_outputs", None)]


def _reshape(shapes: Shapes, index: int, action: Reshape) -> list[Edit]:
    """The shape, copied (0) and computed (-1) sizes among it."""
    facts, node = shapes.facts, shapes.facts.nodes[index]
    source, target = node.inputs[0].name, node.outputs[0].name
    derived = bool(node.inputs[1:]) and node.inputs[1].name in facts.derived
    if "shape" in node.attrs:
        told = node.attrs["shape"]
    else:
        value = shapes.derived[node.inputs[1].name] if derived else facts.value(node.inputs[1])
        told = None if value is None else value.tolist()
    wanted = moves.reshape_target(told, shapes.sizes[source], shapes.sizes[target])
    if told is not None and list(told) == wanted:
        return []
    if derived:
        wanted = _keep_computed(shapes, node.inputs[1].name, wanted, source, target)
    edit = stated(shapes, index, "shape", wanted)
    return [edit, Attribute(index, "allowzero", None)] if 0 in wanted else [edit]


def _keep_computed(shapes: Shapes, name: str, wanted: list[int], source: str, target: str) -> list[int]:
    """A shape that follows the inputs' sizes: its sizes that do are copied (0) or left to be computed (-1)."""
    facts = shapes.facts
    if facts.value_by_name(name) is None:
        return wanted
    pairs = [(known[source], known[target]) for known in facts.all_shapes]
    result = list(wanted)
    for axis in np.flatnonzero(facts.changing(name)).tolist():
        copied = axis < len(facts.shapes[source]) and all(a[axis] == b[axis] for a, b in pairs)
        if result[axis] > 0:
            result[axis] = 0 if copied else -1
    if result.count(-1) > 1:
        raise shapes.disagreement(target)
    return result


def _squeeze(shapes: Shapes, index: int, action: Squeeze) -> list[Edit]:
    """Without axes, a Squeeze would also drop an axis of which one channel is left."""
    node = shapes.facts.nodes[index]
    if "axes" in node.attrs or len(node.inputs) > 1:
        return []
    shape = shapes.facts.shapes[node.inputs[0].name]
    return [stated(shapes, index, "axes", [axis for axis, size in enumerate(shape) if size == 1])]


def _slice(shapes: Shapes, index: int, action: Slice) -> list[Edit]:
    """Starts and ends among what is alive."""
    facts, node = shapes.facts, shapes.facts.nodes[index]
    name, slices = node.inputs[0].name, list(action.slices)
    kept = shapes.kept.get(name)
    lines = [kept.lines[0] if kept is not None and kept.axis == axis else None for axis, *_ in slices]
    if all(line is None for line in lines):
        return []
    if any(t.name in facts.derived and facts.follows_inputs(t.name) for t in node.inputs[1:]):
        raise shapes.disagreement(name)
    for number, (line, (_, _, _, step)) in enumerate(zip(lines, slices, strict=True)):
        if line is None:
            continue
        if abs(step) != 1:
            if kept is None or action.cut(kept.axis, kept.lines) is None:
                raise shapes.disagreement(name)
            continue
        slices[number] = _renumbered(line, slices[number])
    axes, starts, stops, _ = zip(*slices, strict=True)
    edits = [stated(shapes, index, "starts", list(starts)), stated(shapes, index, "ends", list(stops))]
    if len(node.inputs) > 3 or "axes" in node.attrs:
        edits.append(stated(shapes, index, "axes", list(axes)))
    return edits


def _renumbered(line: Bools, cut: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """A slice (axis, start, stop, step 1 or -1), of what is alive of a line."""
    axis, start, stop, step = cut
    chosen = np.arange(len(line))[slice(start, None if step < 0 and stop < -len(line) else stop, step)]
    places = (np.cumsum(line) - 1)[chosen[line[chosen]]]
    first, end = int(places[0]), int(places[-1]) + step
    return axis, first, end if end >= 0 else -(int(line.sum()) + 1), step


def _gather(shapes: Shapes, index: int, action: Gather) -> list[Edit]:
    """The numbers of what is alive."""
    name = shapes.facts.nodes[index].inputs[0].name
    line = shapes.line(name, action.axis)
    if line is None:
        return []
    indices = np.asarray(action.indices)
    if indices.ndim != 1:
        raise shapes.disagreement(name)
    positive = np.where(indices < 0, indices + len(line), indices)
    chosen = (np.cumsum(line) - 1)[positive[line[positive]]]
    return [Input(index, 1, chosen.astype(indices.dtype))]


MOVES: Mapping[type[Action], Restating] = {
    Reshape: _moving(_reshape),
    Squeeze: _moving(_squeeze),
    Split: _moving(_split),
    Slice: _moving(_slice),
    Gather: _moving(_gather),
    **{kind: _moving(_as_it_is) for kind in (Regroup, Transpose, Tile, SpaceToDepth, DepthToSpace)},
}
