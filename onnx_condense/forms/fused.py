"""Fused operators that onnxruntime's optimizer writes, taken apart into the operators that they fuse.

Exact: the parts are what was fused (operators of com.microsoft, version 1), and onnxruntime fuses them again when it
loads the model. So no other room knows a linear map with an activation in one node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnx_condense.forms.splitting import DOMAIN, Around, Splitter
from onnx_condense.forms.stack import for_good
from onnx_condense.model.names import Names
from onnx_condense.model.protos import opset_of

PARAMETERS: Mapping[str, Sequence[str]] = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "Softplus": (),
    "Softsign": (),
    "LeakyRelu": ("alpha",),
    "Elu": ("alpha",),
    "ThresholdedRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Selu": ("alpha", "gamma"),
    "Clip": ("min", "max"),
}
"""Activation -> the names of its numbers, in the order of `activation_params`."""

UNLIMITED = {"min": float(np.finfo(np.float32).min), "max": float(np.finfo(np.float32).max)}
"""Bounds of a Clip that are not stated."""

ENDS = ("Constant", "Constant_0")
"""What the names of the bounds of a Clip end in."""


def unfuse(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model without fused operators, its tensors named as before; the model itself where there is none."""
    if not any(_is_fused(node) for node in model.graph.node):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    opset = opset_of(model.opset_import)
    around = Around(opset, Names.of(model.graph), Names.of_nodes(model.graph))
    del result.graph.node[:]
    for node in model.graph.node:
        result.graph.node.extend(PARTS[node.op_type](Splitter(node, around)) if _is_fused(node) else [node])
    return result


enter = for_good(unfuse)


def _is_fused(node: onnx.NodeProto) -> bool:
    alone = node.op_type == "FastGelu" and len(node.input) < 2
    return node.domain == DOMAIN and node.op_type in PARTS and not alone and _activation(node) in (None, *PARAMETERS)


def _activation(node: onnx.NodeProto) -> str | None:
    return next((a.s.decode() for a in node.attribute if a.name == "activation"), None)


def _activate(fused: Splitter, data: str, numbers: Mapping[str, float]) -> None:
    """The activation, with those of its numbers that are stated."""
    op = _activation(fused.node)
    if op is None:
        return
    if op != "Clip" or fused.opset < 11:
        stated: dict[str, Any] = {**numbers}
        fused.add(op, [data], **stated)
        return
    limits = [numbers.get(end, limit) for end, limit in UNLIMITED.items()]
    bounds = [fused.add("Constant", [], part=part, value_float=x) for part, x in zip(ENDS, limits, strict=True)]
    fused.add(op, [data, *bounds])


def _conv(fused: Splitter) -> Iterator[onnx.NodeProto]:
    """FusedConv: activation(Conv(X, W, B) + Z)."""
    data = fused.like("Conv", fused.node.input[: 3 if fused.has(2) else 2])
    if fused.has(3):
        data = fused.add("Add", [data, fused.node.input[3]])
    stated = fused.attributes.get("activation_params")
    names = PARAMETERS[_activation(fused.node) or "Relu"]
    _activate(fused, data, dict(zip(names, stated.floats if stated is not None else (), strict=False)))
    return fused.finish()


def _gemm(fused: Splitter) -> Iterator[onnx.NodeProto]:
    """FusedGemm: activation(Gemm(A, B, C)); the activation's attributes follow "activation_"."""
    data = fused.like("Gemm", fused.node.input)
    names = PARAMETERS[_activation(fused.node) or "Relu"]
    stated = {name: fused.attributes.get(f"activation_{name}") for name in names}
    _activate(fused, data, {name: value.f for name, value in stated.items() if value is not None})
    return fused.finish()


def _biased(op: str) -> Callable[[Splitter], Iterator[onnx.NodeProto]]:
    """A function of X + B."""

    def parts(fused: Splitter) -> Iterator[onnx.NodeProto]:
        fused.add(op, [fused.add("Add", fused.node.input[:2])], DOMAIN)
        return fused.finish()

    return parts


PARTS: Mapping[str, Callable[[Splitter], Iterator[onnx.NodeProto]]] = {
    "FusedConv": _conv,
    "FusedGemm": _gemm,
    "BiasGelu": _biased("Gelu"),
    "FastGelu": _biased("FastGelu"),
}
