"""Which tensor of a module is which initializer of its ONNX file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from weakref import WeakKeyDictionary

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_condense.arrays import Array
from onnx_condense.errors import InputError
from onnx_condense.model.files import Model, load
from onnx_condense.pytorch.graph import Graph
from onnx_condense.pytorch.need import Module, torch

STATISTICS = ("num_batches_tracked",)
"""Tensors of a module that no file holds, by the end of their names."""

SHRUNKEN: WeakKeyDictionary[Module, State] = WeakKeyDictionary()
"""Modules that were shrunk in this process -> the names that were found then, while they had their first weights."""


@dataclass(frozen=True)
class State:
    """The tensors of an ONNX file under the names that a module has for them.

    Attributes:
        arrays: name in the module -> array.
        initializers: name in the module -> name in the file; transposed ones are stored as [inputs, outputs].
        transposed: names in the module whose initializers are transposed.
        groups: path of a layer -> its groups (1 for all but grouped convolutions).
    """

    arrays: Mapping[str, Array]
    initializers: Mapping[str, str]
    transposed: frozenset[str] = frozenset()
    groups: Mapping[str, int] = field(default_factory=dict)


def state_of(condensed: Model, module: torch.nn.Module | None = None, original: Model | None = None) -> State:
    """Reads a file by the names of its initializers, which exporters take from the module's parameters.

    Weights that an exporter renamed (a Linear layer that became a MatMul has its weight transposed, under a new name)
    are found by their values, where `original` is the file that was condensed and `module` still has its weights;
    those that the graph itself reshapes or transposes (slopes of a PReLU) are followed there.

    Raises InputError when a file cannot be read.
    """
    proto = load(condensed, hold=False).proto
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    renamed = {} if module is None or original is None else _renamed(module, load(original, hold=False).proto)
    names = {initializer: name for name, (initializer, _) in renamed.items()}
    turned = {name for name, (_, is_turned) in renamed.items() if is_turned}
    for initializer, name, is_turned in () if original is None else _computed(load(original, hold=False).proto):
        if initializer in stored:
            names[initializer] = name
            turned |= {name} if is_turned else set()
    for initializer in stored:
        names.setdefault(initializer, initializer)
    groups: dict[str, int] = {}
    for node in proto.graph.node:
        weight = names.get(node.input[1], "") if len(node.input) > 1 else ""
        path, _, last = weight.rpartition(".")
        if last != "weight":
            continue
        groups[path] = next((a.i for a in node.attribute if a.name == "group"), 1)
        if len(node.input) == 3 and node.input[2] in stored:
            names[node.input[2]] = f"{path}.bias"
    arrays = {names[i]: numpy_helper.to_array(tensor) for i, tensor in stored.items()}
    arrays = {name: value.T if name in turned else value for name, value in arrays.items()}
    ranks = {} if module is None else {name: tensor.ndim for name, tensor in module.state_dict().items()}
    arrays = {n: value.reshape(-1) if ranks.get(n) == 1 else value for n, value in arrays.items()}
    return State(arrays, {names[i]: i for i in stored}, frozenset(turned), groups)


def _renamed(module: torch.nn.Module, original: onnx.ModelProto) -> dict[str, tuple[str, bool]]:
    """Name in the module -> the initializer of equal values, and whether it is transposed."""
    wanted = {n: t.detach().cpu().numpy() for n, t in module.state_dict().items()}
    stored = {t.name: numpy_helper.to_array(t) for t in original.graph.initializer}
    found: dict[str, tuple[str, bool]] = {}
    for name, value in wanted.items():
        if name in stored or value.ndim == 0:
            continue
        for initializer, other in stored.items():
            if initializer in wanted or other.dtype != value.dtype:
                continue
            if np.array_equal(other, value):
                found[name] = (initializer, False)
            elif value.ndim == 2 and np.array_equal(other.T, value):
                found[name] = (initializer, True)
    return found


def _computed(original: onnx.ModelProto) -> Iterator[tuple[str, str, bool]]:
    """(name that a condensed file may have, initializer, whether transposed) of what is moved before it is used."""
    stored = {tensor.name: len(tensor.dims) for tensor in original.graph.initializer}
    for node in original.graph.node:
        source = node.input[0] if node.input else ""
        is_turned = node.op_type == "Transpose" and stored.get(source) == 2
        if source in stored and (is_turned or node.op_type in ("Reshape", "Unsqueeze")):
            yield from ((name, source, is_turned) for name in (node.output[0], f"{node.output[0]}_condensed"))


def trained(module: torch.nn.Module, state: State) -> Iterator[tuple[str, Array]]:
    """(initializer, array) of all tensors of a module, in the shapes that the file has for them.

    Raises InputError for a parameter that the file does not hold.
    """
    if isinstance(module, Graph):
        yield from ((name, tensor.detach().cpu().numpy()) for name, tensor in module.tensors())
        return
    held = {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}
    lost = [name for name in held if name not in state.initializers and not name.endswith(STATISTICS)]
    if lost:
        raise InputError(f"{lost[0]} is not in the file: was the module shrunk to it, and is `state` what it needs?")
    for name, value in held.items():
        if name in state.initializers:
            yield state.initializers[name], value.T if name in state.transposed else value


def written_back(module: torch.nn.Module, condensed: Model, state: State | None = None) -> onnx.ModelProto:
    """The condensed model with a module's tensors: the same graph and names, as `auto` and `--replay` want them.

    Args:
        module: that `shrink` or `load_state_dict` made, or `to_module` read.
        condensed: the file that it was shrunk to.
        state: what `state_of` found before shrinking, where `original` was needed and `shrink` ran in another process.

    Raises InputError when a tensor of the module has another shape than in the file.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(load(condensed, hold=False).proto)
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    for initializer, value in trained(module, state or SHRUNKEN.get(module) or state_of(condensed)):
        tensor = stored[initializer]
        if prod(tensor.dims) != value.size:
            raise InputError(f"{initializer} has shape {list(tensor.dims)} in the file and {list(value.shape)} here")
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        tensor.CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(value, dtype=kind).reshape(tensor.dims), initializer)
        )
    return proto
