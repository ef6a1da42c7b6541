"""What is looked at once, as a model comes in: names are text, nodes have an order, functions and loops have an end."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import onnx

from onnx_condense.errors import InputError, LimitError
from onnx_condense.model.protos import bodies
from onnx_condense.trust import trusted

Holder = onnx.GraphProto | onnx.FunctionProto
"""What holds nodes."""

DEEPEST = 100
"""Functions within functions that onnx and onnxruntime take."""


def checked(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    """The model itself, or a copy with its nodes in an order in which they can run; `label` names it in errors.

    Raises InputError for names that are no text, a graph that goes in circles, or functions that are defined twice, use
    themselves or nest too deep; LimitError for functions that are written out to too many nodes, or too many bodies.
    """
    if not model.graph.node:
        raise InputError(f"{label} holds no ONNX graph: export the model again")
    _check_bodies(model, label)
    try:
        readable = all(isinstance(name, str) for holder in _holders(model) for name in _names(holder))
    except UnicodeDecodeError:
        readable = False
    if not readable:
        raise InputError(f"{label} has names that are not UTF-8 (is it damaged?): export the model again")
    _check_functions(model, label)
    if all(_follow(holder) for holder in _holders(model)):
        return model
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    for holder in _holders(copied):
        _sort(holder, label)
    return copied


def loops(model: onnx.ModelProto) -> bool:
    """Whether a model holds a body that takes inputs, and so runs more than once: that may have no end."""
    return any(body.input for holder in _holders(model) for node in holder.node for body in bodies(node))


def _holders(model: onnx.ModelProto) -> Iterator[Holder]:
    """The graph, the functions, and every body in them."""
    waiting: list[Holder] = [model.graph, *model.functions]
    while waiting:
        holder = waiting.pop()
        yield holder
        waiting += (body for node in holder.node for body in bodies(node))


def _check_bodies(model: onnx.ModelProto, label: str) -> None:
    """Branches that hold branches that hold branches double at every step."""
    if sum(1 for _ in _holders(model)) - 1 - len(model.functions) > trusted().nodes:
        raise LimitError(
            f"{label} holds more than {trusted().nodes:g} bodies of If, Loop and Scan: allow more with --limit-nodes"
        )


def _names(holder: Holder) -> Iterator[str]:
    yield holder.name
    if isinstance(holder, onnx.FunctionProto):
        yield from (holder.domain, *holder.input, *holder.output, *holder.attribute)
    else:
        yield from (t.name for t in holder.initializer)
        yield from (t.values.name for t in holder.sparse_initializer)
        for value in (*holder.input, *holder.output, *holder.value_info):
            yield value.name
            yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for node in holder.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


# ---------------------------------------------------------------------------------------------------- order


def _follow(holder: Holder) -> bool:
    """Whether every node comes after those that make what it reads."""
    later = {name for node in holder.node for name in node.output if name}
    for node in holder.node:
        if not later.isdisjoint(_read(node)):
            return False
        later.difference_update(node.output)
    return True


def _read(node: onnx.NodeProto) -> Collection[str]:
    """What a node reads of the graph that it is in, in its bodies too."""
    inner = list(bodies(node))
    return set(node.input).union(*map(_read_outside, inner)) if inner else node.input


def _read_outside(body: onnx.GraphProto) -> set[str]:
    """What a body reads, and the bodies in it, that it does not make itself."""
    read = {output.name for output in body.output}.union(*map(_read, body.node))
    own = [*(value.name for value in body.input), *(tensor.name for tensor in body.initializer)]
    return read.difference(own, *(node.output for node in body.node))


def _sort(holder: Holder, label: str) -> None:
    """Puts nodes after those that make what they read, in place, and else leaves their order as it was."""
    if _follow(holder):
        return
    order = _order(holder.node, label)
    sorted_nodes = [onnx.NodeProto.FromString(holder.node[index].SerializeToString()) for index in order]
    del holder.node[:]
    holder.node.extend(sorted_nodes)


def _order(nodes: Sequence[onnx.NodeProto], label: str) -> list[int]:
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needs = [sorted({makers[name] for name in _read(node) if name in makers}) for node in nodes]
    order: list[int] = []
    state = [0] * len(nodes)  # 1: begun, 2: done
    for first in range(len(nodes)):
        waiting = [first]
        while waiting:
            index = waiting[-1]
            missing = [need for need in needs[index] if state[need] < 2] if state[index] < 2 else []
            if any(state[need] == 1 for need in missing) or index in missing:
                raise InputError(f"{label} goes in circles at {_called(nodes[index])}: export the model again")
            if not missing:
                order += [index] if state[index] < 2 else []
                state[index] = 2
                waiting.pop()
                continue
            state[index] = 1
            waiting.append(missing[0])
    return order


def _called(node: onnx.NodeProto) -> str:
    return node.name or (node.output[0] if node.output else "") or node.op_type


# ---------------------------------------------------------------------------------------------------- functions


def _check_functions(model: onnx.ModelProto, label: str) -> None:
    known = {_identity(function): function for function in model.functions}
    if len(known) < len(model.functions):
        raise InputError(f"{label} defines a function twice: export the model again")
    sizes: dict[tuple[str, str, str], int] = {}
    depths: dict[tuple[str, str, str], int] = {}
    for key in _innermost_first(known, label):
        sizes[key] = _written_out(known[key], sizes)
        depths[key] = 1 + max((depths.get(_identity(node), 0) for node in _all_nodes(known[key])), default=0)
    total = _written_out(model.graph, sizes)
    if known and total > trusted().nodes:
        raise LimitError(
            f"the functions of {label} are written out to more than {trusted().nodes:g} nodes: allow more with "
            "--limit-nodes"
        )
    if max(depths.values(), default=0) > DEEPEST:
        advice = "write them out with onnx.inliner"
        raise InputError(
            f"{label} has functions that nest more than {DEEPEST} deep, which onnxruntime refuses: {advice}"
        )


def _identity(called: onnx.FunctionProto | onnx.NodeProto) -> tuple[str, str, str]:
    name = called.name if isinstance(called, onnx.FunctionProto) else called.op_type
    return called.domain, name, called.overload


def _all_nodes(holder: Holder) -> Iterator[onnx.NodeProto]:
    """The nodes, with those of their bodies."""
    waiting: list[Holder] = [holder]
    while waiting:
        for node in waiting.pop().node:
            yield node
            waiting += bodies(node)


def _written_out(holder: Holder, sizes: dict[tuple[str, str, str], int]) -> int:
    return sum(sizes.get(_identity(node), 1) for node in _all_nodes(holder))


def _innermost_first(
    known: dict[tuple[str, str, str], onnx.FunctionProto], label: str
) -> Iterable[tuple[str, str, str]]:
    """The functions, each after those that it uses. Raises InputError where one uses itself."""
    uses = {key: sorted({_identity(n) for n in _all_nodes(function)} & known.keys()) for key, function in known.items()}
    done: dict[tuple[str, str, str], None] = {}
    for first in known:
        waiting = [first]
        while waiting:
            key = waiting[-1]
            missing = [used for used in uses[key] if used not in done] if key not in done else []
            if not missing:
                done[key] = None
                waiting.pop()
            elif missing[0] in waiting:
                raise InputError(f"{label} has a function that uses itself ({key[1]}): export the model again")
            else:
                waiting.append(missing[0])
    return done
