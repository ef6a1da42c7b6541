"""Sums that onnxruntime normalizes in the same node: SkipLayerNormalization, EmbedLayerNormalization."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_condense.forms.pieces import Pieces
from onnx_condense.forms.splitting import DOMAIN, Splitter
from onnx_condense.operators.versions import input_for

EPSILON = 1e-12
"""Of a node that does not state it."""

WORDS, PLACES, SEGMENTS = 2, 3, 4
IDS, SEGMENT_IDS, PLACE_IDS, MASK = 0, 1, 8, 7
GAMMA, BETA = 5, 6


def apart(fused: Splitter) -> Sequence[onnx.NodeProto] | None:
    """input + bias + skip, normalized; the bias stands beside what a matrix makes."""
    node, simplified = fused.node, _is_simplified(fused.node)
    at = 3 if simplified else 4
    if fused.is_read(1) or fused.is_read(2):
        return None
    sides = list(node.input[:2])
    if fused.has(at):
        first = fused.around.makers.get(sides[0]) != "MatMul" and fused.around.makers.get(sides[1]) == "MatMul"
        sides[first] = fused.add("Add", [sides[first], node.input[at]], part="biased")
    data = fused.add("Add", sides, part="sum", named=node.output[3] if len(node.output) > 3 else "")
    _normalize(fused, data, [node.input[2], *([] if simplified or not fused.has(3) else [node.input[3]])])
    return list(fused.finish())


def together(pieces: Pieces) -> onnx.NodeProto | None:
    """From a normalization of a sum of two."""
    node, at = pieces.node, 3 if _is_simplified(pieces.node) else 4
    normalized = pieces.made(node.output[0], _operator(node))
    added = None if normalized is None else pieces.made(normalized.input[0], "Add")
    if normalized is None or added is None or len(added.input) != 2:
        return None
    if len(node.output) > 3 and node.output[3] not in ("", added.output[0]):
        return None
    sides, bias = list(added.input), ""
    for side, name in enumerate(sides) if len(node.input) > at and node.input[at] else ():
        biased = None if name in node.input else pieces.made(name, "Add")
        place = None if biased is None else pieces.weight_of(biased)
        if biased is not None and place is not None and len(pieces.weights[biased.input[place]].dims) == 1:
            sides[side], bias = biased.input[1 - place], biased.input[place]
            break
    parameters = [*normalized.input[1:], "", ""][: at - 2]
    return pieces.again([*sides, *parameters, bias], _epsilon(normalized))


def embedded_apart(fused: Splitter) -> Sequence[onnx.NodeProto] | None:
    """Rows of two or three tables, added up and normalized; and how many places of a mask are 1."""
    node, outputs = fused.node, [*fused.node.output, "", ""]
    counted = outputs[1] if fused.is_read(1) else ""
    if (counted and not fused.has(MASK)) or fused.opset < 10 or fused.has(SEGMENT_IDS) != fused.has(SEGMENTS):
        return None
    if counted:
        _count(fused, counted)
    rows = [fused.add("Gather", [node.input[WORDS], node.input[IDS]], part="words", axis=0)]
    rows.append(_places(fused))
    if fused.has(SEGMENTS):
        rows.append(fused.add("Gather", [node.input[SEGMENTS], node.input[SEGMENT_IDS]], part="segments", axis=0))
    total = rows[0]
    for place, row in enumerate(rows[1:], 2):
        total = fused.add("Add", [total, row], part="sum", named=outputs[2] if place == len(rows) else "")
    _normalize(fused, total, node.input[GAMMA : BETA + 1])
    return list(fused.finish())


def embedded_together(pieces: Pieces) -> onnx.NodeProto | None:
    """From tables that still are what rows are taken from."""
    node = pieces.node
    normalized = pieces.made(node.output[0], _operator(node))
    added = None if normalized is None else pieces.made(normalized.input[0], "Add")
    segments = len(node.input) > SEGMENTS and node.input[SEGMENTS]
    rows = [] if added is None else list(added.input)
    inner = pieces.made(rows[0], "Add") if rows and segments else None
    rows = [*inner.input, *rows[1:]] if inner is not None else rows
    if normalized is None or added is None or len(rows) != (3 if segments else 2):
        return None
    if len(node.output) > 2 and node.output[2] not in ("", added.output[0]):
        return None
    inputs = [*node.input, *[""] * 9][:9]
    for row, table, ids in zip(rows, (WORDS, PLACES, SEGMENTS), (IDS, PLACE_IDS, SEGMENT_IDS), strict=False):
        maker = pieces.made(row, "Slice" if table == PLACES and not inputs[PLACE_IDS] else "Gather")
        if maker is None or maker.input[0] not in pieces.weights:
            return _skipping(node, added, normalized)
        inputs[table] = maker.input[0]
        if maker.op_type == "Gather":
            inputs[ids] = maker.input[1]
    inputs[GAMMA : BETA + 1] = normalized.input[1:3]
    return pieces.again(inputs, _epsilon(normalized))


def _skipping(node: onnx.NodeProto, added: onnx.NodeProto, normalized: onnx.NodeProto) -> onnx.NodeProto:
    """The last sum and its normalization, where a table is something else now."""
    op, inputs, outputs = "SkipLayerNormalization", [*added.input, *normalized.input[1:]], list(node.output[:1])
    if len(node.output) > 2 and node.output[2]:
        outputs += ["", "", node.output[2]]
    result = helper.make_node(op, inputs, outputs, name=node.name, domain=DOMAIN)
    result.attribute.extend(_epsilon(normalized))
    return result


def _is_simplified(node: onnx.NodeProto) -> bool:
    return node.op_type == "SkipSimplifiedLayerNormalization"


def _operator(node: onnx.NodeProto) -> str:
    """What normalizes the sum, in the standard domain; onnxruntime knows it there in every operator set."""
    return "SimplifiedLayerNormalization" if _is_simplified(node) else "LayerNormalization"


def _normalize(fused: Splitter, data: str, parameters: Sequence[str]) -> None:
    stated = fused.attributes.get("epsilon")
    epsilon = EPSILON if stated is None else stated.f
    fused.add(_operator(fused.node), [data, *parameters], axis=-1, epsilon=epsilon)


def _epsilon(normalized: onnx.NodeProto) -> list[onnx.AttributeProto]:
    """What is stated, where it is no default."""
    return [a for a in normalized.attribute if a.name == "epsilon" and a.f != np.float32(EPSILON)]


def _count(fused: Splitter, output: str) -> None:
    """[batch] how many places of the mask are 1."""
    ids = fused.around.shapes.get(fused.node.input[IDS], ())
    if ids:
        fused.around.shapes[output] = ids[:1]
    one = fused.constant(np.array(1, dtype=np.int32), "one")
    ones = fused.add("Equal", [fused.node.input[MASK], one], part="ones")
    counted = fused.add("Cast", [ones], part="counted", to=TensorProto.INT32)
    if input_for("ReduceSum", "axes", fused.opset) is None:
        fused.add("ReduceSum", [counted], named=output, axes=[1], keepdims=0)
    else:
        axes = fused.constant(np.array([1]), "axes")
        fused.add("ReduceSum", [counted, axes], named=output, keepdims=0)


def _places(fused: Splitter) -> str:
    """Rows of the places that are named, or of the first ones."""
    table = fused.node.input[PLACES]
    if fused.has(PLACE_IDS):
        return fused.add("Gather", [table, fused.node.input[PLACE_IDS]], part="places", axis=0)
    first, axis = (fused.constant(np.array([n]), part) for n, part in ((0, "first"), (1, "axis")))
    end = fused.add("Gather", [fused.add("Shape", [fused.node.input[IDS]]), axis], part="end", axis=0)
    return fused.add("Slice", [table, first, end, first], part="places")
