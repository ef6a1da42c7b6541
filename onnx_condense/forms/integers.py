"""Operators on integers seen as what they stand for: DequantizeLinear, an operator on floats, QuantizeLinear.

QLinearConv and its kind are opened before a model is traced and closed again in what is written, so that no other room
knows them. Formulas: ONNX operator sets 10 (QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger), and the contrib
operators of onnxruntime (com.microsoft).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import prod

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_condense.forms.stack import Entered
from onnx_condense.model.held import numbers
from onnx_condense.model.names import Names
from onnx_condense.model.protos import opset_of

Positions = tuple[int, int | None, int]
"""Positions of an operand, its scale (None: 1) and its zero point among a node's inputs."""


@dataclass(frozen=True)
class Meaning:
    """What an operator stands for.

    op: the operator on floats. operands: in its order; None reads them from the third input on, three each (Concat).
    result: positions of the scale and zero point of the result; None where it is a sum of integers.
    bias: position of int32 numbers in steps of the product of both scales. dropped: attributes that only it has.
    """

    op: str
    operands: tuple[Positions, ...] | None
    result: tuple[int, int] | None
    bias: int | None = None
    dropped: tuple[str, ...] = ()


ONE: tuple[Positions, ...] = ((0, 1, 2),)
TWO: tuple[Positions, ...] = ((0, 1, 2), (3, 4, 5))

MEANINGS: Mapping[tuple[str, str], Meaning] = {
    ("", "QLinearConv"): Meaning("Conv", TWO, (6, 7), bias=8),
    ("", "QLinearMatMul"): Meaning("MatMul", TWO, (6, 7)),
    ("", "ConvInteger"): Meaning("Conv", ((0, None, 2), (1, None, 3)), None),
    ("", "MatMulInteger"): Meaning("MatMul", ((0, None, 2), (1, None, 3)), None),
    ("com.microsoft", "QGemm"): Meaning("Gemm", TWO, (7, 8), bias=6),
    ("com.microsoft", "QLinearAdd"): Meaning("Add", TWO, (6, 7)),
    ("com.microsoft", "QLinearMul"): Meaning("Mul", TWO, (6, 7)),
    ("com.microsoft", "QLinearAveragePool"): Meaning("AveragePool", ONE, (3, 4), dropped=("channels_last",)),
    ("com.microsoft", "QLinearGlobalAveragePool"): Meaning(
        "GlobalAveragePool", ONE, (3, 4), dropped=("channels_last",)
    ),
    ("com.microsoft", "QLinearLeakyRelu"): Meaning("LeakyRelu", ONE, (3, 4)),
    ("com.microsoft", "QLinearSigmoid"): Meaning("Sigmoid", ONE, (3, 4)),
    ("com.microsoft", "QLinearSoftmax"): Meaning("Softmax", ONE, (3, 4), dropped=("opset",)),
    ("com.microsoft", "QLinearConcat"): Meaning("Concat", None, (0, 1)),
}


