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
        apart: the axis of the data along which each member reads a part; None: all read all.
        front: how many axes are put in front of the data first.
        joined: the axis of the output that members lie on.
        made: the axis of a member's matrix that it makes, and of the output.
        rank: of the output.
        equation: of a member, where the node has one.
    """

    node: onnx.NodeProto
    weight: int
    members: int
    apart: int | None
    front: int
    joined: int
    made: tuple[int, int]
    rank: int
    equation: str = ""

    @property
    def changes_data(self) -> bool:
        """Whether members read something else than all of the data as they are."""
        return self.front > 0 or self.apart is not None

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
    """Weights of rank 3 and more that one node alone reads."""
    given = {value.name for value in (*model.graph.input, *model.graph.output)}
    found = {t.name: t for t in model.graph.initializer if len(t.dims) >= 3 and min(t.dims) > 0}
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
    """A MatMul: the members lie on one of the axes before those of the matrices; the others have length 1."""
    rank = max(len(sizes), len(shape))
    lying = [axis for axis, size in enumerate(sizes[:-2]) if size > 1]
    if len(lying) != 1 or len(shape) < 2:
        return None
    (members,), behind = lying, len(sizes) - lying[0]
    made = (len(sizes) - 2, rank - 1) if position == 1 else (len(sizes) - 3, rank - 2)
    own = shape[-behind] if len(shape) >= behind else 1
    if own not in (1, sizes[members]) or (own != 1 and len(shape) < rank):
        return None
    apart, front = None if own == 1 else rank - behind, rank - len(shape)
    return Stacked(node, position, members, apart, front, rank - behind, made, rank)


def _of_letters(
    node: onnx.NodeProto, position: int, shape: Sequence[int | None], sizes: Sequence[int]
) -> Stacked | None:
    """An Einsum: the members' letter is in the weight and the output; the data may lack it."""
    ranks = [len(shape), len(sizes)] if position == 1 else [len(sizes), len(shape)]
    found = letters_of(helper.get_node_attr_value(node, "equation"), ranks)
    if found is None or len(sizes) != 3:
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
    members, apart = weight.index(letter), data.index(letter) if shared else None
    if apart is not None and shape[apart] != sizes[members]:
        return None
    matrix = weight.replace(letter, "")
    operands = [data if shared else letter + data, matrix]
    equation = ",".join(operands if position == 1 else operands[::-1]) + "->" + output
    made = matrix.index(produced), output.index(produced)
    front = 0 if shared else 1
    return Stacked(node, position, members, apart, front, output.index(letter), made, len(output), equation)


_READ = {"MatMul": _of_matrices, "Einsum": _of_letters}
