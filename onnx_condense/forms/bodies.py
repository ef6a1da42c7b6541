"""If, Loop and Scan: every body is traced as a copy beside the graph that holds it, and written back into its node.

The flat graph is the graph as it is plus, for each body, its nodes with prefixed names. Formal inputs become inputs,
body outputs become outputs (so they stay). What a body captures its copy reads; where there is none, it stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np
import onnx
from onnx import helper

from onnx_condense.errors import InputError
from onnx_condense.forms.stack import Entered, Skipped
from onnx_condense.model.held import fill, numbers
from onnx_condense.model.inputs import Feed
from onnx_condense.model.names import Names
from onnx_condense.model.parts import observe
from onnx_condense.model.protos import drop_unread, names_read
from onnx_condense.model.runtime import run, session
from onnx_condense.operators.queries import formal_values, has_weights, linear_weights
from onnx_condense.operators.reasons import Reason
from onnx_condense.operators.wiring import Copy


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
    number of the iteration is seen to change. skipped: bodies that were not copied.
    """

    model: onnx.ModelProto
    feed: Feed
    others: tuple[Feed, ...]
    bodies: tuple[_Body, ...] = ()
    skipped: tuple[Skipped, ...] = ()


def enter(entered: Entered) -> Entered:
    """The flat graph of a model. A body whose copy does not run on the feeds, or not at equal sizes every time, stays.

    The model itself where no body holds weights. Raises InputError where the model does not run.
    """
    flat = _flattened(_Flat(entered.model, entered.feed, entered.others))
    copies = tuple(Copy(body.prefix, body.holder, body.attribute) for body in flat.bodies)
    entered = entered.then(flat.model, partial(_leave, flat.bodies)) if flat.bodies else entered
    entered = replace(entered, feed=flat.feed, others=flat.others)
    return replace(entered, copies=(*entered.copies, *copies), skipped=(*entered.skipped, *flat.skipped))


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
                    flat = replace(flat, skipped=(*flat.skipped, Skipped(layer, why, size)))
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


@dataclass(frozen=True)
class _Original:
    """A body that is copied beside its node. names: in it -> in the copy."""

    node: onnx.NodeProto
    body: onnx.GraphProto
    names: Mapping[str, str]


def _with_copy(flat: _Flat, place: int, attribute: str, body: onnx.GraphProto) -> _Flat:
    """The flat graph with one more copy: of the body that is this attribute of the node at a place."""
    if flat.model.ir_version < 4 or body.sparse_initializer:
        raise _Unsuitable(Reason.BODY_UNSUPPORTED)
    node = flat.model.graph.node[place]
    holder = next(name for name in node.output if name)
    prefix = Names.of(flat.model.graph).prefix(f"{node.name or node.op_type}.{attribute}", "/")
    original = _Original(node, body, {name: prefix + name for name in own_names(body)})
    others = flat.others or ((flat.feed,) if body.input else ())
    feeds = [_fed(flat.model, original, feed, turn) for turn, feed in enumerate((flat.feed, *others))]
    model = _spliced(flat.model, place, original)
    model.graph.input.extend(_inputs(original, feeds[0]))
    model.graph.output.extend(_outputs(original))
    _check_sizes(model, original, feeds)
    copied = _Body(holder, attribute, prefix, {new: old for old, new in original.names.items()})
    return replace(flat, model=model, feed=feeds[0], others=tuple(feeds[1:]), bodies=(*flat.bodies, copied))


def own_names(body: onnx.GraphProto) -> set[str]:
    """The tensors that a body names itself, apart from those that it captures."""
    made = {name for node in body.node for name in node.output if name}
    return made | {v.name for v in body.input} | {t.name for t in body.initializer}


