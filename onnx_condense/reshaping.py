"""The small model's shapes, and the attributes and shape inputs that follow them.

Shapes follow from the labels: along every axis of every tensor what is alive must be a full grid; where it is not,
`Disagreement` names the channels, and the caller lets them stay. What follows the sizes of the inputs is never written
down as a number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_condense import movers
from onnx_condense.actions import Action, Filter, Move, Window
from onnx_condense.facts import Facts
from onnx_condense.labels import atoms_of, varying
from onnx_condense.model_io import import_graph
from onnx_condense.movers import Labels, Shape
from onnx_condense.runtime import Array
from onnx_condense.signals import Bools, Ints
from onnx_condense.state import State


class Disagreement(Exception):
    """What is alive on a tensor is no grid: these units must all stay."""

    def __init__(self, units: Ints, name: str) -> None:
        super().__init__(name)
        self.units = units
        self.name = name


class Reshaping:
    """The part of the writer that knows shapes: which channels are alive where, and what must be said of it."""

    def __init__(self, state: State, expanded: bool) -> None:
        self.state = state
        self.trace = state.trace
        self.facts: Facts = state.trace.facts
        self.alive = np.ones_like(state.alive) if expanded else state.alive
        self.graph = import_graph(self.facts.model)
        self.nodes: list[gs.Node] = list(self.graph.nodes)
        self.edited: set[int] = set()
        self.taken = self.facts.names
        self.values: dict[tuple[int, int], Array] = {}
        self.lines: dict[tuple[int, int], dict[int, Bools]] = {}
        self.shapes = self._small_shapes()

    def _masks(self, labels: Labels, name: str) -> dict[int, Bools]:
        """What is alive along each axis that loses something."""
        atoms = atoms_of(labels)
        mask = np.where(atoms >= 0, self.alive[self.trace.unit_of[atoms]], True)
        if mask.all():
            return {}
        masks = {
            axis: np.asarray(np.moveaxis(mask, axis, 0).reshape(mask.shape[axis], -1).any(1))
            for axis in varying(labels)
        }
        grid = np.ones_like(mask)
        for axis, line in masks.items():
            grid &= line.reshape([-1 if a == axis else 1 for a in range(mask.ndim)])
        if not np.array_equal(grid, mask) or not all(line.any() for line in masks.values()):
            raise Disagreement(np.unique(self.trace.unit_of[atoms[atoms >= 0]]), name)
        return {axis: line for axis, line in masks.items() if not line.all()}

    def _small_shapes(self) -> dict[str, Shape]:
        shapes = dict(self.facts.shapes)
        for name, labels in self.trace.labels.items():
            shape = list(shapes[name])
            for axis, line in self._masks(labels, name).items():
                shape[axis] = int(line.sum())
            shapes[name] = tuple(shape)
        return shapes

    def _changed(self) -> dict[str, Shape]:
        return {name: shape for name, shape in self.shapes.items() if shape != self.facts.shapes[name]}

    def move(self) -> None:
        """Rewrites attributes and shape inputs for the smaller tensors."""
        for index, action in self.trace.actions.items():
            if isinstance(action, Filter):
                self._regroup(index)
            elif isinstance(action, Window) and action.sized is not None:
                self._sized(index, *action.sized)
            elif isinstance(action, Move) and action.name == "expand":
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
            if value is None or np.array_equal(self._chain[name], value):
                continue
            if isinstance(action, Move) and action.name in ("reshape", "expand"):
                continue
            if isinstance(action, Window) and action.sized is not None and action.sized[0] == position:
                continue
            if self.facts.follows_inputs(name):
                raise self._counted(name)
            self._set_input(index, position, value)

    def _counted(self, name: str) -> Disagreement:
        """A number that follows both the sizes of the inputs and the channels that a shape counts."""
        labels = [self.trace.labels[n] for n in self.facts.measured(name) if n in self.trace.labels]
        atoms = np.concatenate([atoms_of(x).reshape(-1) for x in labels] or [np.zeros(0, dtype=np.int64)])
        return Disagreement(np.unique(self.trace.unit_of[atoms[atoms >= 0]]), name)

    def _fresh(self, stem: str) -> str:
        """A name that no tensor has."""
        numbered = (f"{stem}_{i}" for i in range(1, len(self.taken) + 2))
        name = next(n for n in (stem, *numbered) if n not in self.taken)
        self.taken.add(name)
        return name

    def _regroup(self, index: int) -> None:
        labels = self.trace.labels.get(self.facts.nodes[index].inputs[0].name)
        if labels is not None and self._masks(labels, self.facts.nodes[index].inputs[0].name):
            self.nodes[index].attrs["group"] = self.shapes[self.facts.nodes[index].inputs[0].name][1]
            self.edited.add(id(self.nodes[index]))

    def _move(self, index: int, action: Move) -> None:
        original = self.facts.nodes[index]
        names = [t.name for t in (*original.inputs, *original.outputs) if t.name in self.trace.labels]
        if all(self.shapes[n] == self.facts.shapes[n] for n in names):
            return
        match action.name, original.op:
            case "reshape", "Reshape":
                self._reshape(index)
            case "reshape", "Squeeze":
                self._squeeze(index)
            case "split", _:
                self._split(index, action.parameters["axis"])
            case "slice", _:
                self._slice_data(index, action)
            case "gather", _:
                self._gather(index, action)

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
        wanted = movers.reshape_target(
            stated, self._old(source), self._old(target), self.shapes[source], self.shapes[target]
        )
        if stated is not None and list(stated) == wanted:
            return
        if original.inputs[1:] and original.inputs[1].name in self.facts.derived:
            wanted = self._keep_computed(original.inputs[1].name, wanted, source, target)
        self._set_ints(index, "shape", 1, 5, wanted)
        if 0 in wanted:
            self.nodes[index].attrs.pop("allowzero", None)

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
        return None if labels is None else self._masks(labels, name).get(axis)

    def _slice_data(self, index: int, action: Move) -> None:
        original = self.facts.nodes[index]
        name = original.inputs[0].name
        slices = list(action.parameters["slices"])
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

    def _gather(self, index: int, action: Move) -> None:
        name, axis = self.facts.nodes[index].inputs[0].name, action.parameters["axis"]
        line = self._alive_along(name, axis)
        if line is None:
            return
        indices = np.asarray(action.parameters["indices"])
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


def _broadcast(left: Shape, right: Shape) -> Shape | None:
    """The shape that two shapes broadcast to."""
    try:
        return tuple(np.broadcast_shapes(left, right))
    except ValueError:
        return None
