"""Tables of embeddings that make logits, too: numbers that a model holds twice, once transposed, are held once.

With a basis U [width, rank] a table T = A Uᵀ is a pair of factors that all its readers share: a look-up takes rows of
A, then Uᵀ; logits x Tᵀ are (x U) Aᵀ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_condense.arrays import Array, Floats
from onnx_condense.forms.stack import Form, for_good
from onnx_condense.model.held import byte_count, numbers
from onnx_condense.model.names import Names
from onnx_condense.model.protos import FLOAT_TYPES, read_by

LEAST = 512
"""Bytes of a table from which on one more node and its names are less."""


@dataclass(frozen=True, eq=False)
class Tie:
    """A table [rows, width] whose numbers more than a look-up reads.

    copies: names of other constants that hold its transpose. basis: [width, rank] orthonormal columns, None for none.
    """

    table: str
    copies: tuple[str, ...]
    basis: Floats | None = None


def ties_in(model: onnx.ModelProto) -> Iterator[Tie]:
    """The tables of a model that other constants repeat, or that more than look-ups read."""
    weights, inputs = _weights(model), {value.name for value in model.graph.input}
    given = inputs | {value.name for value in model.graph.output}
    looked_up = dict.fromkeys(node.input[0] for node in model.graph.node if _looks_up(node))
    for name in (name for name in looked_up if name in weights and name not in given):
        table = weights[name]
        alike = [w for w in weights.values() if w.name not in given and _may_be_transposed(table, w)]
        value = numbers(table) if alike else None
        copies = tuple(w.name for w in alike if value is not None and np.array_equal(numbers(w), value.T))
        shared = any(name in node.input and not _looks_up(node) for node in model.graph.node)
        if copies or shared:
            yield Tie(name, copies)


def _weights(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Tables of floats that are large enough."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    large = (t for t in found.values() if len(t.dims) == 2 and t.data_type in FLOAT_TYPES and byte_count(t) > LEAST)
    return {tensor.name: tensor for tensor in large}


def _looks_up(node: onnx.NodeProto) -> bool:
    axes = [attribute.i for attribute in node.attribute if attribute.name == "axis"]
    return node.op_type == "Gather" and not node.domain and axes in ([], [0])


def _may_be_transposed(table: onnx.TensorProto, other: onnx.TensorProto) -> bool:
    return other.name != table.name and [*other.dims] == [*table.dims][::-1] and other.data_type == table.data_type


def may_be_pair(tie: Tie, model: onnx.ModelProto) -> bool:
    """Whether all readers of a table know what to do with a pair of factors."""
    nodes = [*_turned(tie), *model.graph.node]
    if {value.name for value in model.graph.output} & {name for node in nodes if _turns(node) for name in node.output}:
        return False
    try:
        _with_factors(tie.table, nodes, Names.of(model.graph), ("", ""))
    except ValueError:
        return False
    return True


def tied(ties: Sequence[Tie], model: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose tables are held once. Raises ValueError where they are not the model's."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tie in ties:
        weights = {tensor.name: tensor for tensor in result.graph.initializer}
        missing = [name for name in (tie.table, *tie.copies) if name not in weights]
        if missing:
            raise ValueError(f"there is no table {missing[0]}")
        value = numbers(weights[tie.table])
        for name in tie.copies:
            if not np.array_equal(numbers(weights[name]), value.T):
                raise ValueError(f"{name} is no table transposed")
        nodes = [*_turned(tie), *result.graph.node]
        kept = [tensor for name, tensor in weights.items() if name not in tie.copies]
        if tie.basis is not None:
            if len(tie.basis) != value.shape[-1]:
                raise ValueError(f"the basis of {tie.table} has another length")
            names = Names.of(result.graph)
            basis = names.fresh(f"{tie.table}_basis"), names.fresh(f"{tie.table}_basis_turned")
            nodes = _with_factors(tie.table, nodes, names, basis)
            kept = [_narrowed(tensor, value, tie.basis) if tensor.name == tie.table else tensor for tensor in kept]
            kept.append(numpy_helper.from_array(tie.basis.astype(value.dtype), basis[0]))
        del result.graph.node[:], result.graph.initializer[:]
        result.graph.node.extend(nodes)
        result.graph.initializer.extend(kept)
    return result


def form(ties: Sequence[Tie]) -> Form:
    """The form of a model in which these tables are held once."""
    return for_good(partial(tied, ties))


def _turned(tie: Tie) -> list[onnx.NodeProto]:
    """What makes the copies of a table."""
    return [
        helper.make_node("Transpose", [tie.table], [name], f"{name}_of_{tie.table}", perm=[1, 0]) for name in tie.copies
    ]


def _narrowed(tensor: onnx.TensorProto, value: Array, basis: Floats) -> onnx.TensorProto:
    """A table [rows, width] in a basis."""
    inside = value.astype(np.float64) @ basis
    return numpy_helper.from_array(np.ascontiguousarray(inside.astype(value.dtype)), tensor.name)


def _with_factors(
    table: str, nodes: Sequence[onnx.NodeProto], names: Names, basis: tuple[str, str]
) -> list[onnx.NodeProto]:
    """Nodes whose table [rows, rank] stands for A, given the names of the basis [width, rank] and of its transpose.

    Raises ValueError where one reads the table otherwise.
    """
    result, turned = [helper.make_node("Transpose", [basis[0]], [basis[1]], basis[1], perm=[1, 0])], set[str]()
    for node in nodes:
        made = onnx.NodeProto()
        made.CopyFrom(node)
        reads = [name for name in node.input if name == table or name in turned]
        if not reads and not read_by([node]) & {table, *turned}:
            result.append(made)
        elif _turns(node) and reads == [table]:
            turned.add(node.output[0])
            result.append(made)
        elif _looks_up(node) and reads == [table] and node.input[0] == table:
            made.output[0] = names.fresh(f"{node.output[0]}_low")
            result += [made, _product(made.output[0], basis[1], node.output[0])]
        elif [*node.input[1:2]] == reads and _multiplies(node, reads != [table]):
            made.input[0] = names.fresh(f"{node.output[0]}_low")
            result += [_product(node.input[0], basis[0], made.input[0]), made]
        else:
            raise ValueError(f"the {node.op_type} that reads {table} knows no pair of factors")
    return result


def _product(left: str, right: str, made: str) -> onnx.NodeProto:
    return helper.make_node("MatMul", [left, right], [made], f"{made}_of_{right}")


def _turns(node: onnx.NodeProto) -> bool:
    orders = [list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"]
    return node.op_type == "Transpose" and not node.domain and orders in ([], [[1, 0]])


def _multiplies(node: onnx.NodeProto, turned: bool) -> bool:
    """Whether a node multiplies its first input with a table transposed, which its second is already if `turned`."""
    said = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "Gemm" and not node.domain:
        return not said.get("transA", 0) and bool(said.get("transB", 0)) != turned
    return node.op_type == "MatMul" and not node.domain and turned
