"""A model with other nodes and constants, equal to the one that it was made from wherever nothing was rewritten."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_condense.arrays import Array, Shape
from onnx_condense.model.held import Spill
from onnx_condense.model.parts import needed
from onnx_condense.model.protos import names_read, read_by, still_read, unused

Sizes = tuple[int | None, ...]
"""Sizes of axes, None of those that stay what they are. No axes at all: the shape is not known any more."""

Part = tuple[Collection[str], Collection[str]]
"""Tensors that a part of a model computes, and those that are known before it."""


class Content(Protocol):
    """The numbers of a constant, which may be computed when they are asked for."""

    @property
    def shape(self) -> Shape:
        """Sizes of its axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its numbers."""

    def __array__(self) -> Array: ...


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """What a model is made of, before it is a message.

    original: the message that it is made from. whole: the nodes in order, those that nobody reads any more among them.
    constants: name -> numbers, of new constants and of those that changed.
    """

    original: onnx.ModelProto
    whole: Sequence[onnx.NodeProto]
    constants: Mapping[str, Content]

    @cached_property
    def _read_before(self) -> set[str]:
        return names_read(self.original.graph)

    @cached_property
    def _outputs(self) -> set[str]:
        return {output.name for output in self.original.graph.output}

    @cached_property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes that are still read."""
        return still_read(self.whole, self._outputs, self._read_before)

    @cached_property
    def _used(self) -> set[str]:
        return read_by(self.nodes) | self._outputs

    @cached_property
    def _known(self) -> set[str]:
        graph = self.original.graph
        return {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}

    def tensors(self) -> Iterator[tuple[onnx.TensorProto, Content | None]]:
        """The initializers that are read or that a caller may set: what each was, and what is new of it; in order."""
        unread = {t.name for t in unused(self.original)}
        for tensor in self.original.graph.initializer:
            if tensor.name in self._used or (tensor.name not in self._read_before and tensor.name not in unread):
                yield tensor, self.constants.get(tensor.name)

    @cached_property
    def _sparse(self) -> list[onnx.SparseTensorProto]:
        return [t for t in self.original.graph.sparse_initializer if t.values.name in self._used]

    def added(self) -> Iterator[tuple[str, Content]]:
        """The initializers that are new, in the order in which they are read first."""
        for name in dict.fromkeys(name for node in self.whole for name in node.input):
            if name in self.constants and name not in self._known and name in self._used:
                yield name, self.constants[name]

    def sizes(self) -> Iterator[tuple[str, Shape, int]]:
        """(name, shape, type) of every initializer; of a sparse one its numbers that are not zero."""
        for tensor, content in self.tensors():
            yield tensor.name, *(_described(content) if content is not None else (tuple(tensor.dims), tensor.data_type))
        for name, content in self.added():
            yield name, *_described(content)
        for sparse in self._sparse:
            yield sparse.values.name, tuple(sparse.values.dims), sparse.values.data_type

    def message(
        self, shapes: Mapping[str, Sizes], provenance: Mapping[str, Any], spill: Spill | None = None
    ) -> onnx.ModelProto:
        """The model.

        Args:
            shapes: of the tensors that became smaller, for value_info.
            provenance: what goes into metadata_props.
            spill: takes large weights that are new; without one they are in the message.
        """
        result = onnx.ModelProto()
        result.CopyFrom(self.original)
        graph = result.graph
        del graph.node[:]
        graph.node.extend(self.nodes)
        self._write_initializers(result, spill)
        _update_value_info(graph, shapes)
        for key, value in provenance.items():
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            _set_metadata(result, f"onnx_condense.{key}", text)
        return result

    def parts(self, shapes: Mapping[str, Sizes], wanted: Sequence[Part]) -> onnx.ModelProto:
        """The model with all its nodes, of whose weights only those are there that some parts of it need."""
        result = onnx.ModelProto(ir_version=self.original.ir_version)
        result.opset_import.extend(self.original.opset_import)
        result.functions.extend(self.original.functions)
        graph, old = result.graph, self.original.graph
        graph.name = old.name
        graph.node.extend(self.nodes)
        graph.input.extend(old.input)
        graph.output.extend(old.output)
        graph.value_info.extend(old.value_info)
        nodes = [node for names, known in wanted for node in needed(result, names, known)]
        asked = read_by(nodes).union(*(names for names, _ in wanted))
        self._write_initializers(result, None, asked)
        _update_value_info(graph, shapes)
        return result

    def _write_initializers(
        self, result: onnx.ModelProto, spill: Spill | None, asked: Collection[str] | None = None
    ) -> None:
        """Keeps the order and the bytes of what stays, replaces what changed, appends what is new.

        asked: names of those that are written alone; None for all.
        """
        graph = result.graph
        del graph.initializer[:], graph.sparse_initializer[:]
        graph.sparse_initializer.extend(self._sparse)
        for tensor, content in self.tensors():
            if asked is not None and tensor.name not in asked:
                continue
            if content is None:
                graph.initializer.append(tensor)
                continue
            replaced = _tensor(tensor.name, content, spill)
            replaced.doc_string = tensor.doc_string
            graph.initializer.append(replaced)
        kept = {t.name for t in graph.initializer} | {t.values.name for t in self._sparse}
        for name, content in self.added():
            if asked is not None and name not in asked:
                continue
            tensor = _tensor(name, content, spill)
            graph.initializer.append(tensor)
            if result.ir_version < 4:  # every initializer had to be an input too
                graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
        _update_inputs(graph, self._known - kept)


def _tensor(name: str, content: Content, spill: Spill | None) -> onnx.TensorProto:
    value = np.asarray(content)
    held = spill.keep(name, value) if spill is not None else None
    return numpy_helper.from_array(value, name) if held is None else held


def _described(content: Content) -> tuple[Shape, int]:
    return content.shape, onnx.helper.np_dtype_to_tensor_dtype(content.dtype)


def _update_inputs(graph: onnx.GraphProto, stale: Collection[str]) -> None:
    """Initializers that are inputs too go with them, and have their sizes."""
    for value in [i for i in graph.input if i.name in stale]:
        graph.input.remove(value)
    sizes = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in graph.input:
        if value.name in sizes:
            _set_dims(value, sizes[value.name])


def _update_value_info(graph: onnx.GraphProto, shapes: Mapping[str, Sizes]) -> None:
    produced = {name for node in graph.node for name in node.output}
    kept = [value for value in graph.value_info if value.name in produced]
    initializers = {t.name: tuple(t.dims) for t in graph.initializer}
    kept += [value for value in graph.value_info if value.name in initializers]
    for value in kept:
        shape = shapes.get(value.name, initializers.get(value.name))
        if shape is not None:
            _set_dims(value, shape)
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del graph.value_info[:]
    graph.value_info.extend(copies)


def _set_dims(value: onnx.ValueInfoProto, shape: Sizes) -> None:
    """Corrects the stated sizes of axes that change; symbolic ones stay, a wrong rank is dropped, not repeated."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return
    if len(tensor.shape.dim) != len(shape):
        tensor.ClearField("shape")
        return
    for dim, size in zip(tensor.shape.dim, shape, strict=True):
        if size is not None and dim.HasField("dim_value"):
            dim.dim_value = size


def _set_metadata(model: onnx.ModelProto, key: str, value: str) -> None:
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value
            return
    model.metadata_props.add(key=key, value=value)
