"""The feeds that a model is traced and verified on, from what its inputs and its weights say."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from onnx_condense.model.inputs import InputSpec, input_specs
from onnx_condense.operators.queries import embedding_rows, expected_sizes


def model_specs(model: onnx.ModelProto, graph: gs.Graph) -> list[InputSpec]:
    """The inputs of a model, with the vocabulary of integers that index a table, and the sizes that weights imply."""
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    rows = {name: shape[0] for name, shape in shapes.items() if shape}
    integers = [spec.name for spec in input_specs(model) if spec.dtype.kind in "iu"]
    tables = {name: embedding_rows(graph.nodes, name, rows) for name in integers}
    specs = input_specs(model, {name: count for name, count in tables.items() if count})
    return [spec.with_sizes(expected_sizes(graph.nodes, spec.name, shapes)) for spec in specs]
