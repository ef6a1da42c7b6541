"""Products with weights that have a batch dimension (ensembles, experts), as one product for each of the members.

[E, K, N] is E matrices, which all lose equally many channels, because what they make is put together again. The weight
is either operand of a MatMul, or of an Einsum, whose letters say which axis is that of the members. The form is left
after writing: the weights are stacked again, and one node multiplies with all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_condense.arrays import Array
from onnx_condense.forms.stack import Entered
from onnx_condense.forms.stacked import Stacked, stacked_in, weights_in
from onnx_condense.model.held import numbers
from onnx_condense.model.names import Names
from onnx_condense.model.protos import drop_unread, opset_of, read_by
from onnx_condense.operators import nodes
from onnx_condense.operators.versions import input_for


@dataclass(frozen=True)
class Opened:
    """A product that was taken apart. parts: what its members make."""

    how: Stacked
    parts: tuple[str, ...]

    @property
    def output(self) -> str:
        """What the parts are together."""
        return str(self.how.node.output[0])


def enter(entered: Entered) -> Entered:
    """The model with a product for each member."""
    model = entered.model
    weights = weights_in(model)
    found = {one.node.output[0]: one for one in stacked_in(model, weights)}
    if not found:
        return entered
    result = onnx.ModelProto()
    result.CopyFrom(model)
    maker = _Maker(result, weights)
    opened = []
    del result.graph.node[:]
    for node in model.graph.node:
        if node.output and node.output[0] in found:
            opened.append(maker.open(found[node.output[0]]))
        else:
            result.graph.node.append(node)
    drop_unread(result, read_by(model.graph.node))
    return entered.then(result, partial(_leave, opened))


class _Maker:
    """Adds the parts of nodes to a model."""

    def __init__(self, model: onnx.ModelProto, weights: Mapping[str, onnx.TensorProto]) -> None:
        self._graph, self._weights = model.graph, weights
        self._names, self._labels = Names.of(model.graph), Names.of_nodes(model.graph)
        self._opset = opset_of(model.opset_import)

    def open(self, how: Stacked) -> Opened:
        """A product for each member, beside each other."""
        output, stem = how.node.output[0], how.node.input[how.weight]
        data, parts = self._unsqueezed(how, output) if how.front else how.data, list[str]()
        for number, matrix in enumerate(np.moveaxis(numbers(self._weights[stem]), how.members, 0)):
            own, weight = data, self._constant(f"{stem}_{number}", matrix)
            if how.apart is not None:
                own = self._names.fresh(f"{output}_from_{number}")
                places = self._constant(f"{own}_place", np.array([number], dtype=np.int64))
                self._graph.node.append(nodes.gathered(data, places, how.apart, own))
            parts.append(self._names.fresh(f"{output}_{number}"))
            label = self._labels.fresh(f"{how.node.name or output}_{number}")
            self._graph.node.append(how.member(own, weight, parts[-1], label))
        self._graph.node.append(helper.make_node("Concat", parts, [output], axis=how.joined))
        return Opened(how, tuple(parts))

    def _constant(self, stem: str, value: Array) -> str:
        name = self._names.fresh(stem)
        self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _unsqueezed(self, how: Stacked, output: str) -> str:
        made, front = self._names.fresh(f"{output}_data"), list(range(how.front))
        if input_for("Unsqueeze", "axes", self._opset) is None:
            node = helper.make_node("Unsqueeze", [how.data], [made], axes=front)
        else:
            axes = self._constant(f"{made}_axes", np.array(front, dtype=np.int64))
            node = helper.make_node("Unsqueeze", [how.data, axes], [made])
        self._graph.node.append(node)
        return made


def _leave(opened: Sequence[Opened], written: onnx.ModelProto, traced: onnx.ModelProto) -> onnx.ModelProto:
    """The model with stacked weights; what was not written as it was opened stays taken apart."""
    result = onnx.ModelProto()
    result.CopyFrom(written)
    closer = _Closer(result)
    closed = {one.output: closer.close(one) for one in opened if closer.fits(one)}
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
        self._graph, self._names, self._labels = model.graph, Names.of(model.graph), Names.of_nodes(model.graph)
        self._makers = {name: node for node in [*model.graph.node] for name in node.output}
        self._values = {t.name: t for t in model.graph.initializer}

    def fits(self, one: Opened) -> bool:
        """Whether the parts are there as they were, but for their sizes and for biases."""
        whole = self._makers.get(one.output)
        if whole is None or whole.op_type != "Concat" or tuple(whole.input) != one.parts:
            return False
        products = [self._product(one, part) for part in one.parts]
        data = {self._data(one, node) for node in products if node is not None}
        shapes = {tuple(self._values[n.input[one.how.weight]].dims) for n in products if n is not None}
        return None not in products and None not in data and len(data) == len(shapes) == 1

    def close(self, one: Opened) -> list[onnx.NodeProto]:
        """One product with stacked weights, and an addition behind it where constants of removed channels are added."""
        how = one.how
        products = [node for node in (self._product(one, part) for part in one.parts) if node is not None]
        matrices = [numbers(self._values[node.input[how.weight]]) for node in products]
        shifts, kind, width = list(map(self._shift, one.parts)), matrices[0].dtype, matrices[0].shape[how.made[0]]
        self.gone.update(one.parts, *(node.output for node in products))
        if how.changes_data:
            self.gone.update(node.input[1 - how.weight] for node in products)
        made = onnx.NodeProto()
        made.CopyFrom(how.node)
        made.input[how.weight] = self._constant(how.node.input[how.weight], np.stack(matrices, how.members))
        made.input[1 - how.weight] = self._data(one, products[0]) or ""
        if not any(shift is not None and shift.any() for shift in shifts):
            return [made]
        made.output[:] = [self._names.fresh(f"{one.output}_unbiased")]
        bias = np.stack([np.zeros(width, kind) if shift is None else shift for shift in shifts])
        shape = [1] * how.rank
        shape[how.joined], shape[how.made[1]] = bias.shape
        bias = (bias if how.joined < how.made[1] else bias.T).reshape(shape)
        name = self._constant(f"{one.output}_bias", bias)
        label = self._labels.fresh(f"{how.node.name or one.output}_bias")
        return [made, nodes.added(made.output[0], name, one.output, label)]

    def _product(self, one: Opened, part: str) -> onnx.NodeProto | None:
        """The node of a member, which the writer may have added a bias to."""
        node = self._makers.get(part)
        if node is not None and node.op_type == "Add" and node.input[1] in self._values:
            node = self._makers.get(node.input[0])
        fits = node is not None and node.op_type == one.how.node.op_type and node.input[one.how.weight] in self._values
        return node if fits else None

    def _shift(self, part: str) -> Array | None:
        """[N] the bias of a member, where it has one."""
        node = self._makers[part]
        return numbers(self._values[node.input[1]]).reshape(-1) if node.op_type == "Add" else None

    def _data(self, one: Opened, node: onnx.NodeProto) -> str | None:
        """What all members read."""
        own = node.input[1 - one.how.weight]
        if not one.how.changes_data:
            return str(own)
        maker = self._makers.get(own)
        return str(maker.input[0]) if maker is not None and maker.op_type in ("Gather", "Unsqueeze") else None

    def _constant(self, stem: str, value: Array) -> str:
        name = self._names.fresh(stem)
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name