def _fed(model: onnx.ModelProto, original: _Original, feed: Feed, turn: int) -> Feed:
    """The feed with what the formal inputs of a body hold at first; `turn`: the number of the iteration."""
    node, formal = original.node, original.body.input
    if not formal:
        return feed
    known = feed | {t.name: numbers(t) for t in model.graph.initializer if t.name in node.input}
    wanted = [name for name in dict.fromkeys(node.input) if name and name not in known]
    (found,) = observe(model, wanted, [feed], optimize=False)
    known |= found
    values = formal_values(node, [known.get(name) for name in node.input], turn)
    if values is None or len(values) != len(formal) or not all(isinstance(v, np.ndarray) for v in values):
        raise _Unsuitable(Reason.BODY_OF_OTHERS)
    return feed | {original.names[v.name]: value for v, value in zip(formal, values, strict=True)}


def _spliced(model: onnx.ModelProto, place: int, original: _Original) -> onnx.ModelProto:
    """A model with the nodes and the weights of a copy behind the node at a place."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = list(result.graph.node)
    nodes[place + 1 : place + 1] = [renamed(node, original.names) for node in original.body.node]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    for tensor in original.body.initializer:
        result.graph.initializer.add().CopyFrom(tensor)
        result.graph.initializer[-1].name = original.names[tensor.name]
    return result


def _inputs(original: _Original, feed: Feed) -> Iterator[onnx.ValueInfoProto]:
    """The formal inputs of a copy, of any sizes but those that the body states."""
    for value in original.body.input:
        name = original.names[value.name]
        given, stated = feed[name].shape, [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        sizes = [size if size in stated[axis : axis + 1] else None for axis, size in enumerate(given)]
        yield helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(feed[name].dtype), sizes)


def _outputs(original: _Original) -> list[onnx.ValueInfoProto]:
    """The outputs of a copy that one of its nodes makes."""
    made = {name for node in original.body.node for name in node.output}
    names = dict.fromkeys(original.names[value.name] for value in original.body.output if value.name in made)
    return [onnx.ValueInfoProto(name=name) for name in names]


def _check_sizes(model: onnx.ModelProto, original: _Original, feeds: Iterable[Feed]) -> None:
    """The copy runs, and what a Loop or Scan carries keeps its sizes: they are those of every iteration."""
    runner = session(model, optimize=False)
    wanted = [o.name for o in model.graph.output]
    for feed in feeds:
        found = feed | dict(zip(wanted, run(runner, wanted, feed), strict=True))
        for before, after in _carried(original):
            value = found.get(original.names.get(after, after))
            if value is not None and value.shape != found[original.names[before]].shape:
                raise _Unsuitable(Reason.BODY_RESIZES)


def _carried(original: _Original) -> list[tuple[str, str]]:
    """(name before, name after) an iteration, in the body, of what a Loop or Scan carries from one to the next."""
    node, body = original.node, original.body
    formal, results = list(body.input), list(body.output)
    if node.op_type == "Loop":  # before them: the number of the iteration, and whether to go on
        formal, results = formal[2 : len(node.input)], results[1:]
    if node.op_type == "Scan":
        formal = formal[: len(formal) - next(a.i for a in node.attribute if a.name == "num_scan_inputs")]
    return [(value.name, result.name) for value, result in zip(formal, results, strict=False)]


def renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy of a node with other tensor names, in its bodies too (where they do not mean something else)."""
    result = onnx.NodeProto()
    result.CopyFrom(node)
    result.input[:] = [names.get(name, name) for name in node.input]
    result.output[:] = [names.get(name, name) for name in node.output]
    for _, body in _bodies(result):
        own = own_names(body)
        outer = {old: new for old, new in names.items() if old not in own}
        nodes = [renamed(n, outer) for n in body.node]
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
    graph.node.extend(renamed(node, body.names) for node in nodes)
    del graph.initializer[:]
    for tensor in tensors:
        fill(tensor)
        tensor.name = body.names.get(tensor.name, tensor.name)
        graph.initializer.append(tensor)
    del graph.value_info[:]


def _parameters(model: onnx.ModelProto, body: onnx.GraphProto) -> int:
    """Numbers in the weights of the linear maps of a body, nested ones too."""
    sizes = {t.name: prod(t.dims) for t in (*model.graph.initializer, *body.initializer)}
    nested = sum(_parameters(model, inner) for node in body.node for _, inner in _bodies(node))
    return nested + sum(sizes.get(name, 0) for name in linear_weights(body.node))
