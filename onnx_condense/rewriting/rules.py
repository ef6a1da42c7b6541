"""What the shapes of a small model ask for, as edits: a rule for each action that states sizes or counts channels.

An action without a rule here (or in movement.py) asks for nothing: slicing its weights is enough.

What follows the sizes of the inputs is never written down as a number.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from onnx_condense.errors import unforeseen
from onnx_condense.operators.actions import Padding, Product, Recurrent, Window
from onnx_condense.operators.answers import Action
from onnx_condense.operators.attention import Attending, Rotating
from onnx_condense.operators.between import Chosen, Elementwise
from onnx_condense.operators.moves import Concat, Expand, Regroup, Reshape, Squeeze
from onnx_condense.rewriting.edits import Attribute, Edit, Input, Number, Picked, broadcast, stated, told
from onnx_condense.rewriting.kept import Disagreement, Failed, Kept
from onnx_condense.rewriting.movement import MOVES
from onnx_condense.rewriting.shapes import Shapes
from onnx_condense.tracing.trace import Trace, layer_name

EditRule = Callable[[Shapes, int, Any], list[Edit]]
"""From shapes, the index of a node and its action to edits."""


def edits_of(shapes: Shapes) -> tuple[Edit, ...]:
    """What shapes ask for, in the order of the nodes. Raises Disagreement where they cannot be stated."""
    known = _KNOWN.get(shapes)
    if known is None:
        known = _KNOWN[shapes] = tuple(edit for index in _concerned(shapes) for edit in _edits_or_error(shapes, index))
    return known


def _concerned(shapes: Shapes) -> list[int]:
    """The nodes that may ask for something: what a node asks for follows from its own tensors alone."""
    trace, facts = shapes.trace, shapes.facts
    asking = _ASKING.get(trace)
    if asking is None:
        whole = Shapes(trace, np.ones_like(shapes.alive), facts.shapes, {})
        following = {index for name in facts.derived for index, _ in facts.consumers(name)}
        asking = _ASKING[trace] = following | {index for index in trace.actions if _edits_or_error(whole, index)}
    uses = {index for name in shapes.kept for index, _ in facts.consumers(name)}
    makers = {maker for name in shapes.kept if (maker := facts.maker(name)) is not None}
    return sorted((asking | uses | makers) & trace.actions.keys())


def _edits_or_error(shapes: Shapes, index: int) -> list[Edit]:
    """What a node asks for; nothing where an error of ours happens at one that sees what it saw before."""
    try:
        return _edits_at(shapes, index, shapes.trace.actions[index])
    except Disagreement:
        raise
    except Exception as error:  # of ours, whatever it is: it costs what the node touches, and nothing that stays
        if _is_touched(shapes, index):
            raise _failed(shapes, index, error) from error
        unforeseen(error, layer_name(shapes.facts.nodes[index], index))
        return []


def _edits_at(shapes: Shapes, index: int, action: Action) -> list[Edit]:
    rule = RULES.get(type(action))
    own = rule(shapes, index, action) if rule is not None else []
    replaced = {edit.position for edit in own if isinstance(edit, Input)}
    return [*_counts(shapes, index, action), *own, *_numbers(shapes, index, action, replaced)]


def _is_touched(shapes: Shapes, index: int) -> bool:
    """Whether a node sees other shapes, or numbers that follow from such."""
    node, facts = shapes.facts.nodes[index], shapes.facts
    derived = [(shapes.derived[t.name], facts.value(t)) for t in node.inputs if t.name in facts.derived]
    follows = any(before is None or not np.array_equal(now, before) for now, before in derived)
    return follows or any(t.name in shapes.smaller for t in (*node.inputs, *node.outputs))


def _failed(shapes: Shapes, index: int, error: Exception) -> Failed:
    """The channels that a node reads or makes must stay: an error of ours happened."""
    node, labels = shapes.facts.nodes[index], shapes.trace.labels
    names = [t.name for t in (*node.inputs, *node.outputs) if t.name]
    counted = {name for t in names for name in (t, *shapes.facts.measured(t)) if name in labels}
    units = [shapes.trace.units_in(labels[name]) for name in sorted(counted)]
    layer = layer_name(node, index)
    return Failed(np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *units])), layer, unforeseen(error, layer))


_KNOWN: WeakKeyDictionary[Shapes, tuple[Edit, ...]] = WeakKeyDictionary()

_ASKING: WeakKeyDictionary[Trace, set[int]] = WeakKeyDictionary()
"""Nodes that ask for something whatever shrinks, and those that read what follows from shapes."""


# ------------------------------------------------------------------------------------------- numbers from shapes


def _counts(shapes: Shapes, index: int, action: Action) -> list[Edit]:
    """Attributes that count channels: as many as there are left."""
    node = shapes.facts.nodes[index]
    if not any(tensor.name in shapes.smaller for tensor in (*node.inputs, *node.outputs)):
        return []
    before, after = action.counts(*shapes.trace.shapes_at(index)), action.counts(*shapes.at(index))
    return [Attribute(index, name, count) for name, count in after.items() if count != before[name]]


def _numbers(shapes: Shapes, index: int, action: Action, replaced: Collection[int]) -> list[Edit]:
    """A number that was computed from a shape (such as sqrt(d)) must not follow the slicing: it is written down."""
    facts, found = shapes.facts, list[Edit]()
    for position, tensor in enumerate(facts.nodes[index].inputs):
        if tensor.name in facts.derived and position not in replaced and tensor.name not in shapes.trace.followed:
            keep = KEEPERS.get(type(action), _written_down)
            found += keep(shapes, index, position, action)
    return found


def _written_down(shapes: Shapes, index: int, position: int, action: Action) -> list[Edit]:
    tensor = shapes.facts.nodes[index].inputs[position]
    value = shapes.facts.value(tensor)
    if value is None or np.array_equal(shapes.derived[tensor.name], value):
        return []
    if shapes.facts.follows_inputs(tensor.name):
        raise shapes.counted(tensor.name)
    return [Number(index, position, value)]


def _follows(shapes: Shapes, index: int, position: int, action: Action) -> list[Edit]:
    """A shape that is stated: it must follow."""
    return []


def _sizes_follow(shapes: Shapes, index: int, position: int, action: Window) -> list[Edit]:
    own = action.sized is not None and action.sized[0] == position
    return [] if own else _written_down(shapes, index, position, action)


def _beside(shapes: Shapes, index: int, position: int, action: Concat) -> list[Edit]:
    """A computed part of a Concat, without the channels that the result lost."""
    node = shapes.facts.nodes[index]
    part, result = node.inputs[position].name, node.outputs[0].name
    kept = shapes.kept.get(result)
    if kept is None:
        return _written_down(shapes, index, position, action)
    if kept.axis == action.axis:
        return _own_channels(shapes, index, position, kept)
    if shapes.derived[part].shape[kept.axis] == kept.count:
        return []
    if kept.line is None:
        raise shapes.disagreement(result)
    return [Picked(index, position, kept.axis, np.flatnonzero(kept.line))]


def _own_channels(shapes: Shapes, index: int, position: int, kept: Kept) -> list[Edit]:
    """A computed part of a Concat that is channels of its own: those that are left of it."""
    node, (sizes, _) = shapes.facts.nodes[index], shapes.trace.shapes_at(index)
    start = sum(size[kept.axis] for size in sizes[:position])
    alive = kept.mask.take(np.arange(start, start + sizes[position][kept.axis]), kept.axis)
    part = node.inputs[position].name
    if shapes.derived[part].shape[kept.axis] != sizes[position][kept.axis]:
        raise shapes.counted(part)
    if alive.all():
        return []
    if kept.line is None:
        raise shapes.disagreement(node.outputs[0].name)
    return [Picked(index, position, kept.axis, np.flatnonzero(alive))]


def _of_a_table(shapes: Shapes, index: int, position: int, action: Elementwise) -> list[Edit]:
    """Numbers along channels, in as many rows as an input is long: those of the channels that are left."""
    node = shapes.facts.nodes[index]
    value, result = shapes.facts.value(node.inputs[position]), node.outputs[0].name
    held = any(slot.input == position for slot in shapes.trace.slots_at(index))
    kept = None if held else shapes.kept.get(result)
    axis = -1 if kept is None or value is None else kept.axis - (kept.mask.ndim - value.ndim)
    if kept is None or value is None or axis < 0 or value.shape[axis] != kept.mask.shape[kept.axis]:
        return _written_down(shapes, index, position, action)
    if kept.line is None:
        raise shapes.disagreement(result)
    if shapes.derived[node.inputs[position].name].shape != value.shape:
        raise shapes.counted(node.inputs[position].name)
    return [Picked(index, position, axis, np.flatnonzero(kept.line))]


KEEPERS: Mapping[type[Action], Callable[[Shapes, int, int, Any], list[Edit]]] = {
    Concat: _beside,
    Elementwise: _of_a_table,
    Regroup: _follows,
    Reshape: _follows,
    Squeeze: _follows,
    Expand: _follows,
    Window: _sizes_follow,
}
"""What becomes of an input that is computed from shapes, where it is not written down."""


# ------------------------------------------------------------------------------------------- rules


def _recurrent(shapes: Shapes, index: int, action: Recurrent) -> list[Edit]:
    """Initial states of zeros, whose shape would count the units, are left out."""
    name = next(t.name for t in shapes.facts.nodes[index].outputs if t.name)
    return [Input(index, position, None) for position in action.zeros] if name in shapes.smaller else []


def _product(shapes: Shapes, index: int, action: Product) -> list[Edit]:
    """Axes that both factors have must stay as long as each other."""
    facts, letters = shapes.facts, (action.left, action.right)
    names = [t.name for t in facts.nodes[index].inputs[:2]]
    small = [dict(zip(a, shapes.of(name), strict=True)) for a, name in zip(letters, names, strict=True)]
    before = [facts.shapes.get(name, shapes.of(name)) for name in names]
    old = [dict(zip(a, shape, strict=True)) for a, shape in zip(letters, before, strict=True)]
    for letter in small[0].keys() & small[1].keys():
        if old[0][letter] == old[1][letter] and small[0][letter] != small[1][letter]:
            raise shapes.disagreement(next(name for name in names if name in shapes.trace.labels))
    return []


def _attending(shapes: Shapes, index: int, action: Attending) -> list[Edit]:
    """The scale of scores does not follow the width of a head: it is stated."""
    (inputs, _), (before, _) = shapes.at(index), shapes.trace.shapes_at(index)
    if shapes.trace.heads is not None:
        return _fewer_heads(shapes, index, action)
    width, other, _ = action.widths(inputs)
    if width != other:
        raise shapes.disagreement(shapes.facts.nodes[index].inputs[0].name)
    return [] if width == action.widths(before)[0] else [Attribute(index, "scale", float(action.scale))]


def _fewer_heads(shapes: Shapes, index: int, action: Attending | Rotating) -> list[Edit]:
    """Attributes that count heads, where whole ones are channels."""
    if shapes.trace.heads is None:
        return []
    (inputs, _), (before, _) = shapes.at(index), shapes.trace.shapes_at(index)
    counts, whole = action.heads_of(inputs, before), action.heads_of(before, before)
    return [Attribute(index, name, count) for name, count in counts.items() if count != whole[name]]


def _padding(shapes: Shapes, index: int, action: Padding) -> list[Edit]:
    """Zeros that are channels: as many as are left of them."""
    node = shapes.facts.nodes[index]
    name = node.outputs[0].name
    kept = shapes.kept.get(name)
    if kept is None or not (action.before[kept.axis] or action.after[kept.axis]):
        return []
    axis, size = kept.axis, kept.mask.shape[kept.axis]
    ranges = np.arange(action.before[axis]), np.arange(size - action.after[axis], size)
    ends = [kept.mask.take(places, axis).sum(axis) for places in ranges]
    if any(np.ptp(end) for end in ends):
        raise shapes.disagreement(name)
    before, after = list(action.before), list(action.after)
    before[axis], after[axis] = (int(end.flat[0]) for end in ends)
    if (tuple(before), tuple(after)) == (action.before, action.after):
        return []
    if node.inputs[1:] and node.inputs[1].name in shapes.facts.derived:
        raise shapes.disagreement(name)
    return [stated(shapes, index, "pads", [ends[axis] for ends in (before, after) for axis in action.stated])]


def _window(shapes: Shapes, index: int, action: Window) -> list[Edit]:
    """An input that states sizes of the output: those of the smaller one."""
    if action.sized is None:
        return []
    position, axes = action.sized
    node = shapes.facts.nodes[index]
    small = shapes.sizes[node.outputs[0].name]
    wanted = np.array([small[axis] for axis in axes], dtype=np.int64)
    left, name = told(shapes, index, position), node.inputs[position].name
    if left is not None and np.array_equal(left, wanted):
        return []
    if name in shapes.facts.derived and shapes.facts.follows_inputs(name):
        raise shapes.counted(name)
    return [Input(index, position, wanted)]


def _expand(shapes: Shapes, index: int, action: Expand) -> list[Edit]:
    """The shape input of an Expand; 1 leaves an axis as it is."""
    facts, node = shapes.facts, shapes.facts.nodes[index]
    name, result = node.inputs[1].name, node.outputs[0].name
    source, target = shapes.of(node.inputs[0].name), shapes.sizes[result]
    left, value = told(shapes, index, 1), facts.value(node.inputs[1])
    assert left is not None and value is not None
    if broadcast(source, tuple(left.tolist())) == target:
        return []
    wanted = value.copy()
    for place in range(1, len(wanted) + 1):
        if value[-place] != 1 and target[-place] != facts.shapes[result][-place]:
            wanted[-place] = target[-place]
    if name in facts.derived and facts.follows_inputs(name):
        for place in range(1, min(len(wanted), len(source)) + 1):
            if source[-place] == target[-place]:
                wanted[-place] = 1
        if (facts.changing(name) & (wanted != 1)).any():
            raise shapes.counted(name)
    return [Input(index, 1, wanted)]


def _between(shapes: Shapes, index: int, action: Elementwise | Chosen) -> list[Edit]:
    """Tensors of data are as long as the result along every axis, or one."""
    node = shapes.facts.nodes[index]
    names = [t.name for t in node.inputs if t.name in shapes.sizes and shapes.facts.value(t) is None]
    if not any(name in shapes.smaller for name in names):
        return []
    result = node.outputs[0].name
    for name in names:
        for size, whole in zip(shapes.sizes[name][::-1], shapes.sizes[result][::-1], strict=False):
            if size not in (1, whole):
                raise shapes.disagreement(next(n for n in (result, *names) if n in shapes.trace.labels))
    return []


RULES: Mapping[type[Action], EditRule] = {
    **MOVES,
    Elementwise: _between,
    Chosen: _between,
    Recurrent: _recurrent,
    Product: _product,
    Attending: _attending,
    Rotating: _fewer_heads,
    Padding: _padding,
    Window: _window,
    Expand: _expand,
}
