"""What hides tensors from the tracer and need not: local functions, and sequences of constant lengths and indices.

Both are exact, and done in the working copy only: a model in which nothing is condensed stays as it came in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper

from onnx_condense.arrays import Array
from onnx_condense.forms.stack import for_good
from onnx_condense.model.held import numbers
from onnx_condense.model.inference import inferred_shapes
from onnx_condense.model.names import Names
from onnx_condense.model.protos import drop_unread, names_read, opset_of


def inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without local functions and without sequences, as far as they can be written as plain nodes."""
    return _without_sequences(_without_functions(model))


enter = for_good(inline)


def _without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """A function stays where its operators mean something else in the model's operator set."""
    if not model.functions:
        return model
    versions = {o.domain: o.version for o in model.opset_import}
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    for function in copied.functions:
        if all(_means_the_same(node, function, versions) for node in function.node):
            for entry in function.opset_import:
                entry.version = versions.get(entry.domain, entry.version)
    try:
        return inliner.inline_local_functions(copied)
    except (RuntimeError, ValueError, onnx.checker.ValidationError):  # what the inliner cannot do it does not touch
        return model


def _means_the_same(node: onnx.NodeProto, function: onnx.FunctionProto, versions: dict[str, int]) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return True
    imported = opset_of(function.opset_import)
    try:
        known = [
            onnx.defs.get_schema(node.op_type, v, "").since_version for v in (imported, versions.get("", imported))
        ]
    except onnx.defs.SchemaError:
        return False
    bodies = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return known[0] == known[1] and all(_means_the_same(n, function, versions) for body in bodies for n in body.node)


def _without_sequences(model: onnx.ModelProto) -> onnx.ModelProto:
    if not any(node.op_type in READERS for node in model.graph.node):
        return model
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    _Sequences(copied).resolve()
    return copied


@dataclass
class _Sequences:
    """elements: sequence -> its tensors, by name. Nodes that make sequences stay until nothing reads them."""

    model: onnx.ModelProto
    elements: dict[str, list[str]] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def resolve(self) -> None:
        graph = self.model.graph
        before = names_read(graph)
        self.shapes = inferred_shapes(self.model)
        self.opset = opset_of(self.model.opset_import)
        self.fresh = Names.of(graph).fresh
        self.constants = {t.name: t for t in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
            if node.op_type in MAKERS:
                made = MAKERS[node.op_type](self, node)
                if made is not None:
                    self.elements[node.output[0]] = made
            names = self.elements.get(node.input[0]) if node.op_type in READERS else None
            if names is None or not READERS[node.op_type](self, node, names):
                self.nodes.append(node)
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        del graph.node[:]
        graph.node.extend(kept)
        drop_unread(self.model, before)

    # ---- nodes that make sequences: the names of their tensors, None where they are not known

    def construct(self, node: onnx.NodeProto) -> list[str] | None:
        return list(node.input)

    def insert(self, node: onnx.NodeProto) -> list[str] | None:
        known, place = self.elements.get(node.input[0]), self.number(node, 2)
        if known is None or (len(node.input) > 2 and place is None):
            return None
        at = len(known) if place is None else place + len(known) * (place < 0)
        return [*known[:at], node.input[1], *known[at:]]

    def split(self, node: onnx.NodeProto) -> list[str] | None:
        """A Split beside it, where the sizes of the parts are known."""
        attributes = {a.name: a.i for a in node.attribute}
        shape = self.shapes.get(node.input[0])
        if shape is None:
            return None
        axis = attributes.get("axis", 0) % len(shape)
        stated, is_stated = self.value(node, 1), len(node.input) > 1 and bool(node.input[1])
        sizes = None if is_stated and stated is None else _sizes_of_parts(shape[axis], stated)
        if sizes is None:
            return None
        names = [self.fresh(f"{node.output[0]}_{i}") for i in range(len(sizes))]
        self.add("Split", [node.input[0]], names, split=sizes, since=13, axis=axis)
        return names if is_stated or attributes.get("keepdims", 1) else self.each("Squeeze", names, axis)

    # ---- nodes that read sequences: whether plain nodes took their place

    def at(self, node: onnx.NodeProto, names: list[str]) -> bool:
        place = self.number(node, 1)
        if place is None or not -len(names) <= place < len(names):
            return False
        self.nodes.append(helper.make_node("Identity", [names[place]], list(node.output), name=node.name))
        return True

    def concat(self, node: onnx.NodeProto, names: list[str]) -> bool:
        attributes = {a.name: a.i for a in node.attribute}
        parts = self.each("Unsqueeze", names, attributes["axis"]) if attributes.get("new_axis", 0) else names
        self.nodes.append(helper.make_node("Concat", parts, list(node.output), name=node.name, axis=attributes["axis"]))
        return True

    # ---- helpers

    def each(self, op: str, names: list[str], axis: int) -> list[str]:
        """What a Squeeze or Unsqueeze makes of each tensor."""
        made = [self.fresh(f"{name}_{op.lower()}d") for name in names]
        for name, target in zip(names, made, strict=True):
            self.add(op, [name], [target], axes=[axis], since=13)
        return made

    def add(
        self, op: str, inputs: list[str], outputs: list[str], since: int, axis: int | None = None, **ints: list[int]
    ) -> None:
        """A node with integers that are an attribute before opset `since` and an input from it on."""
        ((name, values),) = ints.items()
        attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
        if self.opset < since:
            attributes[name] = values
        else:
            inputs = [*inputs, self.fresh(f"{outputs[0]}_{name}")]
            tensor = numpy_helper.from_array(np.array(values, dtype=np.int64))
            self.nodes.append(helper.make_node("Constant", [], inputs[-1:], value=tensor))
        self.nodes.append(helper.make_node(op, inputs, outputs, **attributes))

    def value(self, node: onnx.NodeProto, place: int) -> Array | None:
        tensor = self.constants.get(node.input[place]) if place < len(node.input) else None
        return None if tensor is None else numbers(tensor)

    def number(self, node: onnx.NodeProto, place: int) -> int | None:
        value = self.value(node, place)
        return None if value is None else int(value.reshape(-1)[0])


def _sizes_of_parts(size: int | None, stated: Array | None) -> list[int] | None:
    """Sizes of what an axis falls into: as stated for each or for all but the last, or 1; None where not known."""
    if stated is not None and stated.ndim:
        return [int(n) for n in stated]
    step = 1 if stated is None else int(stated)
    return None if size is None else [min(step, size - start) for start in range(0, size, step)]


MAKERS: dict[str, Callable[[_Sequences, onnx.NodeProto], list[str] | None]] = {
    "SequenceEmpty": _Sequences.construct,
    "SequenceConstruct": _Sequences.construct,
    "SequenceInsert": _Sequences.insert,
    "SplitToSequence": _Sequences.split,
}
READERS: dict[str, Callable[[_Sequences, onnx.NodeProto, list[str]], bool]] = {
    "SequenceAt": _Sequences.at,
    "ConcatFromSequence": _Sequences.concat,
}
