"""The nodes of a model that is being rewritten. A node is copied when it is touched first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_condense.arrays import Array
from onnx_condense.model.names import Names
from onnx_condense.model.rebuilt import Content, Rebuilt
from onnx_condense.operators import nodes
from onnx_condense.operators.facts import Facts
from onnx_condense.rewriting.edits import Attribute, Edit, Followed, Further, Input, Number, Picked, Shift

KINDS = onnx.AttributeProto
PLAIN = (KINDS.INT, KINDS.FLOAT, KINDS.INTS, KINDS.FLOATS)
"""Attributes that are written anew with a node that is touched."""


class Draft:
    """A traced graph with edits.

    constants: name -> numbers, of new constants and of those that changed.
    """

    def __init__(self, facts: Facts) -> None:
        self.constants: dict[str, Content] = {}
        self._facts = facts
        self._names, self._labels = Names.of(facts.model.graph), Names.of_nodes(facts.model.graph)
        self._original = facts.model.graph.node
        self._touched: dict[int, onnx.NodeProto] = {}
        self._first: list[onnx.NodeProto] = []
        self._before: dict[int, list[onnx.NodeProto]] = {}
        self._behind: dict[int, list[onnx.NodeProto]] = {}

    def node(self, index: int) -> onnx.NodeProto:
        """A node that may be changed."""
        if index not in self._touched:
            self._touched[index] = _copied(self._original[index])
        return self._touched[index]

    def reads(self, index: int, position: int) -> str:
        """The name of what a node reads at an input by now, "" where that is left out."""
        node = self._touched[index] if index in self._touched else self._original[index]
        return str(node.input[position]) if position < len(node.input) else ""

    def makes(self, index: int) -> str:
        """The name of a node's first output by now."""
        node = self._touched[index] if index in self._touched else self._original[index]
        return str(node.output[0])

    def constant(self, stem: str, value: Content) -> str:
        """The name of a new constant."""
        name = self._names.fresh(stem)
        self.constants[name] = value
        return name

    def connect(self, index: int, position: int, name: str) -> None:
        """Lets a node read another tensor at an input."""
        node = self.node(index)
        node.input.extend([""] * (position + 1 - len(node.input)))
        node.input[position] = name

    def apply(self, edit: Edit) -> None:
        """Makes an edit."""
        APPLY[type(edit)](self, edit)

    def state(self, edit: Attribute) -> None:
        """States an attribute, or takes it away."""
        node = self.node(edit.node)
        place = next((i for i, a in enumerate(node.attribute) if a.name == edit.name), None)
        if edit.value is None:
            if place is not None:
                del node.attribute[place]
            return
        value = numpy_helper.from_array(edit.value) if isinstance(edit.value, np.ndarray) else edit.value
        made = helper.make_attribute(edit.name, value)
        if place is None:
            node.attribute.append(made)
        else:
            node.attribute[place].CopyFrom(made)

    def give(self, edit: Input | Number) -> None:
        """Gives a node a constant of its own."""
        if edit.value is None:
            self.connect(edit.node, edit.position, "")
            return
        stem = self.reads(edit.node, edit.position) or f"{self.makes(edit.node)}_{edit.position}"
        self.connect(edit.node, edit.position, self.constant(f"{stem}_condensed", edit.value))

    def write_down(self, edit: Number) -> None:
        """Gives a node a number that it would compute otherwise."""
        if self._is_untouched(edit):
            self.give(edit)

    def pick(self, edit: Picked) -> None:
        """Puts a node in between that takes what is alive."""
        if not self._is_untouched(edit):
            return
        name = self.reads(edit.node, edit.position)
        alive = self.constant(f"{name}_alive", edit.places)
        part = self._names.fresh(f"{name}_condensed")
        self._before.setdefault(edit.node, []).append(nodes.gathered(name, alive, edit.axis, part))
        self.connect(edit.node, edit.position, part)

    def shift(self, edit: Shift) -> None:
        """Puts an addition behind a node."""
        node = self.node(edit.node)
        output = node.output[0]
        inner = self._names.fresh(f"{output}_unbiased")
        node.output[:] = [inner]
        bias = self.constant(f"{output}_bias", edit.value)
        added = nodes.added(inner, bias, output, self._labels.fresh(f"{node.name or output}_bias"))
        self._behind.setdefault(edit.node, []).append(added)

    def follow(self, edit: Followed) -> None:
        """Puts a linear map behind a linear map, whose bias moves there."""
        node = self.node(edit.node)
        output, bias = node.output[0], self.reads(edit.node, 2) if nodes.takes_bias(node) else ""
        inner, beta = self._names.fresh(f"{output}_factor"), nodes.without_bias(node)
        node.output[0] = inner
        if nodes.needs_bias(node, self._facts.opset):
            self.connect(edit.node, 2, self.constant(f"{inner}_bias", np.zeros(1, edit.matrix.dtype)))
        between = list[onnx.NodeProto]()
        if edit.further is not None:
            inner, between = self._beside(inner, output, self.reads(edit.node, edit.further.asked), edit.further)
        matrix = self.constant(f"{output}_basis", edit.matrix)
        name = self._labels.fresh(f"{node.name or output}_basis")
        if edit.convolves:
            made = nodes.convolved(inner, matrix, output, bias=bias, name=name)
        else:
            made = nodes.multiplied(*((matrix, inner) if edit.left else (inner, matrix)), output, name, bias, beta)
        self._behind.setdefault(edit.node, [])[:0] = [*between, made]

    def _beside(self, inner: str, output: str, asked: str, further: Further) -> tuple[str, list[onnx.NodeProto]]:
        """The tensor of what a table makes and, behind it, what frequent rows hold beyond, and what makes it."""
        rows = self.constant(f"{output}_frequent", further.rows)
        places = self.constant(f"{output}_places", further.places)
        place, more, whole = (self._names.fresh(f"{output}_{part}") for part in ("place", "further", "whole"))
        made = [nodes.gathered(places, asked, 0, place), nodes.gathered(rows, place, 0, more)]
        return whole, [*made, nodes.joined([inner, more], further.axis, whole)]

    def fill(self, stem: str, shape: Content, number: Array) -> str:
        """The name of a new constant of one number [1] and a shape [rank], which is described rather than held."""
        name = self._names.fresh(stem)
        self._first.insert(0, nodes.filled(self.constant(f"{name}_shape", shape), number, name))
        return name

    def rebuilt(self) -> Rebuilt:
        """What the model is made of by now."""
        found = list(self._first)
        for index, node in enumerate(self._original):
            found += [*self._before.get(index, ()), self._touched.get(index, node), *self._behind.get(index, ())]
        return Rebuilt(self._facts.model, found, self.constants)

    def _is_untouched(self, edit: Number | Picked) -> bool:
        before: str = self._facts.nodes[edit.node].inputs[edit.position].name
        return self.reads(edit.node, edit.position) == before


APPLY: Mapping[type[Edit], Callable[[Draft, Any], None]] = {
    Attribute: Draft.state,
    Input: Draft.give,
    Number: Draft.write_down,
    Picked: Draft.pick,
    Shift: Draft.shift,
    Followed: Draft.follow,
}


def _copied(original: onnx.NodeProto) -> onnx.NodeProto:
    """A node to change, its numbers behind its other attributes."""
    node = onnx.NodeProto()
    node.CopyFrom(original)
    node.name, node.domain = original.name, original.domain
    del node.attribute[:]
    plain = [a for a in original.attribute if _is_plain(a)]
    node.attribute.extend(a for a in original.attribute if not _is_plain(a))
    node.attribute.extend(helper.make_attribute(a.name, helper.get_attribute_value(a)) for a in plain)
    return node


def _is_plain(attribute: onnx.AttributeProto) -> bool:
    """Whether it is a number, or numbers that are not none at all."""
    if attribute.type not in PLAIN or attribute.ref_attr_name:
        return False
    return attribute.type in (KINDS.INT, KINDS.FLOAT) or bool(attribute.ints or attribute.floats)
