"""Products with weights that have a batch dimension (ensembles, experts), as one product for each of the members.

[E, K, N] is E matrices, which all lose equally many channels, because what they make is put together again. The form is
left after writing: the weights are stacked again, and one node multiplies with all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_condense.arrays import Array
from onnx_condense.forms.stack import Entered
from onnx_condense.model.held import numbers
from onnx_condense.model.inference import inferred_shapes
from onnx_condense.model.names import Names
from onnx_condense.model.protos import drop_unread, opset_of, read_by
from onnx_condense.operators import nodes
from onnx_condense.operators.versions import input_for

MOST = 64
"""Members of a weight that is taken apart: a product for each of more would take long to trace."""


@dataclass(frozen=True)
class Opened:
    """A node that was taken apart. parts: what its members make. apart: whether a node stands before each of them."""

    node: onnx.NodeProto
    parts: tuple[str, ...]
    apart: bool


def enter(entered: Entered) -> Entered:
    """The model with a product for each member."""
    model = entered.model
    stacked = _stacked(model)
    axes = {node.output[0]: axis for node, axis in _found(model, stacked)}
    if not axes:
        return entered
    result = onnx.ModelProto()
    result.CopyFrom(model)
    maker = _Maker(result, stacked)
    opened = []
    del result.graph.node[:]
    for node in model.graph.node:
        if node.output and node.output[0] in axes:
            opened.append(maker.open(node, axes[node.output[0]]))
        else:
            result.graph.node.append(node)
    drop_unread(result, read_by(model.graph.node))
    return entered.then(result, partial(_leave, opened))


def _stacked(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Weights of rank 3 that one node alone reads."""
    given = {value.name for value in (*model.graph.input, *model.graph.output)}
    found = {t.name: t for t in model.graph.initializer if len(t.dims) == 3 and 1 < t.dims[0] <= MOST}
    uses = [name for node in model.graph.node for name in read_by([node])]
    return {name: t for name, t in found.items() if name not in given and uses.count(name) == 1}


def _found(
    model: onnx.ModelProto, stacked: Mapping[str, onnx.TensorProto]
) -> Iterator[tuple[onnx.NodeProto, int | None]]:
    """Products with stacked weights, and the axis of the data along which each member reads a part; None: all read all.

    Data of rank 2 have no such axis yet, it is -1.
    """
    candidates = [n for n in model.graph.node if n.op_type == "MatMul" and not n.domain and n.input[1] in stacked]
    shapes = inferred_shapes(model) if candidates else {}
    for node in candidates:
        shape = shapes.get(node.input[0])
        if shape is None or len(shape) < 2:
            continue
        if len(shape) == 2:
            yield node, -1
        elif shape[-3] in (1, stacked[node.input[1]].dims[0]):
            yield node, None if shape[-3] == 1 else len(shape) - 3


class _Maker:
    """Adds the parts of nodes to a model."""

    def __init__(self, model: onnx.ModelProto, stacked: Mapping[str, onnx.TensorProto]) -> None:
        self._graph, self._stacked = model.graph, stacked
        self._names, self._opset = Names.of(model.graph), opset_of(model.opset_import)
        self._ranks = {name: len(shape) for name, shape in inferred_shapes(model).items()}

    def open(self, node: onnx.NodeProto, axis: int | None) -> Opened:
        """A product for each member, beside each other."""
        data, parts = node.input[0], []
        rank = max(3, self._ranks[data])
        if axis == -1:
            data = self._unsqueezed(data)
        for number, matrix in enumerate(numbers(self._stacked[node.input[1]])):
            own, weight = data, self._constant(f"{node.input[1]}_{number}", matrix)
            if axis is not None and axis >= 0:
                own = self._names.fresh(f"{node.output[0]}_from_{number}")
                places = self._constant(f"{own}_place", np.array([number], dtype=np.int64))
                self._graph.node.append(nodes.gathered(data, places, axis, own))
            parts.append(self._names.fresh(f"{node.output[0]}_{number}"))
            made = helper.make_node("MatMul", [own, weight], parts[-1:], name=f"{node.name or node.output[0]}_{number}")
            self._graph.node.append(made)
        self._graph.node.append(helper.make_node("Concat", parts, node.output, axis=rank - 3))
        return Opened(node, tuple(parts), axis is not None)

    def _constant(self, stem: str, value: Array) -> str:
        name = self._names.fresh(stem)
        self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _unsqueezed(self, data: str) -> str:
        made = self._names.fresh(f"{data}_of_members")
        if input_for("Unsqueeze", "axes", self._opset) is None:
            node = helper.make_node("Unsqueeze", [data], [made], axes=[0])
        else:
            axes = self._constant(f"{made}_axes", np.array([0], dtype=np.int64))
            node = helper.make_node("Unsqueeze", [data, axes], [made])
        self._graph.node.append(node)
        return made


