"""A plan read and applied by other means than the package's: what the condensed model must compute, as a large model.

The file is read here, the merges are applied here, with numpy, to the weights of the model as it was traced. Of the
package it asks only where channels lie: the trace. Nothing of what chooses, folds or writes is used.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_condense.tracing.trace import Group, Slot, Trace

Array = NDArray[Any]
Place = tuple[int, int]
"""(node, input) of a weight."""

BITS = 32
"""A label is an atom, and in its lower bits a signal."""


class Unread(Exception):
    """A plan that this reading does not cover."""


@dataclass(frozen=True)
class Merge:
    """How one consumer reads a group: x[j] = ratio[j] · x[main[j]] + constant[j], along one path.

    A negative path is none of a consumer's: rows, or shifts, of what a product multiplies the channels with.
    """

    group: int
    place: Place
    path: int
    main: Array
    ratio: Array
    constant: Array


@dataclass(frozen=True)
class Stated:
    """What a plan says: merges, by group which channels go, and explicit weights with what is added to biases."""

    merges: tuple[Merge, ...]
    gone: Mapping[int, Array]
    refits: Mapping[Place, tuple[Array, Array]]


def stated(path: Path) -> Stated:
    """The plan of a file; the only place that knows how it is written."""
    content = json.loads(path.read_text())
    named = content.get("arrays")
    beside = np.load(path.with_name(named["file"])) if named else {}

    def array(value: Any) -> Array:
        if isinstance(value, dict) and "base64" in value:
            return np.frombuffer(base64.b64decode(value["base64"]), value["dtype"]).reshape(value["shape"])
        return np.asarray(beside[value["array"]] if isinstance(value, dict) else value)

    beyond = [name for name in ("mixes", "factors", "rotations") if content.get(name)]
    if beyond:
        raise Unread(f"it has {beyond[0]}")
    merges, gone = [], {}
    for group in content["groups"]:
        main = array(group["main"]).astype(int)
        gone[group["index"]] = np.flatnonzero(main != np.arange(len(main)))
        for read in group["reads"]:
            numbers = array(read["ratio"]).astype(float), array(read["constant"]).astype(float)
            merges.append(Merge(group["index"], (read["node"], read["input"]), read["path"], main, *numbers))
    refits = {(r["node"], r["input"]): (array(r["weight"]), array(r["shift"])) for r in content.get("refits", ())}
    return Stated(tuple(merges), gone, refits)


def replayed(trace: Trace, plan: Stated) -> onnx.ModelProto:
    """The model as it was traced, with the merges of a plan in its weights. Raises Unread."""
    weights: dict[Place, Array] = {}
    shifts: dict[int, Array] = {}
    groups = {group.index: group for group in trace.groups}
    for merge in (merge for merge in plan.merges if merge.path >= 0):
        slot = _contracting(trace, merge.place)
        value = weights.setdefault(merge.place, _weight(trace, merge.place))
        places = _places(trace, slot, groups[merge.group], merge.path)
        for channel, place, main in _pairs(merge, plan.gone[merge.group], places):
            column = value[_column(slot, value, place)].copy()
            if main is not None:
                value[_column(slot, value, main)] += merge.ratio[channel] * column
            if merge.constant[channel]:
                added = _added(trace, slot, place, merge.constant[channel] * column)
                shifts[slot.node] = shifts.get(slot.node, 0) + added
            value[_column(slot, value, place)] = 0
    for place, (given, shift) in plan.refits.items():
        weights[place] = _refitted(trace, plan, place, given)
        if shift.size:
            shifts[place[0]] = shift.astype(float)
    for merge in (merge for merge in plan.merges if merge.path < 0):
        number, side = divmod(-1 - merge.path, 2)
        slot = next(s for s in trace.pairs if (s.node, s.input) == merge.place and s.side == side)
        value = weights.setdefault(merge.place, _weight(trace, merge.place))
        places = _places(trace, slot, groups[merge.group], number)
        produced = merge.place in trace.made and slot.node in shifts
        for channel, place, main in _pairs(merge, plan.gone[merge.group], places):
            rows = [(value, _column(slot, value, place), None if main is None else _column(slot, value, main))]
            rows += [(shifts[slot.node], (place,), None if main is None else (main,))] if produced else []
            for numbers, goes, stays in rows:
                if stays is not None:
                    numbers[stays] += merge.ratio[channel] * numbers[goes]
                numbers[goes] = 0
    return _written(trace, weights, shifts)


def _pairs(merge: Merge, gone: Array, places: Mapping[int, list[int]]) -> list[tuple[int, int, int | None]]:
    """(channel, a place of it, the place that it merges into) of all channels that go."""
    found: list[tuple[int, int, int | None]] = []
    for channel in gone.tolist():
        main = int(merge.main[channel])
        mains: list[Any] = places[main] if main >= 0 and channel in places else [None] * len(places.get(channel, ()))
        found += [(channel, *pair) for pair in zip(places.get(channel, ()), mains, strict=True)]
    return found


# ---------------------------------------------------------------------------------------------------- places


def _contracting(trace: Trace, place: Place) -> Slot:
    """What a weight contracts."""
    slot = trace.reading(*place)
    if slot is None:
        raise Unread(f"node {place[0]} reads no channels at input {place[1]}")
    return slot


def _places(trace: Trace, slot: Slot, group: Group, path: int) -> dict[int, list[int]]:
    """channel -> its places on the contracted axis, in order, along one path."""
    channel_of = {int(unit): number for number, unit in enumerate(group.units)}
    seen: dict[int, int] = {}
    found: dict[int, list[int]] = {}
    for place, label in enumerate(slot.labels.reshape(-1).tolist()):
        channel = None if label < 0 else channel_of.get(int(trace.unit_of[label >> BITS]))
        if channel is not None and seen.setdefault(label & ((1 << BITS) - 1), len(seen)) == path:
            found.setdefault(channel, []).append(place)
    return found


def _column(slot: Slot, weight: Array, place: int) -> tuple[Any, ...]:
    """The index of what a place of the contracted axis is multiplied with."""
    if slot.groups > 1 and slot.axis == 1:
        each, block = weight.shape[1], len(weight) // slot.groups
        first = place // each * block
        return slice(first, first + block), place % each
    index: list[Any] = [slice(None)] * weight.ndim
    where = np.unravel_index(place, slot.labels.shape)
    for axis, size in enumerate(slot.labels.shape):
        if size > 1:
            index[axis] = where[axis]
    return tuple(index)


# ---------------------------------------------------------------------------------------------------- weights


def _weight(trace: Trace, place: Place) -> Array:
    """The weight at a place, in float64. Raises Unread."""
    name = trace.facts.nodes[place[0]].inputs[place[1]].name
    if trace.facts.stored(name) is not None:
        raise Unread(f"{name} is stored as other numbers")
    graph = trace.facts.model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    if name not in tensors:
        raise Unread(f"{name} is made by nodes")
    return numpy_helper.to_array(tensors[name]).astype(np.float64)


def _node(trace: Trace, index: int, model: onnx.ModelProto) -> onnx.NodeProto:
    """A node of the trace in a model."""
    names = {tensor.name for tensor in trace.facts.nodes[index].outputs if tensor.name}
    return next(node for node in model.graph.node if names & set(node.output))


def _added(trace: Trace, slot: Slot, place: int, columns: Array) -> Array:
    """[outputs]: what a constant channel, times its column, adds to the outputs of a node. Raises Unread."""
    node = _node(trace, slot.node, trace.facts.model)
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    groups = given.get("group", 1)
    match node.op_type:
        case "Gemm":
            return given.get("alpha", 1.0) * columns.reshape(-1)
        case "MatMul" | "Einsum":
            return columns.reshape(-1)
        case "Conv" | "ConvTranspose":
            totals = columns.reshape(len(columns), -1).sum(1)
            if node.op_type == "ConvTranspose":
                totals = totals / np.prod(given.get("strides", [1]))
            blocks = np.zeros((groups, len(totals)))
            blocks[place * groups // slot.labels.size] = totals
            return blocks.reshape(-1)
    raise Unread(f"a constant is added to {node.op_type}")


def _refitted(trace: Trace, plan: Stated, place: Place, given: Array) -> Array:
    """Explicit weights at the places that stay, zeros at those that go."""
    slot, gone = _contracting(trace, place), set()
    for index, channels in plan.gone.items():
        gone |= {int(unit) for unit in trace.groups[index].units[channels]}
    labels = slot.labels.reshape(-1).tolist()
    kept = [i for i, label in enumerate(labels) if label < 0 or int(trace.unit_of[label >> BITS]) not in gone]
    lines = np.moveaxis(np.zeros_like(_weight(trace, place)), slot.axis, 0)
    lines[kept] = np.moveaxis(given, slot.axis, 0) if given.ndim == lines.ndim else given
    return np.moveaxis(lines, 0, slot.axis)


def _written(trace: Trace, weights: Mapping[Place, Array], shifts: Mapping[int, Array]) -> onnx.ModelProto:
    """The model as it was traced, with other weights, and with sums behind nodes whose outputs shift."""
    model = onnx.ModelProto()
    model.CopyFrom(trace.facts.model)
    for (index, position), value in weights.items():
        node = _node(trace, index, model)
        name = f"replayed.{index}.{position}"
        kind = trace.facts.value(trace.facts.nodes[index].inputs[position]).dtype
        model.graph.initializer.append(numpy_helper.from_array(value.astype(kind), name))
        node.input[position] = name
    for index, shift in shifts.items():
        node = _node(trace, index, model)
        axis = _output_axis(trace, node, index)
        rank = len(trace.facts.shapes[node.output[0]])
        shape = [len(shift) if a == axis else 1 for a in range(rank)]
        name, made = f"replayed.shift.{index}", node.output[0]
        value = shift.reshape(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
        node.output[0] = f"replayed.before.{index}"
        place = list(model.graph.node).index(node)
        model.graph.node.insert(place + 1, helper.make_node("Add", [node.output[0], name], [made]))
    return model


def _output_axis(trace: Trace, node: onnx.NodeProto, index: int) -> int:
    """The axis of a linear map's output that its channels lie on."""
    rank = len(trace.facts.shapes[node.output[0]])
    inputs = [tensor.name for tensor in trace.facts.nodes[index].inputs]
    left = next((s.input for s in trace.slots if s.node == index and s.role.value == "contracted"), 1) == 0
    match node.op_type:
        case "Conv" | "ConvTranspose":
            return 1
        case "Einsum":
            equation = next(a.s.decode() for a in node.attribute).replace(" ", "")
            terms, made = equation.partition("->")[0].split(","), equation.partition("->")[2]
            weight, data = (terms[0], terms[1]) if left else (terms[1], terms[0])
            return made.index(next(letter for letter in made if letter in weight and letter not in data))
    return rank - 2 if left and inputs else rank - 1
