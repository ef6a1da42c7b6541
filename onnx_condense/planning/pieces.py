"""The pieces of a model that are timed one by one: a linear layer, and the nodes that follow it up to the next one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnx_condense.arrays import Array, Ints
from onnx_condense.merging.twin import Twin
from onnx_condense.model.held import numbers
from onnx_condense.model.parts import observe, prefix
from onnx_condense.model.protos import read_by
from onnx_condense.model.runtime import to_bytes
from onnx_condense.operators.facts import Facts
from onnx_condense.rewriting.drafting import drafted
from onnx_condense.rewriting.shapes import Shapes, shapes_of
from onnx_condense.timing.kernels import Small
from onnx_condense.tracing.trace import Trace, layer_name


@dataclass(frozen=True)
class Piece:
    """A part of the graph that was traced.

    Attributes:
        layer: name of the linear layer.
        reads: tensors that it needs from others. makes: those that others need of it.
        groups: indices of the groups whose channels it makes, carries or reads.
    """

    layer: str
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    groups: tuple[int, ...]


def pieces_of(trace: Trace) -> list[Piece]:
    """The pieces whose cost depends on the width of a group, in topological order."""
    facts = trace.facts
    parts: list[list[int]] = []
    part_of: dict[str, int] = {}
    for index, node in enumerate(facts.nodes):
        outputs = [tensor.name for tensor in node.outputs if tensor.name]
        if all(name in facts.static for name in outputs):
            continue
        at = max((part_of.get(tensor.name, 0) for tensor in node.inputs), default=0)
        if not parts or _is_linear(trace, index):
            at = len(parts)
            parts.append([])
        parts[at].append(index)
        part_of.update(dict.fromkeys(outputs, at))
    found = [_piece(trace, nodes, part_of, at) for at, nodes in enumerate(parts)]
    return [piece for piece in found if piece.groups]


def _is_linear(trace: Trace, index: int) -> bool:
    """Whether a node multiplies and adds up."""
    action = trace.actions.get(index)
    if action is None:
        return False
    if action.linear_map is not None or action.reader is not None or action.recurrent is not None:
        return True
    tensors = (*trace.facts.nodes[index].inputs, *trace.facts.nodes[index].outputs)
    if any(t.name and t.name not in trace.facts.shapes and trace.facts.value(t) is None for t in tensors):
        return False
    return action.products(*trace.shapes_at(index)) > 0


def _piece(trace: Trace, nodes: Sequence[int], part_of: Mapping[str, int], at: int) -> Piece:
    facts = trace.facts
    given = {value.name for value in facts.model.graph.input}
    read = dict.fromkeys(t.name for index in nodes for t in facts.nodes[index].inputs if t.name)
    made = [t.name for index in nodes for t in facts.nodes[index].outputs if t.name]
    reads = [name for name in read if name not in facts.static and (name in given or part_of[name] != at)]
    makes = [name for name in made if _is_needed(facts, name, part_of, at)]
    units = [trace.units_in(trace.labels[name]) for name in (*read, *made) if name in trace.labels]
    units += [trace.units_in(slot.labels) for index in nodes for slot in trace.slots_at(index)]
    touched = np.unique(trace.group_of[np.concatenate([np.zeros(0, dtype=np.int64), *units])])
    groups = tuple(touched[touched >= 0].tolist())
    return Piece(layer_name(facts.nodes[nodes[0]], nodes[0]), tuple(reads), tuple(makes), groups)


def _is_needed(facts: Facts, name: str, part_of: Mapping[str, int], at: int) -> bool:
    """Whether another part reads a tensor of a part, or a user of the model."""
    if any(value.name == name for value in facts.model.graph.output):
        return True
    readers = (facts.nodes[index] for index, _ in facts.consumers(name))
    return any(part_of.get(tensor.name, at) != at for reader in readers for tensor in reader.outputs)


class Workbench:
    """Makes small models of pieces, at any widths of the groups of a trace."""

    def __init__(self, trace: Trace, pieces: Sequence[Piece]) -> None:
        self.trace, self.pieces = trace, pieces
        facts = trace.facts
        names = dict.fromkeys(name for piece in pieces for name in piece.reads if name not in facts.feed)
        seen = next(iter(observe(facts.model, list(names), [facts.feed]))) if names else {}
        self._seen: Mapping[str, Array] = {**seen, **facts.feed}

    def at(self, gone: Mapping[int, Ints]) -> At:
        """The model without these channels of groups (index -> [k]). Raises Disagreement."""
        twin = Twin(self.trace)
        for group in self.trace.groups:
            if group.index in gone:
                twin.alive[group.units[gone[group.index]]] = False
        shapes = shapes_of(twin)
        return At(drafted(twin, shapes).message({}), shapes, self._seen)


@dataclass(frozen=True, eq=False)
class At:
    """A model at some widths of its groups. seen: what the original's tensors hold, of any shape."""

    model: onnx.ModelProto
    shapes: Shapes
    seen: Mapping[str, Array]

    @property
    def whole(self) -> Small:
        """The whole model, and the inputs that it was traced with."""
        return Small(to_bytes(self.model), self.shapes.facts.feed)

    def small(self, piece: Piece) -> Small:
        """A piece of it as a model of its own."""
        feed = {name: self._value(name) for name in piece.reads}
        part = prefix(self.model, piece.makes, piece.reads)
        inside = read_by(part.graph.node)  # bodies read what their nodes do not
        given = [v.name for v in part.graph.input if v.name in inside and v.name in self.seen]
        feed |= {name: self.seen[name] for name in given if name not in feed}
        del part.graph.input[:]
        for name, value in feed.items():
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            part.graph.input.append(helper.make_tensor_value_info(name, kind, value.shape))
        del part.graph.value_info[:]
        return Small(to_bytes(part), feed)

    def _value(self, name: str) -> Array:
        """What a tensor may hold, of its shape: numbers that follow from sizes, else of those that were seen."""
        derived = self.shapes.derived.get(name)
        if derived is not None:
            return derived
        kept, value = self.shapes.kept.get(name), self.seen[name]
        return np.ascontiguousarray(value if kept is None else kept.of(value))


def digest(small: Small) -> str:
    """What its time depends on: operators, attributes and shapes, but neither names nor numbers that are weights."""
    model = onnx.ModelProto.FromString(small.model)
    names: dict[str, str] = {"": ""}
    parts: list[object] = [[(str(v.dtype), v.shape) for v in small.feed.values()], [*map(str, model.opset_import)]]
    for name in small.feed:
        names.setdefault(name, str(len(names)))
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for name in (*node.input, *node.output):
            names.setdefault(name, str(len(names)))
        wiring = [[names[name] for name in side] for side in (node.input, node.output)]
        attributes = sorted(attribute.SerializeToString(deterministic=True).hex() for attribute in node.attribute)
        parts.append([node.domain, node.op_type, wiring, attributes, [_held(held, name) for name in node.input]])
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _held(held: Mapping[str, onnx.TensorProto], name: str) -> object:
    """A weight by its type and shape, integers by what they are."""
    tensor = held.get(name)
    if tensor is None:
        return None
    whole = tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    return tensor.data_type, tuple(tensor.dims), numbers(tensor).tolist() if whole else None
