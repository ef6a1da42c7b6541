"""Runs a part of a model: the only way to look at the tensors inside it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from onnx_condense.arrays import Array
from onnx_condense.model.inputs import Feed
from onnx_condense.model.protos import read_by
from onnx_condense.model.runtime import packs, run, session, to_bytes

MANY = 500
"""Outputs of a part above which onnxruntime runs it as it stands: at each node that it would rewrite, it looks through
all of them."""


def needed(model: onnx.ModelProto, names: Iterable[str], known: Collection[str] = ()) -> list[onnx.NodeProto]:
    """The nodes that compute some tensors of a model from those that are known."""
    makers = {output: node for node in model.graph.node for output in node.output if output}
    found: set[int] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        node = makers.get(name) if name not in known else None
        if node is not None and id(node) not in found:
            found.add(id(node))
            waiting += read_by([node])
    return [node for node in model.graph.node if id(node) in found]


def prefix(model: onnx.ModelProto, names: Sequence[str], known: Collection[str] = ()) -> onnx.ModelProto:
    """The part of a model that computes some of its tensors, from those that are known; they are its outputs."""
    nodes = needed(model, names, known)
    read = {value.name for value in model.graph.input} | set(names) | read_by(nodes)
    graph = onnx.GraphProto(
        name=model.graph.name,
        node=nodes,
        input=model.graph.input,
        output=[onnx.ValueInfoProto(name=name) for name in names],
        value_info=model.graph.value_info,
        initializer=[tensor for tensor in model.graph.initializer if tensor.name in read],
        sparse_initializer=[t for t in model.graph.sparse_initializer if t.values.name in read],
    )
    opsets, functions = model.opset_import, model.functions
    return onnx.ModelProto(ir_version=model.ir_version, opset_import=opsets, functions=functions, graph=graph)


def _without_unread(part: onnx.ModelProto) -> onnx.ModelProto:
    """A part without inputs that nothing in it reads: onnxruntime asks for all of them that have no default."""
    read = read_by(part.graph.node) | {value.name for value in part.graph.output}
    read |= {tensor.name for tensor in part.graph.initializer}
    inputs = [value for value in part.graph.input if value.name in read]
    del part.graph.input[:]
    part.graph.input.extend(inputs)
    return part


def with_inputs(part: bytes, known: Mapping[str, Array]) -> onnx.ModelProto:
    """A part of a model with inputs of these types, of any shape, and no others but those that have a default."""
    model = onnx.ModelProto.FromString(part)
    defaults = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name in defaults]
    for name, value in known.items():
        inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None))
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


@dataclass(frozen=True)
class Probe:
    """The part of a model that computes some of its tensors, as bytes: a worker in another process can run it.

    names: the tensors. given: which of them are inputs of the model. part: "" where all are. optimize: whether
    onnxruntime may write the part in another way before it runs it. packs: whether it may copy weights for its kernels.
    """

    names: tuple[str, ...]
    given: frozenset[str]
    part: bytes
    optimize: bool = True
    packs: bool = True

    @staticmethod
    def of(model: onnx.ModelProto, names: Sequence[str], optimize: bool = True) -> Probe:
        """Raises InputError where the part is larger than protobuf allows."""
        inputs = {value.name for value in model.graph.input}
        inner = [name for name in dict.fromkeys(names) if name not in inputs]
        part = to_bytes(_without_unread(prefix(model, inner))) if inner else b""
        optimize &= len(inner) <= MANY
        return Probe(tuple(dict.fromkeys(names)), frozenset(inputs), part, optimize, packs(model))

    def __call__(self, feeds: Iterable[Feed]) -> Iterator[Mapping[str, Array]]:
        """The values of the tensors, feed by feed. Raises InputError."""
        active = session(self.part, self.optimize, packed=self.packs) if self.part else None
        read = {value.name for value in active.get_inputs()} if active is not None else set()
        inner = [name for name in self.names if name not in self.given]
        for feed in feeds:
            known = {name: feed[name] for name in self.names if name in self.given}
            fed = {name: value for name, value in feed.items() if name in read}
            found = run(active, inner, fed) if active is not None else []
            yield known | dict(zip(inner, found, strict=True))


def observe(
    model: onnx.ModelProto, names: Sequence[str], feeds: Iterable[Feed], optimize: bool = True
) -> Iterator[Mapping[str, Array]]:
    """The values of tensors inside a model, of any shape, feed by feed. Raises InputError."""
    return Probe.of(model, names, optimize)(feeds)
