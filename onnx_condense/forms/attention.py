"""The Attention of onnxruntime: a projection, and the MultiHeadAttention of its parts."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from onnx_condense.forms.pieces import Pieces, trimmed
from onnx_condense.forms.splitting import DOMAIN, Splitter

SHARED = ("num_heads", "scale", "mask_filter_value", "unidirectional")
"""Attributes that both operators have."""

INPUT, WEIGHTS, BIAS, MASK, PAST, ADDED = range(6)


def apart(fused: Splitter) -> Sequence[onnx.NodeProto] | None:
    """Of constant weights, without caches and rotations, whose mask means the same to both operators."""
    node, known = fused.node, {a.name: helper.get_attribute_value(a) for a in fused.node.attribute}
    sizes = _sizes(fused, known.get("qkv_hidden_sizes"))
    if sizes is None or known.get("do_rotary") or not known.get("num_heads") or not _mask_fits(fused):
        return None
    given = [node.input[place] if fused.has(place) else "" for place in range(6)]
    data = fused.add("MatMul", [given[INPUT], given[WEIGHTS]])
    if given[BIAS]:
        data = fused.add("Add", [data, given[BIAS]])
    shared = {name: value for name, value in known.items() if name in SHARED}
    inputs = [*fused.split(data, sizes), "", given[MASK], given[ADDED]]
    fused.add("MultiHeadAttention", trimmed(inputs), DOMAIN, **shared)
    return list(fused.finish())


def _sizes(fused: Splitter, stated: Sequence[int] | None) -> list[int] | None:
    """How many channels queries, keys and values have; None where more than constant weights of so many makes them."""
    if any(fused.has(place) for place in (PAST, 6)) or fused.is_read(1):
        return None
    weights = fused.weight(WEIGHTS)
    if weights is None or len(weights.dims) != 2 or (fused.has(BIAS) and fused.weight(BIAS) is None):
        return None
    sizes = list(stated) if stated else [weights.dims[1] // 3] * 3
    return sizes if len(sizes) == 3 and sum(sizes) == weights.dims[1] else None


def _mask_fits(fused: Splitter) -> bool:
    """Whether a mask has a row for each of the batch, or as many places as that has; ends and starts are no keys."""
    if not fused.has(MASK):
        return True
    shape = fused.around.shapes.get(fused.node.input[MASK], ())
    return len(shape) in (2, 3) or (len(shape) == 1 and shape[0] is not None and shape[0] == fused.around.batch)


def together(pieces: Pieces) -> onnx.NodeProto | None:
    """From a MultiHeadAttention whose queries, keys and values are, in turn, parts of one projection."""
    attending = pieces.made(pieces.node.output[0], "MultiHeadAttention")
    split = None if attending is None else pieces.made(attending.input[0], "Split")
    if attending is None or split is None or list(split.output) != list(attending.input[:3]):
        return None
    data, bias = split.input[0], ""
    added = pieces.made(data, "Add")
    place = None if added is None else pieces.weight_of(added)
    if added is not None and place is not None:
        data, bias = added.input[1 - place], added.input[place]
    projected = pieces.made(data, "MatMul")
    if projected is None or pieces.weight_of(projected) != 1:
        return None
    sizes, beside = _parts(pieces, split, projected.input[1]), [*attending.input[4:6], "", ""]
    if sizes is None or (bias and list(pieces.weights[bias].dims) != [sum(sizes)]):
        return None
    before = {a.name: a for a in pieces.node.attribute}
    changed = [a for a in attending.attribute if a.name == "scale" or (a.name == "num_heads" and a != before[a.name])]
    if len(set(sizes)) > 1 or any(a.name == "qkv_hidden_sizes" for a in pieces.node.attribute):
        changed.append(helper.make_attribute("qkv_hidden_sizes", sizes))
    return pieces.again([projected.input[0], projected.input[1], bias, beside[0], "", beside[1]], changed)


def _parts(pieces: Pieces, split: onnx.NodeProto, weights: str) -> list[int] | None:
    """The sizes of the parts of a projection."""
    stated = [list(a.ints) for a in split.attribute if a.name == "split"]
    if len(split.input) > 1:
        stated = [pieces.integers(split.input[1])]
    whole = pieces.weights[weights].dims[-1]
    sizes = stated[0] if stated else [whole // 3] * 3
    return sizes if sum(sizes) == whole else None
