"""The small model's shapes, and the attributes and shape inputs that follow them.

Shapes follow from the labels: a tensor shrinks along one axis, every line along it by equally many places, and data
movement leads from what is alive of its input to what is alive of its output. Where it does not, `Disagreement` names
the channels, and the caller lets them stay. What follows the sizes of the inputs is never written down as a number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_condense.arrays import Array, Bools, Labels, Shape
from onnx_condense.merging.twin import Twin
from onnx_condense.model.facts import Facts
from onnx_condense.model.names import Names
from onnx_condense.model.surgeon import import_graph
from onnx_condense.operators import moves
from onnx_condense.operators.actions import Action, Filter, Move, Padding, Product, Recurrent, Window
from onnx_condense.operators.moves import Concat, Expand, Gather, Regroup, Reshape, Slice, Split, Squeeze
from onnx_condense.rewriting.kept import Disagreement, Kept
from onnx_condense.tracing.labels import atoms_of, varying
from onnx_condense.tracing.trace import Slot


class Reshaping:
    """The part of the writer that knows shapes: which channels are alive where, and what must be said of it."""

    def __init__(self, twin: Twin, expanded: bool) -> None:
        self.twin = twin
        self.trace = twin.trace
        self.facts: Facts = twin.trace.facts
        self.alive = np.ones_like(twin.alive) if expanded else twin.alive
        self.graph = import_graph(self.facts.model)
        self.nodes: list[gs.Node] = list(self.graph.nodes)
        self.edited: set[int] = set()
        self._fresh = Names.of(self.facts.model.graph).fresh
        self.values: dict[tuple[int, int], Array] = {}
        self.cuts: dict[tuple[int, int], list[tuple[Slot, Kept]]] = {}
        self.shapes = self._small_shapes()

    def _kept(self, labels: Labels, name: str) -> Kept | None:
        """What is alive of a tensor, None where all of it is."""
        units, axis = self.trace.balance.cut(labels)
        mask = self.alive[units] | (units < 0)
        if mask.all():
            return None
        counts = np.unique(mask.sum(axis))
        if len(counts) > 1 or not counts[0]:
            raise Disagreement(np.unique(units[units >= 0]), name)
        return Kept(axis, moves.compress(mask.astype(np.int64)).astype(bool))

    def _small_shapes(self) -> dict[str, Shape]:
        shapes = dict(self.facts.shapes)
        for part in self.trace.balance.partitions:
            alive = np.bincount(part.lines, self.alive[part.units] | (part.units < 0))
            if np.ptp(alive):
                raise Disagreement(np.unique(part.units[part.units >= 0]), "groups or heads")
        for name, labels in self.trace.labels.items():
            kept = self._kept(labels, name)
            if kept is not None:
                shape = list(shapes[name])
                shape[kept.axis] = kept.count
                shapes[name] = tuple(shape)
        return shapes

    def _changed(self) -> dict[str, Shape]:
        return {name: shape for name, shape in self.shapes.items() if shape != self.facts.shapes[name]}

    def move(self) -> None:
        """Rewrites attributes and shape inputs for the smaller tensors."""
        for index, action in self.trace.actions.items():
            if isinstance(action, Filter):
                self._regroup(index)
            elif isinstance(action, Padding):
                self._pad(index, action)
            elif isinstance(action, Product):
                self._check_product(index, action)
            elif isinstance(action, Window) and action.sized is not None:
                self._sized(index, *action.sized)
            elif isinstance(action, Recurrent):
                self._resize(index, action)
            elif isinstance(action, Expand):
                self._expand(index)
            elif isinstance(action, Move):
                self._move(index, action)
            self._keep_derived(index, action)

    def _keep_derived(self, index: int, action: Action) -> None:
        """A number that was computed from a shape (such as sqrt(d)) must not follow the slicing: it is written down."""
        for position, tensor in enumerate(self.facts.nodes[index].inputs):
            name = tensor.name
            if name not in self.facts.derived or self.nodes[index].inputs[position].name != name:
                continue
            value = self.facts.value(tensor)
            if isinstance(action, Concat):
                self._beside(index, position, action.axis)
                continue
            if value is None or np.array_equal(self._chain[name], value):
                continue
            if isinstance(action, Regroup | Expand):
                continue
            if isinstance(action, Window) and action.sized is not None and action.sized[0] == position:
                continue
            if self.facts.follows_inputs(name):
                raise self._counted(name)
            self._set_input(index, position, value)

    def _beside(self, index: int, position: int, axis: int) -> None:
        """A computed part of a Concat, without the channels that the result lost along other axes."""
        node, result = self.nodes[index], self.facts.nodes[index].outputs[0].name
        tensor = node.inputs[position]
        labels = self.trace.labels.get(result)
        kept = self._kept(labels, result) if labels is not None else None
        if kept is None or kept.axis == axis or self._chain[tensor.name].shape[kept.axis] == kept.count:
            return
        if kept.line is None:
            raise self._disagreement(result)
        alive = gs.Constant(self._fresh(f"{tensor.name}_alive"), np.flatnonzero(kept.line))
        part = gs.Variable(self._fresh(f"{tensor.name}_condensed"), dtype=tensor.dtype)
        gather = gs.Node("Gather", attrs={"axis": kept.axis}, inputs=[tensor, alive], outputs=[part])
        self.graph.nodes.insert(next(i for i, n in enumerate(self.graph.nodes) if n is node), gather)
        node.inputs[position] = part
        self.edited.add(id(node))

    def _counted(self, name: str) -> Disagreement:
        """A number that follows both the sizes of the inputs and the channels that a shape counts."""
        labels = [self.trace.labels[n] for n in self.facts.measured(name) if n in self.trace.labels]
        atoms = np.concatenate([atoms_of(x).reshape(-1) for x in labels] or [np.zeros(0, dtype=np.int64)])
        return Disagreement(np.unique(self.trace.unit_of[atoms[atoms >= 0]]), name)

    def _regroup(self, index: int) -> None:
        if self.facts.nodes[index].inputs[0].name in self._changed():
            self.nodes[index].attrs["group"] = self.shapes[self.facts.nodes[index].inputs[0].name][1]
            self.edited.add(id(self.nodes[index]))

    def _resize(self, index: int, action: Recurrent) -> None:
        """The attribute that counts the units; initial states of zeros, whose shape would too, are left out."""
        node = self.nodes[index]
        name = next(t.name for t in self.facts.nodes[index].outputs if t.name)
        if self.shapes[name] == self.facts.shapes[name]:
            return
        node.attrs["hidden_size"] = self.shapes[name][-1]
        for position in action.zeros:
            node.inputs[position] = gs.Variable.empty()
        self.edited.add(id(node))

    def _move(self, index: int, action: Move) -> None:
        original = self.facts.nodes[index]
        names = [t.name for t in (*original.inputs, *original.outputs) if t.name in self.trace.labels]
        if all(self.shapes[n] == self.facts.shapes[n] for n in names):
            return
        self._check_order(original, action)
        match action:
            case Reshape():
                self._reshape(index)
            case Squeeze():
                self._squeeze(index)
            case Split():
                self._split(index, action.axis)
            case Slice():
                self._slice_data(index, action)
            case Gather():
                self._gather(index, action)

    def _check_order(self, node: gs.Node, action: Move) -> None:
        """Raises Disagreement unless the movement leads to what is alive of its output, each place where it belongs."""
        source, *others = [t.name for t in node.inputs if t.name in self.trace.labels]
        result = node.outputs[0].name
        if others or isinstance(action, Concat) or result not in self.trace.labels:
            return
        kept = self._kept(self.trace.labels[source], source)
        if all(len(varying(self.trace.balance.cut(self.trace.labels[n])[0])) < 2 for n in (source, result)):
            return
        if kept is not None and kept.axis in action.indexed:
            raise self._disagreement(source)
        moved = action.to(self.shapes[result]).moved(self._small_labels(source), self.shapes[source])
        for tensor, labels in zip(node.outputs, moved, strict=True):
            if tensor.name in self.trace.labels and not _alike(labels, self._small_labels(tensor.name)):
                raise self._disagreement(tensor.name)

    def _small_labels(self, name: str) -> Labels:
        labels = self.trace.labels[name]
        kept = self._kept(labels, name)
        return labels if kept is None else kept.of(labels)

    def _split(self, index: int, axis: int) -> None:
        original = self.facts.nodes[index]
        if self._alive_along(original.inputs[0].name, axis) is None:
            return
        self._set_ints(index, "split", 1, 13, [self.shapes[t.name][axis] for t in original.outputs])
        self.nodes[index].attrs.pop("num_outputs", None)

    def _reshape(self, index: int) -> None:
        node, original = self.nodes[index], self.facts.nodes[index]
        source, target = original.inputs[0].name, original.outputs[0].name
        if "shape" in node.attrs:
            stated = node.attrs["shape"]
        else:
            value = self.facts.value(original.inputs[1])
            if original.inputs[1].name in self.facts.derived:
                value = self._chain[original.inputs[1].name]
            stated = None if value is None else value.tolist()
        wanted = moves.reshape_target(stated, self.shapes[source], self.shapes[target])
        if stated is not None and list(stated) == wanted:
            return
        if original.inputs[1:] and original.inputs[1].name in self.facts.derived:
            wanted = self._keep_computed(original.inputs[1].name, wanted, source, target)
        self._set_ints(index, "shape", 1, 5, wanted)
        if 0 in wanted:
            self.nodes[index].attrs.pop("allowzero", None)

    def _check_product(self, index: int, action: Product) -> None:
        """Axes that both factors have must stay as long as each other."""
        tensors = self.facts.nodes[index].inputs[:2]
        old: list[dict[str, int]] = []
        small: list[dict[str, int]] = []
        for letters, tensor in zip((action.left, action.right), tensors, strict=True):
            small.append(dict(zip(letters, self._shape(tensor), strict=True)))
            old.append(dict(zip(letters, self.facts.shapes.get(tensor.name, self._shape(tensor)), strict=True)))
        for letter in small[0].keys() & small[1].keys():
            if old[0][letter] == old[1][letter] and small[0][letter] != small[1][letter]:
                raise self._disagreement(next(t.name for t in tensors if t.name in self.trace.labels))

    def _pad(self, index: int, action: Padding) -> None:
        """Zeros that are channels: as many as are left of them."""
        original = self.facts.nodes[index]
        name = original.outputs[0].name
        before, after = list(action.before), list(action.after)
        for axis, count in enumerate(action.before):
            labels = self.trace.labels.get(name)
            kept = None if labels is None else self._kept(labels, name)
            if kept is None or kept.axis != axis or not (count or after[axis]):
                continue
            line = kept.line
            if line is None:
                size = kept.mask.shape[axis]
                ranges = range(count), range(size - after[axis], size)
                ends = [kept.mask.take(places, axis).sum(axis) for places in ranges]
                if any(np.ptp(e) for e in ends):
                    raise self._disagreement(name)
                before[axis], after[axis] = (int(e.flat[0]) for e in ends)
            else:
                end = len(line) - after[axis]
                before[axis], after[axis] = int(line[:count].sum()), int(line[end:].sum())
        if (tuple(before), tuple(after)) == (action.before, action.after):
            return
        if original.inputs[1:] and original.inputs[1].name in self.facts.derived:
            raise self._disagreement(name)
        self._set_ints(index, "pads", 1, 11, [ends[axis] for ends in (before, after) for axis in action.stated])

    def _stated(self, index: int, position: int) -> Array | None:
        """What an input that states a shape will hold in the small model if it is left alone."""
        tensor = self.facts.nodes[index].inputs[position]
        return self._chain[tensor.name] if tensor.name in self.facts.derived else self.facts.value(tensor)

    def _sized(self, index: int, position: int, axes: Sequence[int]) -> None:
        """An input that states sizes of the output: those of the smaller one."""
        original = self.facts.nodes[index]
        small = self.shapes[original.outputs[0].name]
        wanted = np.array([small[axis] for axis in axes], dtype=np.int64)
        stated = self._stated(index, position)
        if stated is not None and np.array_equal(stated, wanted):
            return
        name = original.inputs[position].name
        if name in self.facts.derived and self.facts.follows_inputs(name):
            raise self._counted(name)
        self._set_input(index, position, wanted)

    def _expand(self, index: int) -> None:
        """The shape input of an Expand; 1 leaves an axis as it is."""
        original = self.facts.nodes[index]
        name, result = original.inputs[1].name, original.outputs[0].name
        source, target = self._shape(original.inputs[0]), self.shapes[result]
        stated, value = self._stated(index, 1), self.facts.value(original.inputs[1])
        assert stated is not None and value is not None
        if _broadcast(source, tuple(stated.tolist())) == target:
            return
        wanted = value.copy()
        for place in range(1, len(wanted) + 1):
            if value[-place] != 1 and target[-place] != self._old(result)[-place]:
                wanted[-place] = target[-place]
        if name in self.facts.derived and self.facts.follows_inputs(name):
            for place in range(1, min(len(wanted), len(source)) + 1):
                if source[-place] == target[-place]:
                    wanted[-place] = 1
            if (self.facts.changing(name) & (wanted != 1)).any():
                raise self._counted(name)
        self._set_input(index, 1, wanted)

    def _shape(self, tensor: gs.Tensor) -> Shape:
        value = self.facts.value(tensor)
        return tuple(value.shape) if value is not None else self.shapes[tensor.name]

    def _squeeze(self, index: int) -> None:
        """Without axes, a Squeeze would also drop an axis of which one channel is left."""
        original = self.facts.nodes[index]
        if "axes" in original.attrs or len(original.inputs) > 1:
            return
        shape = self._old(original.inputs[0].name)
        self._set_ints(index, "axes", 1, 13, [axis for axis, size in enumerate(shape) if size == 1])

    def _keep_computed(self, name: str, wanted: list[int], source: str, target: str) -> list[int]:
        """A shape that follows the inputs' sizes: its sizes that do are copied (0) or left to be computed (-1)."""
        other, now = self.facts.other_value(name), self.facts.value_by_name(name)
        if other is None or now is None or np.array_equal(other, now):
            return wanted
        shapes = [(self._old(n), self.facts.other_shape(n) or ()) for n in (source, target)]
        result = list(wanted)
        for axis in np.flatnonzero(other != now).tolist():
            copied = axis < len(shapes[0][0]) and all(a[axis] == b[axis] for a, b in zip(*shapes, strict=True))
            if result[axis] > 0:
                result[axis] = 0 if copied else -1
        if result.count(-1) > 1:
            raise self._disagreement(target)
        return result

    def _disagreement(self, name: str) -> Disagreement:
        """Its channels must stay: the small model's constants cannot be written for every input size."""
        atoms = atoms_of(self.trace.labels[name])
        return Disagreement(np.unique(self.trace.unit_of[atoms[atoms >= 0]]), name)

    def _old(self, name: str) -> Shape:
        return self.facts.shapes[name]

    @property
    def _chain(self) -> dict[str, Array]:
        if not hasattr(self, "_chain_values"):
            self._chain_values = self.facts.values_under(self.shapes)
        return self._chain_values

    def _alive_along(self, name: str, axis: int) -> Bools | None:
        labels = self.trace.labels.get(name)
        kept = None if labels is None else self._kept(labels, name)
        return kept.line if kept is not None and kept.axis == axis else None

    def _slice_data(self, index: int, action: Slice) -> None:
        original = self.facts.nodes[index]
        name = original.inputs[0].name
        slices = list(action.slices)
        if all(self._alive_along(name, axis) is None for axis, *_ in slices):
            return
        if any(t.name in self.facts.derived and self.facts.follows_inputs(t.name) for t in original.inputs[1:]):
            raise self._disagreement(name)
        for number, (axis, start, stop, step) in enumerate(slices):
            line = self._alive_along(name, axis)
            if line is None:
                continue
            chosen = np.arange(len(line))[slice(start, None if step < 0 and stop < -len(line) else stop, step)]
            renumbered = (np.cumsum(line) - 1)[chosen[line[chosen]]]
            if abs(step) != 1:
                raise self._disagreement(name)
            first, last = int(renumbered[0]), int(renumbered[-1])
            end = last + step
            slices[number] = axis, first, end if end >= 0 else -(int(line.sum()) + 1), step
        axes, starts, stops, _ = zip(*slices, strict=True)
        self._set_ints(index, "starts", 1, 10, list(starts))
        self._set_ints(index, "ends", 2, 10, list(stops))
        if len(original.inputs) > 3 or "axes" in original.attrs:
            self._set_ints(index, "axes", 3, 10, list(axes))

    def _gather(self, index: int, action: Gather) -> None:
        name, axis = self.facts.nodes[index].inputs[0].name, action.axis
        line = self._alive_along(name, axis)
        if line is None:
            return
        indices = np.asarray(action.indices)
        if indices.ndim != 1:
            raise self._disagreement(name)
        positive = np.where(indices < 0, indices + len(line), indices)
        chosen = (np.cumsum(line) - 1)[positive[line[positive]]]
        self._set_input(index, 1, chosen.astype(indices.dtype))

    def _set_ints(self, index: int, attribute: str, position: int, since: int, values: list[int]) -> None:
        """Integers that are an attribute before opset `since` and an input from it on."""
        if self.facts.opset < since:
            self.nodes[index].attrs[attribute] = values
            self.edited.add(id(self.nodes[index]))
            return
        self._set_input(index, position, np.array(values, dtype=np.int64))

    def _set_input(self, index: int, position: int, value: Array) -> None:
        node = self.nodes[index]
        while len(node.inputs) <= position:
            node.inputs.append(gs.Variable.empty())
        stem = node.inputs[position].name or f"{node.outputs[0].name}_{position}"
        node.inputs[position] = gs.Constant(self._fresh(f"{stem}_condensed"), value)
        self.edited.add(id(node))


def _alike(left: Labels, right: Labels) -> bool:
    """Whether two arrays of labels say the same where they are broadcast."""
    shape = _broadcast(left.shape, right.shape)
    return shape is not None and np.array_equal(np.broadcast_to(left, shape), np.broadcast_to(right, shape))


def _broadcast(left: Shape, right: Shape) -> Shape | None:
    """The shape that two shapes broadcast to."""
    try:
        return tuple(np.broadcast_shapes(left, right))
    except ValueError:
        return None
