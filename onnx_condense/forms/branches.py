"""An If that takes the same branch whatever is fed, as the nodes of that branch.

Exporters write such (a squeeze under a question about a size that never changes). A condition is known where it follows
from constants, and from sizes that follow from sizes that the model states: what was seen on some inputs is not enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnx_condense.forms.bodies import own_names, renamed
from onnx_condense.forms.stack import Entered
from onnx_condense.model.inference import constant_sizes
from onnx_condense.model.names import Names
from onnx_condense.model.protos import drop_unread, names_read
from onnx_condense.model.surgeon import import_graph
from onnx_condense.operators.facts import Facts

Sizes = Mapping[str, Sequence[int | None]]
"""Tensor name -> its sizes; None where one follows from sizes of the inputs that are not stated."""


def enter(entered: Entered) -> Entered:
    """The model without Ifs that always take the same branch. Raises InputError where it does not run."""
    while entered.model.ir_version >= 4 and any(map(_is_if, entered.model.graph.node)):
        model = entered.model
        facts = Facts(model, import_graph(model), entered.feed)
        taken = dict(_taken(model, facts))
        if not taken:
            break
        entered = replace(entered, model=_inlined(model, taken))
    return entered


def _is_if(node: onnx.NodeProto) -> bool:
    return node.op_type == "If" and not node.domain


def _taken(model: onnx.ModelProto, facts: Facts) -> Iterator[tuple[str, onnx.GraphProto]]:
    """(a tensor that an If makes, the branch that it always takes)."""
    stated = {v.name: [d.dim_value or None for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    sizes, settable = constant_sizes(model, stated), stated.keys() & facts.initializers.keys()
    for node in filter(_is_if, model.graph.node):
        name = node.input[0]
        free = settable & {name, *facts.upstream(name)}
        value = facts.value_by_name(name) if not free and _is_known(name, facts, sizes) else None
        if value is None:
            continue
        branch = helper.get_node_attr_value(node, "then_branch" if value.all() else "else_branch")
        if not branch.sparse_initializer:
            yield next(output for output in node.output if output), branch


def _is_known(name: str, facts: Facts, sizes: Sizes) -> bool:
    """Whether a number is the same whatever is fed."""
    waiting, seen = [name], set[str]()
    while waiting:
        current = waiting.pop()
        if current in facts.static or current in seen:
            continue
        seen.add(current)
        maker = facts.maker(current)
        if maker is None or current not in facts.derived:
            return False
        node = facts.nodes[maker]
        above = facts.maker(node.inputs[0].name)
        shape = facts.nodes[above] if above is not None and facts.nodes[above].op == "Shape" else None
        if node.op in ("Shape", "Size"):  # of a shape: a rank
            known = _has_rank(shape, sizes) if shape else None not in sizes.get(node.inputs[0].name, [None])
        elif node.op == "Gather" and shape is not None:
            known = _picks_known(node, shape, facts, sizes)
        else:
            waiting += [tensor.name for tensor in node.inputs if tensor.name]
            continue
        if not known:
            return False
    return True


def _has_rank(shape: gs.Node, sizes: Sizes) -> bool:
    """Whether a Shape always gives as many numbers."""
    return not shape.attrs and shape.inputs[0].name in sizes


def _picks_known(gather: gs.Node, shape: gs.Node, facts: Facts, sizes: Sizes) -> bool:
    """Whether what is picked of a shape are sizes that never change."""
    places, found = facts.value(gather.inputs[1]), sizes.get(shape.inputs[0].name)
    if shape.attrs or places is None or gather.inputs[1].name not in facts.static or found is None:
        return False
    return all(-len(found) <= place < len(found) and found[place] is not None for place in places.reshape(-1).tolist())


def _inlined(model: onnx.ModelProto, taken: Mapping[str, onnx.GraphProto]) -> onnx.ModelProto:
    """The model with these branches in the place of their Ifs."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    names = Names.of(model.graph)
    found: list[onnx.NodeProto] = []
    for node in model.graph.node:
        branch = next((taken[name] for name in node.output if name in taken), None)
        if branch is None:
            found.append(node)
            continue
        prefix = names.prefix(node.name or node.op_type, "/")
        inner = {name: prefix + name for name in own_names(branch)}
        found += [renamed(n, inner) for n in branch.node]
        for tensor in branch.initializer:
            result.graph.initializer.add().CopyFrom(tensor)
            result.graph.initializer[-1].name = inner[tensor.name]
        results = zip(branch.output, node.output, strict=False)
        found += [
            helper.make_node("Identity", [inner.get(made.name, made.name)], [out]) for made, out in results if out
        ]
    del result.graph.node[:]
    result.graph.node.extend(found)
    drop_unread(result, names_read(model.graph))
    return result
