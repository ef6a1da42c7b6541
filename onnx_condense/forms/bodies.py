"""If, Loop and Scan: every body is traced as a copy beside the graph that holds it, and written back into its node.

The flat graph is the graph as it is plus, for each body, its nodes with prefixed names. Formal inputs become inputs,
body outputs become outputs (so they stay), and captured tensors stay because the body itself still reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_condense.errors import InputError
from onnx_condense.forms.stack import Entered, Left
from onnx_condense.model.inputs import Feed
from onnx_condense.model.names import Names
from onnx_condense.model.parts import observe
from onnx_condense.model.protos import drop_unread, names_read
from onnx_condense.model.runtime import run, session
from onnx_condense.operators.queries import formal_values, has_weights, linear_weights
from onnx_condense.operators.reasons import Reason


@dataclass(frozen=True)
class _Body:
    """A copy of a body: `attribute` of the node that makes the tensor `holder`.

    prefix: of the copy's tensors. names: in the copy -> in the body.
    """

    holder: str
    attribute: str
    prefix: str
    names: Mapping[str, str]


@dataclass(frozen=True)
class _Flat:
    """A model with copies of its bodies.

    feed, others: its inputs, formal ones too; in the others a Loop is in a later iteration, so that what follows the
    number of the iteration is seen to change. left: bodies that were not copied.
    """

    model: onnx.ModelProto
    feed: Feed
    others: tuple[Feed, ...]
    bodies: tuple[_Body, ...] = ()
    left: tuple[Left, ...] = ()


def enter(entered: Entered) -> Entered:
    """The flat graph of a model. A body whose copy does not run on the feeds, or not at equal sizes every time, stays.

    The model itself where no body holds weights. Raises InputError where the model does not run.
    """
    flat = _flattened(_Flat(entered.model, entered.feed, entered.others))
    inside = tuple(body.prefix for body in flat.bodies)
    entered = entered.then(flat.model, partial(_leave, flat.bodies)) if flat.bodies else entered
    entered = replace(entered, feed=flat.feed, others=flat.others)
    return replace(entered, inside=(*entered.inside, *inside), left=(*entered.left, *flat.left))


def _flattened(flat: _Flat) -> _Flat:
    place = 0
    while place < len(flat.model.graph.node):
        node = flat.model.graph.node[place]
        for name, body in reversed(list(_bodies(node))):
            if has_weights(body):
                try:
                    flat = _with_copy(flat, place, name, body)
                except (_Unsuitable, InputError) as error:
                    why = error.reason if isinstance(error, _Unsuitable) else Reason.BODY_DOES_NOT_RUN
                    layer, size = node.name or f"{node.op_type}_{place}", _parameters(flat.model, body)
                    flat = replace(flat, left=(*flat.left, Left(layer, why, size)))
        place += 1
    return flat


def _leave(bodies: Sequence[_Body], written: onnx.ModelProto, traced: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every copy that was changed back in its node."""
    model, old = onnx.ModelProto(), onnx.ModelProto()
    model.CopyFrom(written)
    old.CopyFrom(traced)
    for body in reversed(bodies):
        nodes, tensors = _taken(model.graph, body.prefix)
        holder = next((n for n in model.graph.node if body.holder in n.output), None)
        if holder is None or (nodes, tensors) == _taken(old.graph, body.prefix):
            continue
        for attribute in holder.attribute:
            if attribute.name == body.attribute:
                _refill(attribute.g, nodes, tensors, body)
    drop_unread(model, names_read(traced.graph))
    return model


