"""Which outputs are classes: that a row's largest element is what a model says is not known of every row of numbers."""

from __future__ import annotations

import onnx

OF_CLASSES = ("Softmax", "LogSoftmax", "Hardmax")
"""Operators that make scores of classes."""

PICK = (*OF_CLASSES, "ArgMax", "TopK")
"""Operators that read scores of classes."""

PASS = ("Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Flatten", "DequantizeLinear", "QuantizeLinear")
"""Operators behind which they are still the same scores."""

WORDS = ("logit", "prob", "class", "label", "score", "softmax")
"""In the name of an output, these say so."""


def class_outputs(model: onnx.ModelProto) -> frozenset[str]:
    """The outputs that are scores of classes, as far as operators or names say so; others may be a regression's."""
    makers = {name: node for node in model.graph.node for name in node.output}
    picked = {name for node in model.graph.node if node.op_type in PICK for name in node.input[:1]}
    return frozenset(o.name for o in model.graph.output if _named(o.name) or _scores(o.name, makers, picked))


def _named(name: str) -> bool:
    return any(word in name.lower() for word in WORDS)


def _scores(name: str, makers: dict[str, onnx.NodeProto], picked: set[str]) -> bool:
    """Whether a tensor is made by, or read by, what works on scores."""
    while True:
        if name in picked:
            return True
        node = makers.get(name)
        if node is None or node.op_type in OF_CLASSES:
            return node is not None
        if node.op_type not in PASS:
            return False
        name = node.input[0]
