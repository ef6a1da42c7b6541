"""An ONNX graph as a torch module, for those who have no module: weights train, names stay."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_condense.errors import InputError
from onnx_condense.model.files import Model, load
from onnx_condense.model.protos import opset_of
from onnx_condense.pytorch.need import torch
from onnx_condense.pytorch.operators import OPERATORS, STATISTICS, Call


class Graph(torch.nn.Module):
    """The nodes of a graph, run in order.

    Floating-point initializers of more than one number are parameters, BatchNormalization's statistics and all others
    are buffers. `torch_name` says under which name one is held: dots are not allowed there.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        graph = model.graph
        self.opset = opset_of(model.opset_import)
        self.nodes = list(graph.node)
        self.initializers = [tensor.name for tensor in graph.initializer]
        self.inputs = [value.name for value in graph.input if value.name not in self.initializers]
        self.outputs = [value.name for value in graph.output]
        self.attributes = [{a.name: helper.get_attribute_value(a) for a in node.attribute} for node in graph.node]
        updated = {node.input[i] for node in graph.node for i in STATISTICS.get(node.op_type, ())}
        for tensor in graph.initializer:
            value = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
            if value.is_floating_point() and value.numel() > 1 and tensor.name not in updated:
                self.register_parameter(torch_name(tensor.name), torch.nn.Parameter(value))
            else:
                self.register_buffer(torch_name(tensor.name), value)

    def forward(self, *given: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The outputs, in the graph's order; a single one alone. Raises InputError for what torch cannot run."""
        values: dict[str, torch.Tensor] = dict(zip(self.inputs, given, strict=True))
        values |= {name: getattr(self, torch_name(name)) for name in self.initializers}
        for node, attributes in zip(self.nodes, self.attributes, strict=True):
            inputs = [values[name] if name else None for name in node.input]
            call = Call(node.name, node.op_type, attributes, inputs, len(node.output), self.opset, self.training)
            found = OPERATORS[node.op_type](call)
            values |= zip(node.output, found if isinstance(found, tuple) else [found], strict=False)
        outputs = tuple(values[name] for name in self.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name in the file, tensor) of every initializer."""
        for name in self.initializers:
            yield name, getattr(self, torch_name(name))


def torch_name(name: str) -> str:
    """The name under which an initializer is held."""
    return "initializer_" + name.replace(".", "\N{MIDDLE DOT}")


def to_module(model: Model) -> Graph:
    """Reads a model as a torch module; in evaluation mode it computes what onnxruntime does.

    Raises InputError for operators that are not among `OPERATORS`, local functions, and other domains than ONNX's.
    """
    proto = load(model, hold=False).proto
    refused = sorted(
        {n.op_type for n in proto.graph.node if n.domain not in ("", "ai.onnx") or n.op_type not in OPERATORS}
    )
    if refused or proto.functions:
        what = ", ".join(refused) or "local functions"
        raise InputError(f"this model cannot be read as a PyTorch module ({what}): pass the module itself to `shrink`")
    graph = Graph(proto)
    graph.eval()
    return graph