def enter(entered: Entered) -> Entered:
    """A form in which operators on integers are opened.

    Nodes whose scales are computed, or that the operator set cannot say otherwise, stay closed.
    """
    model = entered.model
    if not any(map(_meaning, model.graph.node)):
        return entered
    found: dict[str, onnx.NodeProto] = {}
    opening = _Opening(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        parts = opening.open(node)
        if parts is not None:
            found[parts[0]] = node
        nodes += [node] if parts is None else parts[1]
    if not found:
        return entered
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(opening.added)
    return entered.then(result, partial(_leave, found, opening.prefix))


def _leave(
    inner: Mapping[str, onnx.NodeProto], prefix: str, model: onnx.ModelProto, traced: onnx.ModelProto
) -> onnx.ModelProto:
    """The model with the nodes that were there, with their new weights.

    inner: name of an inner result -> the node. prefix: of what was made.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(_closed(model.graph.node, inner, prefix))
    for field in (result.graph.initializer, result.graph.value_info):
        for value in [v for v in field if v.name.startswith(prefix)]:
            field.remove(value)  # type: ignore[arg-type]
    return result


def _closed(
    nodes: Sequence[onnx.NodeProto], inner: Mapping[str, onnx.NodeProto], prefix: str
) -> Iterator[onnx.NodeProto]:
    """The nodes of a model with opened ones closed again, and without those that stood around them."""
    makers = {name: node for node in nodes for name in node.output}
    opened = [node for node in nodes if node.output[0] in inner]
    around = {name for node in opened for name in (*node.input, node.output[0]) if name.startswith(prefix)}
    for node in nodes:
        if node.output[0] in inner:
            yield _close(node, inner[node.output[0]], makers)
        elif node.output[0] not in around and not (node.input and node.input[0] in around):
            yield node


def _operands(node: onnx.NodeProto, meaning: Meaning) -> Sequence[Positions]:
    return meaning.operands or [(i, i + 1, i + 2) for i in range(2, len(node.input), 3)]


def _meaning(node: onnx.NodeProto) -> Meaning | None:
    return MEANINGS.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))


def _close(node: onnx.NodeProto, original: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto:
    meaning = _meaning(original)
    assert meaning is not None
    result = onnx.NodeProto()
    result.CopyFrom(original)
    places: list[tuple[int | None, ...]] = [*_operands(original, meaning)]
    if meaning.bias is not None and len(node.input) > 2:
        places.append((meaning.bias,))
    for name, positions in zip(node.input, places, strict=True):
        for position, stored in zip(positions, makers[name].input, strict=False):
            if position is not None and position < len(result.input):
                result.input[position] = stored
    now = {a.name: a for a in node.attribute}
    for attribute in result.attribute:
        if attribute.name in now:
            attribute.CopyFrom(now[attribute.name])
    return result


class _Opening:
    """Opens nodes, one after the other."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.added: list[onnx.TensorProto] = []
        self._opset = opset_of(model.opset_import)
        self._constants = {t.name: t for t in model.graph.initializer}
        self.prefix = Names.of(model.graph).prefix("__opened", "_")
        self._numbers = count()

    def open(self, node: onnx.NodeProto) -> tuple[str, list[onnx.NodeProto]] | None:
        """(name of the inner result, nodes that stand for the node), None where it stays."""
        meaning = _meaning(node)
        attributes = {a.name: a for a in node.attribute}
        if meaning is None or not self._alike(meaning, attributes):
            return None
        floats = self._floats(node, meaning, attributes)
        if floats is None:
            return None
        inner = self._name()
        names = [part.output[0] for part in floats]
        made = helper.make_node(meaning.op, names, [inner], name=node.name or node.output[0])
        made.attribute.extend(a for a in node.attribute if a.name not in meaning.dropped)
        last = self._result(node, meaning, inner)
        return None if last is None else (inner, [*floats, made, last])

    def _floats(
        self, node: onnx.NodeProto, meaning: Meaning, attributes: Mapping[str, onnx.AttributeProto]
    ) -> list[onnx.NodeProto] | None:
        """A node for each operand and the bias that makes floats of it, None where one cannot be said."""
        found, scales = [], []
        for number, (position, scale, zero) in enumerate(_operands(node, meaning)):
            axis = _channel_axis(meaning.op, number, attributes)
            stored = self._one() if scale is None else node.input[scale]
            zeros = node.input[zero] if zero < len(node.input) else ""
            part = self._dequantize(node.input[position], stored, zeros, axis)
            if part is None:
                return None
            found.append(part)
            scales.append(stored)
        if meaning.bias is None or meaning.bias >= len(node.input) or not node.input[meaning.bias]:
            return found
        bias = self._dequantize(node.input[meaning.bias], self._product(*scales), "", 0)
        return None if bias is None else [*found, bias]

    def _alike(self, meaning: Meaning, attributes: Mapping[str, onnx.AttributeProto]) -> bool:
        """Whether the operator on floats has the same meaning with these attributes."""
        if "channels_last" in attributes and attributes["channels_last"].i:
            return False
        if meaning.op == "Gemm" and "alpha" in attributes and attributes["alpha"].f != 1:
            return False
        return "opset" not in attributes or (attributes["opset"].i < 13) == (self._opset < 13)

    def _result(self, node: onnx.NodeProto, meaning: Meaning, inner: str) -> onnx.NodeProto | None:
        if meaning.result is None:
            return helper.make_node("Cast", [inner], list(node.output), to=onnx.TensorProto.INT32)
        names = [node.input[i] if i < len(node.input) else "" for i in meaning.result]
        if not all(name in self._constants for name in names):
            return None
        return helper.make_node("QuantizeLinear", [inner, *names], list(node.output))

    def _dequantize(self, name: str, scale: str, zero: str, axis: int) -> onnx.NodeProto | None:
        known = scale in self._constants and (not zero or zero in self._constants)
        if not known or (prod(self._constants[scale].dims) != 1 and self._opset < 13):
            return None
        inputs = [name, scale, zero] if zero else [name, scale]
        made = helper.make_node("DequantizeLinear", inputs, [self._name()])
        if self._opset >= 13:
            made.attribute.append(helper.make_attribute("axis", axis))
        return made

    def _name(self) -> str:
        return f"{self.prefix}{next(self._numbers)}"

    def _one(self) -> str:
        return self._add(np.ones((), dtype=np.float32))

    def _product(self, one: str, other: str) -> str:
        values = [numbers(self._constants[name]) for name in (one, other)]
        return self._add((values[0].reshape(-1) * values[1].reshape(-1)).astype(np.float32))

    def _add(self, value: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> str:
        tensor = numpy_helper.from_array(value, self._name())
        self.added.append(tensor)
        self._constants[tensor.name] = tensor
        return tensor.name


def _channel_axis(op: str, operand: int, attributes: Mapping[str, onnx.AttributeProto]) -> int:
    """The axis of a weight along which it may have scales."""
    if op == "Conv":
        return 0
    turned = operand == 1 and op == "Gemm" and "transB" in attributes and attributes["transB"].i
    return 0 if turned else 1