class _Unsuitable(Exception):
    """A body that cannot be copied."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def _bodies(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    yield from ((a.name, a.g) for a in node.attribute if a.type == onnx.AttributeProto.GRAPH)


def _with_copy(flat: _Flat, place: int, attribute: str, body: onnx.GraphProto) -> _Flat:
    node = flat.model.graph.node[place]
    if flat.model.ir_version < 4 or body.sparse_initializer:
        raise _Unsuitable(Reason.BODY_UNSUPPORTED)
    holder = next(name for name in node.output if name)
    prefix = Names.of(flat.model.graph).prefix(f"{node.name or node.op_type}.{attribute}", "/")
    inner = {v.name for v in body.input} | {t.name for t in body.initializer}
    inner |= {name for n in body.node for name in n.output if name}
    names = {name: prefix + name for name in inner}
    others = flat.others or ((flat.feed,) if body.input else ())
    feeds = [_fed(flat.model, node, body, f, names, turn) for turn, f in enumerate((flat.feed, *others))]
    model = onnx.ModelProto()
    model.CopyFrom(flat.model)
    nodes = [_renamed(n, names) for n in body.node]
    before, after = list(model.graph.node[: place + 1]), list(model.graph.node[place + 1 :])
    del model.graph.node[:]
    model.graph.node.extend([*before, *nodes, *after])
    for tensor in body.initializer:
        model.graph.initializer.add().CopyFrom(tensor)
        model.graph.initializer[-1].name = names[tensor.name]
    for value in body.input:
        array = feeds[0][names[value.name]]
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        sizes: list[None] = [None] * array.ndim
        model.graph.input.append(onnx.helper.make_tensor_value_info(names[value.name], kind, sizes))
    made = {name for n in body.node for name in n.output}
    outputs = [names[v.name] for v in body.output if v.name in made]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(outputs))
    _check_sizes(model, node, body, feeds, names)
    copied = _Body(holder, attribute, prefix, {new: old for old, new in names.items()})
    return replace(flat, model=model, feed=feeds[0], others=tuple(feeds[1:]), bodies=(*flat.bodies, copied))


def _fed(
    model: onnx.ModelProto, node: onnx.NodeProto, body: onnx.GraphProto, feed: Feed, names: Mapping[str, str], turn: int
) -> Feed:
    """The feed with what the formal inputs of a body hold at first; `turn`: the number of the iteration."""
    if not body.input:
        return feed
    known = feed | {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in node.input}
    wanted = [name for name in dict.fromkeys(node.input) if name and name not in known]
    (found,) = observe(model, wanted, [feed], optimize=False)
    known |= found
    values = formal_values(node, [known.get(name) for name in node.input], turn)
    if values is None or len(values) != len(body.input) or not all(isinstance(v, np.ndarray) for v in values):
        raise _Unsuitable(Reason.BODY_OF_OTHERS)
    return feed | {names[v.name]: value for v, value in zip(body.input, values, strict=True)}


def _check_sizes(
    model: onnx.ModelProto, node: onnx.NodeProto, body: onnx.GraphProto, feeds: Iterable[Feed], names: Mapping[str, str]
) -> None:
    """The copy runs, and what a Loop or Scan carries keeps its sizes: they are those of every iteration."""
    first = 1 if node.op_type == "Loop" else 0
    carried = len(node.input) - 2 if node.op_type == "Loop" else len(body.input)
    if node.op_type == "Scan":
        carried -= next(a.i for a in node.attribute if a.name == "num_scan_inputs")
    skipped = 2 if node.op_type == "Loop" else 0
    runner = session(model, optimize=False)
    wanted = [o.name for o in model.graph.output]
    for feed in feeds:
        found = feed | dict(zip(wanted, run(runner, wanted, feed), strict=True))
        for value, result in zip(body.input[skipped:][:carried], body.output[first:], strict=False):
            after = found.get(names.get(result.name, result.name))
            if after is not None and after.shape != found[names[value.name]].shape:
                raise _Unsuitable(Reason.BODY_RESIZES)


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy of a node with other tensor names, in its bodies too (where they do not mean something else)."""
    result = onnx.NodeProto()
    result.CopyFrom(node)
    result.input[:] = [names.get(name, name) for name in node.input]
    result.output[:] = [names.get(name, name) for name in node.output]
    for _, body in _bodies(result):
        own = {v.name for v in body.input} | {t.name for t in body.initializer}
        own |= {name for n in body.node for name in n.output}
        outer = {old: new for old, new in names.items() if old not in own}
        nodes = [_renamed(n, outer) for n in body.node]
        del body.node[:]
        body.node.extend(nodes)
        for value in body.output:
            value.name = outer.get(value.name, value.name)
    return result


def _owned(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


def _taken(graph: onnx.GraphProto, prefix: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Takes what belongs to a copy out of a graph."""
    nodes = [node for node in graph.node if _owned(node.output, prefix)]
    tensors = [tensor for tensor in graph.initializer if _owned([tensor.name], prefix)]
    for node in nodes:
        graph.node.remove(node)
    for tensor in tensors:
        graph.initializer.remove(tensor)
    for values in (graph.input, graph.output, graph.value_info):
        for value in [v for v in values if _owned([v.name], prefix)]:
            values.remove(value)
    return nodes, tensors


def _refill(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], body: _Body) -> None:
    """Puts a copy in the place of a body. Stated sizes of inner tensors, which may be wrong now, are left out."""
    del graph.node[:]
    graph.node.extend(_renamed(node, body.names) for node in nodes)
    del graph.initializer[:]
    for tensor in tensors:
        tensor.name = body.names.get(tensor.name, tensor.name)
        graph.initializer.append(tensor)
    del graph.value_info[:]


def _parameters(model: onnx.ModelProto, body: onnx.GraphProto) -> int:
    """Numbers in the weights of the linear maps of a body, nested ones too."""
    sizes = {t.name: prod(t.dims) for t in (*model.graph.initializer, *body.initializer)}
    nested = sum(_parameters(model, inner) for node in body.node for _, inner in _bodies(node))
    return nested + sum(sizes.get(name, 0) for name in linear_weights(body.node))