def _leave(opened: Sequence[Opened], written: onnx.ModelProto, traced: onnx.ModelProto) -> onnx.ModelProto:
    """The model with stacked weights; what was not written as it was opened stays taken apart."""
    result = onnx.ModelProto()
    result.CopyFrom(written)
    closer = _Closer(result)
    closed = {one.node.output[0]: closer.close(one) for one in opened if closer.fits(one)}
    del result.graph.node[:]
    for node in written.graph.node:
        if node.output[0] in closed:
            result.graph.node.extend(closed[node.output[0]])
        elif node.output[0] not in closer.gone:
            result.graph.node.append(node)
    drop_unread(result, read_by(written.graph.node))
    for value in [v for v in result.graph.value_info if v.name in closer.gone]:
        result.graph.value_info.remove(value)
    return result


class _Closer:
    """Puts products together. gone: what only their parts made."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.gone: set[str] = set()
        self._graph, self._names = model.graph, Names.of(model.graph)
        self._makers = {name: node for node in [*model.graph.node] for name in node.output}
        self._values = {t.name: t for t in model.graph.initializer}

    def fits(self, one: Opened) -> bool:
        """Whether the parts are there as they were, but for their sizes and for biases."""
        whole = self._makers.get(one.node.output[0])
        if whole is None or whole.op_type != "Concat" or tuple(whole.input) != one.parts:
            return False
        products = [self._product(part) for part in one.parts]
        data = {self._data(one, node) for node in products if node is not None}
        shapes = {tuple(self._values[n.input[1]].dims) for n in products if n is not None}
        return None not in products and None not in data and len(data) == len(shapes) == 1

    def close(self, one: Opened) -> list[onnx.NodeProto]:
        """One product with stacked weights, and an addition behind it where constants of removed channels are added."""
        products = [node for node in map(self._product, one.parts) if node is not None]
        matrices = np.stack([numbers(self._values[node.input[1]]) for node in products])
        shifts = [self._shift(part, matrices) for part in one.parts]
        self.gone.update(one.parts, *(node.output for node in products))
        if one.apart:
            self.gone.update(node.input[0] for node in products)
        made = onnx.NodeProto()
        made.CopyFrom(one.node)
        made.input[:] = [self._data(one, products[0]) or "", self._constant(one.node.input[1], matrices)]
        if not any(shift.any() for shift in shifts):
            return [made]
        output, name = one.node.output[0], one.node.name or one.node.output[0]
        made.output[:] = [self._names.fresh(f"{output}_unbiased")]
        bias = self._constant(f"{output}_bias", np.stack(shifts)[:, None])
        return [made, nodes.added(made.output[0], bias, output, f"{name}_bias")]

    def _product(self, part: str) -> onnx.NodeProto | None:
        """The node of a member, which the writer may have added a bias to."""
        node = self._makers.get(part)
        if node is not None and node.op_type == "Add" and node.input[1] in self._values:
            node = self._makers.get(node.input[0])
        return node if node is not None and node.op_type == "MatMul" and node.input[1] in self._values else None

    def _shift(self, part: str, matrices: Array) -> Array:
        """[N] the bias of a member."""
        node = self._makers[part]
        if node.op_type == "Add":
            return numbers(self._values[node.input[1]]).reshape(-1)
        return np.zeros(matrices.shape[-1], matrices.dtype)

    def _data(self, one: Opened, node: onnx.NodeProto) -> str | None:
        """What all members read."""
        if not one.apart:
            return str(node.input[0])
        maker = self._makers.get(node.input[0])
        return str(maker.input[0]) if maker is not None and maker.op_type in ("Gather", "Unsqueeze") else None

    def _constant(self, stem: str, value: Array) -> str:
        name = self._names.fresh(stem)
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name
