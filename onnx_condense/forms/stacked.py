"""Which products multiply with weights that have a batch dimension, and along which axes their members lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from onnx_condense.model.inference import inferred_shapes
from onnx_condense.model.protos import read_by
from onnx_condense.operators.products import letters_of

MOST = 64
"""Members of a weight that is taken apart: a product for each of more would take long to trace."""


@dataclass(frozen=True)
class Stacked:
    """A product with a weight of several members.

    Attributes:
        node: it.
        weight: the operand that is the weight.
        members: its axis that they lie on.
        apart: the axis of the data along which each member reads a part; None: all read all; -1: data that lack such
            an axis get one in front.
        joined: the axis of the output that members lie on.
        made: the axis of a member's matrix that it makes, and of the output.
        rank: of the output.
        equation: of a member, where the node has one.
    """

    node: onnx.NodeProto
    weight: int
    members: int
    apart: int | None
    joined: int
    made: tuple[int, int]
    rank: int
    equation: str = ""

    @property
    def data(self) -> str:
        """What all members read."""
        return str(self.node.input[1 - self.weight])

    def member(self, data: str, weight: str, output: str, name: str) -> onnx.NodeProto:
        """The product of one member."""
        operands = [data, weight] if self.weight == 1 else [weight, data]
        given = {"equation": self.equation} if self.equation else {}
        return helper.make_node(self.node.op_type, operands, [output], name=name, **given)


def weights_in(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Weights of rank 3 that one node alone reads."""
    given = {value.name for value in (*model.graph.input, *model.graph.output)}
    found = {t.name: t for t in model.graph.initializer if len(t.dims) == 3 and min(t.dims) > 0}
    uses = [name for node in model.graph.node for name in read_by([node])] if found else []
    return {name: t for name, t in found.items() if name not in given and uses.count(name) == 1}


def stacked_in(model: onnx.ModelProto, weights: Mapping[str, onnx.TensorProto]) -> Iterator[Stacked]:
    """The products with such weights that can be taken apart."""
    candidates = [n for n in model.graph.node if n.op_type in _READ and not n.domain and len(n.input) == 2]
    candidates = [n for n in candidates if (n.input[0] in weights) != (n.input[1] in weights)]
    shapes = inferred_shapes(model) if candidates else {}
    for node in candidates:
        position = 0 if node.input[0] in weights else 1
        shape = shapes.get(node.input[1 - position])
        found = (
            None if shape is None else _READ[node.op_type](node, position, shape, weights[node.input[position]].dims)
        )
        if found is not None and 1 < weights[node.input[position]].dims[found.members] <= MOST:
            yield found


def _of_matrices(
    node: onnx.NodeProto, position: int, shape: Sequence[int | None], sizes: Sequence[int]
) -> Stacked | None:
    """A MatMul: the members lie on the axis before those of the matrices."""
    rank = max(3, len(shape))
    made = (1, rank - 1) if position == 1 else (0, rank - 2)
    if len(shape) == 2:
        return Stacked(node, position, 0, -1, 0, made, rank)
    if len(shape) < 2 or shape[-3] not in (1, sizes[0]):
        return None
    return Stacked(node, position, 0, None if shape[-3] == 1 else rank - 3, rank - 3, made, rank)


def _of_letters(
    node: onnx.NodeProto, position: int, shape: Sequence[int | None], sizes: Sequence[int]
) -> Stacked | None:
    """An Einsum: the members' letter is in the weight and the output; the data may lack it."""
    found = letters_of(helper.get_node_attr_value(node, "equation"))
    if found is None or len(found[position]) != 3 or len(found[1 - position]) != len(shape):
        return None
    data, weight, output = found[1 - position], found[position], found[2]
    inner = [letter for letter in weight if letter in data and letter not in output]
    outer = [letter for letter in weight if letter in output and letter not in data]
    shared = [letter for letter in weight if letter in output and letter in data]
    if len(inner) != 1 or len(outer) + len(shared) != 2 or len(shared) > 1:
        return None
    if not shared:  # either may be that of the members: the smaller one
        outer.sort(key=lambda letter: -sizes[weight.index(letter)])
    produced, letter = [*outer, *shared]
    members, apart = weight.index(letter), data.find(letter)
    if shared and shape[apart] != sizes[members]:
        return None
    matrix = weight.replace(letter, "")
    operands = [data if shared else letter + data, matrix]
    equation = ",".join(operands if position == 1 else operands[::-1]) + "->" + output
    made = matrix.index(produced), output.index(produced)
    return Stacked(node, position, members, apart, output.index(letter), made, len(output), equation)


_READ = {"MatMul": _of_matrices, "Einsum": _of_letters}
