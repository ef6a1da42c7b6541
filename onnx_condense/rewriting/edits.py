"""What must be said differently in a small model, as values: attributes, inputs and nodes beside the old ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Array, Floats, Ints, Shape
from onnx_condense.operators.versions import input_for
from onnx_condense.rewriting.shapes import Shapes

Value = int | float | list[int] | Array


@dataclass(frozen=True, eq=False)
class Attribute:
    """An attribute of a node; None takes it away."""

    node: int
    name: str
    value: Value | None


@dataclass(frozen=True, eq=False)
class Input:
    """A constant as an input of a node; None leaves the input out."""

    node: int
    position: int
    value: Array | None


@dataclass(frozen=True, eq=False)
class Number:
    """A constant as an input of a node that still reads there what it read."""

    node: int
    position: int
    value: Array


@dataclass(frozen=True, eq=False)
class Picked:
    """Only these places [k] along an axis of what a node still reads at an input."""

    node: int
    position: int
    axis: int
    places: Ints


@dataclass(frozen=True, eq=False)
class Shift:
    """An addition behind a linear map without a bias."""

    node: int
    value: Floats


@dataclass(frozen=True, eq=False)
class Further:
    """What some rows of a table hold beyond it, and which of these rows belongs to each of the table's.

    rows: [1 + k, n], the first of zeros. places: [rows of the table]. asked: the node's input that names rows.
    axis: of the node's output along which these numbers follow.
    """

    rows: Array
    places: Array
    asked: int
    axis: int


@dataclass(frozen=True, eq=False)
class Followed:
    """A linear map behind a linear map, which takes over its bias.

    matrix: [r, outputs], [outputs, r] where it stands on the left, of the rank of a kernel where it convolves.
    further: what it reads behind what a table makes.
    """

    node: int
    matrix: Array
    convolves: bool
    left: bool
    further: Further | None = None


Edit = Attribute | Input | Number | Picked | Shift | Followed


def stated(shapes: Shapes, index: int, name: str, values: list[int]) -> Edit:
    """Integers of a node as an attribute or as an input, whatever the operator set asks for, of the type it had."""
    node = shapes.facts.nodes[index]
    position = input_for(node.op, name, shapes.facts.opset)
    if position is None:
        return Attribute(index, name, values)
    beside = [shapes.facts.value(tensor) for tensor in (*node.inputs[position : position + 1], *node.inputs[1:])]
    kinds = [value.dtype for value in beside if value is not None and value.dtype.kind == "i"]
    return Input(index, position, np.array(values, dtype=kinds[0] if kinds else np.int64))


def told(shapes: Shapes, index: int, position: int) -> Array | None:
    """[k]: what an input that states a shape will hold in the small model if it is left alone."""
    tensor = shapes.facts.nodes[index].inputs[position]
    return shapes.derived[tensor.name] if tensor.name in shapes.facts.derived else shapes.facts.value(tensor)


def broadcast(left: Shape, right: Shape) -> Shape | None:
    """The shape that two shapes broadcast to, None where they do not."""
    try:
        return tuple(np.broadcast_shapes(left, right))
    except ValueError:
        return None
