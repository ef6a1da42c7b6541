"""If, Loop and Scan: every body is traced as a copy beside the graph that holds it, and written back into its node.

The flat graph is the graph as it is plus, for each body, its nodes with prefixed names. Formal inputs become inputs,
body outputs become outputs (so they stay). What a body captures its copy reads; where there is none, it stays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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

END = "/"
"""What prefixes of copies end with."""


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
    """With a copy of every body that holds weights: all at once, or where that does not run, one after the other."""
    try:
        return _with_all(flat)
    except (_Unsuitable, InputError):
        return _with_each(flat)


def _with_all(flat: _Flat) -> _Flat:
    """Runs the copies once they are all there. Raises _Unsuitable and InputError where one does not fit."""
    found: list[tuple[_Original, _Body]] = []
    place, model, feeds = 0, onnx.ModelProto(), (flat.feed, *flat.others)
    if not any(has_weights(body) for node in flat.model.graph.node for _, body in _bodies(node)):
        return flat
    model.CopyFrom(flat.model)
    names = Names.of(model.graph)
    while place < len(model.graph.node):
        for attribute, body in reversed(list(_bodies(model.graph.node[place]))):
            if has_weights(body):
                original, copied = _original(model, names, place, (attribute, body))
                feeds = _all_fed(model, original, feeds)
                _splice(model, place, original, feeds[0])
                names.take(original.names.values())
                found.append((original, copied))
        place += 1
    _check_sizes(model, [original for original, _ in found], feeds)
    return _Flat(model, feeds[0], feeds[1:], tuple(copied for _, copied in found))


def _with_each(flat: _Flat) -> _Flat:
    """Leaves bodies where they are that do not fit."""
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
    prefixes = [body.prefix for body in bodies]
    taken, before = (_taken(one.graph, prefixes) for one in (model, old))
    holders = {name: node for nodes, _ in taken.values() for node in nodes for name in node.output}
    holders |= {name: node for node in model.graph.node for name in node.output}
    for body in reversed(bodies):
        holder = holders.get(body.holder)
        if holder is None or taken[body.prefix] == before[body.prefix]:
            continue
        for attribute in holder.attribute:
            if attribute.name == body.attribute:
                _refill(attribute.g, *taken[body.prefix], body)
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
    original, copied = _original(flat.model, Names.of(flat.model.graph), place, (attribute, body))
    feeds = _all_fed(flat.model, original, (flat.feed, *flat.others))
    model = onnx.ModelProto()
    model.CopyFrom(flat.model)
    _splice(model, place, original, feeds[0])
    _check_sizes(model, [original], feeds)
    return replace(flat, model=model, feed=feeds[0], others=feeds[1:], bodies=(*flat.bodies, copied))


def _original(
    model: onnx.ModelProto, names: Names, place: int, held: tuple[str, onnx.GraphProto]
) -> tuple[_Original, _Body]:
    """A body that the node at a place holds (attribute, body), and what its copy is called."""
    (attribute, body), node = held, model.graph.node[place]
    if model.ir_version < 4 or body.sparse_initializer:
        raise _Unsuitable(Reason.BODY_UNSUPPORTED)
    holder = next(name for name in node.output if name)
    prefix = names.prefix(f"{node.name or node.op_type}.{attribute}", END)
    original = _Original(node, body, {name: prefix + name for name in own_names(body)})
    return original, _Body(holder, attribute, prefix, {new: old for old, new in original.names.items()})


def _all_fed(model: onnx.ModelProto, original: _Original, feeds: tuple[Feed, ...]) -> tuple[Feed, ...]:
    """The feed and the others, of which a body that runs several times has at least one."""
    others = feeds[1:] or (feeds[:1] if original.body.input else ())
    return tuple(_fed(model, original, feed, turn) for turn, feed in enumerate((feeds[0], *others)))


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


def _splice(model: onnx.ModelProto, place: int, original: _Original, feed: Feed) -> None:
    """Puts the nodes and the weights of a copy behind the node at a place."""
    for offset, node in enumerate(original.body.node, 1):
        model.graph.node.insert(place + offset, renamed(node, original.names))
    for tensor in original.body.initializer:
        model.graph.initializer.add().CopyFrom(tensor)
        model.graph.initializer[-1].name = original.names[tensor.name]
    model.graph.input.extend(_inputs(original, feed))
    model.graph.output.extend(_outputs(original))


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


def _check_sizes(model: onnx.ModelProto, originals: Sequence[_Original], feeds: Iterable[Feed]) -> None:
    """The copies run, and what a Loop or Scan carries keeps its sizes: they are those of every iteration."""
    runner = session(model, optimize=False)
    wanted = [o.name for o in model.graph.output]
    for feed in feeds:
        found = feed | dict(zip(wanted, run(runner, wanted, feed), strict=True))
        for original, (before, after) in ((one, pair) for one in originals for pair in _carried(one)):
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


_Taken = dict[str, tuple[list[onnx.NodeProto], list[onnx.TensorProto]]]
"""Prefix of a copy -> its nodes and its weights."""


def _taken(graph: onnx.GraphProto, prefixes: Collection[str]) -> _Taken:
    """Takes what belongs to copies out of a graph."""
    found: _Taken = {prefix: ([], []) for prefix in prefixes}
    rest = onnx.GraphProto()
    for node in graph.node:
        owner = next(filter(None, (_owner(name, found) for name in node.output)), "")
        (found[owner][0] if owner else rest.node).append(node)
    for tensor in graph.initializer:
        owner = _owner(tensor.name, found)
        (found[owner][1] if owner else rest.initializer).append(tensor)
    for field in ("input", "output", "value_info"):
        getattr(rest, field).extend(value for value in getattr(graph, field) if not _owner(value.name, found))
    for field in ("node", "initializer", "input", "output", "value_info"):
        graph.ClearField(field)
    graph.MergeFrom(rest)
    return found


def _owner(name: str, prefixes: Collection[str]) -> str:
    """The longest prefix of a copy that a name begins with, "" where there is none."""
    ends = [place for place, letter in enumerate(name, 1) if letter == END]
    return next((name[:end] for end in reversed(ends) if name[:end] in prefixes), "")


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
