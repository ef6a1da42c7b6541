"""What shape inference says of a model's tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from onnx_condense.model.held import byte_count, is_held

NO_TENSOR = -1

Dims = Sequence[int | str | None]
"""Sizes of a tensor's axes: constant, named by a symbol, or unknown."""


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Tensor name -> TensorProto.DataType, as far as shape inference tells; NO_TENSOR for sequences and the like."""
    types = {t.name: t.data_type for t in model.graph.initializer}
    for value in _inferred(model):
        kind = value.type.WhichOneof("value")
        if kind == "tensor_type" and value.type.tensor_type.elem_type:
            types[value.name] = value.type.tensor_type.elem_type
        elif kind is not None and kind != "tensor_type":
            types[value.name] = NO_TENSOR
    return types


def inferred_shapes(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    """Tensor name -> its sizes as far as shape inference tells, None where a size is not constant."""
    return _sizes(_inferred(model))


def symbolic_shapes(model: onnx.ModelProto) -> dict[str, Dims]:
    """Tensor name -> its sizes as far as shape inference tells, by symbols, too."""
    tensors = [(v.name, v.type.tensor_type.shape) for v in _inferred(model) if v.type.tensor_type.HasField("shape")]
    return {
        name: [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in shape.dim]
        for name, shape in tensors
    }


def _sizes(values: Sequence[onnx.ValueInfoProto]) -> dict[str, list[int | None]]:
    tensors = [(v.name, v.type.tensor_type.shape) for v in values if v.type.tensor_type.HasField("shape")]
    return {name: [d.dim_value if d.HasField("dim_value") else None for d in shape.dim] for name, shape in tensors}


def constant_sizes(model: onnx.ModelProto, inputs: Mapping[str, Sequence[int | None]]) -> dict[str, list[int | None]]:
    """Tensor name -> its sizes as far as they follow from sizes of inputs; None where one follows from an unknown one.

    Nothing that the model states is believed; {} where shape inference fails.
    """
    small = _without_weights(model)
    del small.graph.output[:]
    small.graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in model.graph.output)
    for value in small.graph.input:
        if value.name in inputs:
            kind = value.type.tensor_type.elem_type
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, list(inputs[value.name])))
    try:
        graph = onnx.shape_inference.infer_shapes(small, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        return {}
    return _sizes([*graph.value_info, *graph.output, *graph.input])


def _inferred(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    try:
        graph = onnx.shape_inference.infer_shapes(_without_weights(model)).graph
    except (onnx.shape_inference.InferenceError, ValueError):
        graph = model.graph
    return [*graph.value_info, *graph.output, *graph.input]


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy small enough for shape inference: weights of more than a kilobyte are replaced by typed inputs."""
    small = onnx.ModelProto(
        ir_version=max(model.ir_version, 4), opset_import=model.opset_import, functions=model.functions
    )
    small.graph.node.extend(model.graph.node)
    small.graph.output.extend(model.graph.output)
    small.graph.name = model.graph.name
    named = {t.name for t in model.graph.initializer}
    small.graph.input.extend(v for v in model.graph.input if v.name not in named)
    for tensor in model.graph.initializer:
        if _is_small(tensor):
            small.graph.initializer.append(tensor)
        else:
            small.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return small


def _is_small(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor takes at most a kilobyte of the message."""
    many = (is_held(tensor) or tensor.HasField("raw_data")) and byte_count(tensor) > 1024
    return not many and tensor.ByteSize() <= 1024
