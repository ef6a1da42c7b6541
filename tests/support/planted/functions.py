"""Planted cases of functions, and of what they are chosen by."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from support.planted.cases import (
    ABSOLUTE,
    ALWAYS,
    HOMOGENEOUS,
    LINEAR,
    ODD,
    UNSHIFTED,
    PlantedMiddle,
    apply,
    conv_case,
    dense_case,
    then,
)
from support.planted.net import Net


def _calm(net: Net, data: str, relation: str) -> str:
    """Between -0.9 and 0.9."""
    return net.node("Mul", net.node("Softsign", data), net.constant(0.9))


def _flagged(op: str, first: PlantedMiddle) -> PlantedMiddle:
    """Whether a function of a channel is no number, as 0 or 1."""
    return lambda net, data, relation: net.node("Cast", net.node(op, first(net, data, relation)), to=TensorProto.FLOAT)


def _functions() -> None:
    for op in ("Identity", "Dropout", "Neg"):
        dense_case(op, LINEAR, apply(op))
    dense_case("Cast", LINEAR, lambda n, x, _: n.node("Cast", n.node("Cast", x, to=11), to=1), "double")
    dense_case("Cast", ALWAYS, lambda n, x, _: n.node("Cast", n.node("Cast", x, to=7), to=1), "integer")
    for op in ("Relu", "LeakyRelu"):
        dense_case(op, HOMOGENEOUS, apply(op))
        conv_case(op, HOMOGENEOUS, apply(op), "conv", side=3, pads=(1, 1, 1, 1))
    dense_case("Abs", ABSOLUTE, apply("Abs"))
    for op in ("Tanh", "Erf", "Softsign", "Atan", "Sin", "Sinh", "Asinh", "Shrink"):
        dense_case(op, ODD, apply(op))
    for op in ("Asin", "Atanh", "Tan"):
        dense_case(op, ODD, then(_calm, op))
    dense_case("Acos", ALWAYS, then(_calm, "Acos"))
    dense_case("Acosh", ALWAYS, then(then(apply("Abs"), "Exp"), "Acosh"), silent="opposite")
    dense_case("Cosh", ALWAYS, apply("Cosh"), silent="opposite")
    dense_case("Round", ODD, then(apply("Mul", 3.0), "Round"))
    for op in ("Floor", "Ceil"):
        dense_case(op, ALWAYS, then(apply("Mul", 3.0), op))
    dense_case("Mod", ALWAYS, apply("Mod", 1.5, fmod=1), silent="opposite")
    others = "dead scaled opposite negative shifted"
    dense_case("IsNaN", ALWAYS, _flagged("IsNaN", apply("Log")), silent=others)
    dense_case("IsInf", ALWAYS, _flagged("IsInf", then(apply("Mul", 60.0), "Exp")), silent=others)
    dense_case("Clip", HOMOGENEOUS, apply("Clip", 0.0), "relu")
    dense_case("Clip", HOMOGENEOUS, lambda n, x, _: n.node("Clip", x, "", n.constant(0.0)), "below zero")
    dense_case("Clip", ALWAYS, apply("Clip", 0.0, 6.0), "relu6")
    dense_case("Clip", ODD, apply("Clip", -0.5, 0.5), "symmetric")
    dense_case("Clip", ALWAYS, apply("Clip", -0.5, 0.7), "asymmetric")
    dense_case("Clip", ALWAYS, apply("Clip", min=0.0, max=6.0), "attributes", opset=9)
    dense_case("Clip", LINEAR, apply("Clip"), "without bounds")
    for op, opset in (
        ("Elu", 17), ("Celu", 17), ("Selu", 17), ("Gelu", 20), ("HardSwish", 17), ("Swish", 24), ("Mish", 18),
        ("Softplus", 17), ("ThresholdedRelu", 17), ("Sigmoid", 17), ("HardSigmoid", 17), ("Exp", 17),
    ):  # fmt: skip
        dense_case(op, ALWAYS, apply(op), opset=opset)
    dense_case("Cos", ALWAYS, apply("Cos"), silent="opposite")
    dense_case("Sign", ALWAYS, apply("Sign"), silent="scaled opposite negative")
    for op in ("Log", "Sqrt", "Reciprocal"):
        dense_case(op, ALWAYS, apply(op), silent="dead scaled opposite negative", positive=True)
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        conv_case(op, ALWAYS, apply(op, axis=-1), silent="shifted dead opposite")


def _mask(op: str, *, negated: bool = False) -> PlantedMiddle:
    """Whether a channel is above (or below, ...) a number, as 0 or 1."""

    def middle(net: Net, data: str, relation: str) -> str:
        if op == "Equal":
            data, number = net.node("Cast", data, to=TensorProto.INT64), net.constant(np.array(0))
        else:
            number = net.constant(0.25)
        mask = net.node(op, data, number)
        mask = net.node("Not", mask) if negated else mask
        return net.node("Cast", mask, to=TensorProto.FLOAT)

    return middle


def _logical(op: str) -> PlantedMiddle:
    above, below = (0.75, 0.25) if op == "Or" else (0.25, 0.75)

    def middle(net: Net, data: str, relation: str) -> str:
        one, other = net.node("Greater", data, net.constant(above)), net.node("Less", data, net.constant(below))
        return net.node("Cast", net.node(op, one, other), to=TensorProto.FLOAT)

    return middle


def _where(net: Net, data: str, relation: str) -> str:
    """x above a number, else a tenth of it: a ThresholdedRelu with a tail."""
    mask = net.node("Greater", data, net.constant(0.25))
    return net.node("Where", mask, data, net.node("Mul", data, net.constant(0.1)))


def _logic() -> None:
    for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"):
        dense_case(op, ALWAYS, _mask(op), silent="dead")
    for op in ("And", "Or", "Xor"):
        dense_case(op, ALWAYS, _logical(op), silent="dead")
    dense_case("Not", ALWAYS, _mask("Greater", negated=True), silent="dead")
    dense_case("Where", ALWAYS, _where, silent="dead")
    dense_case("Pow", LINEAR, apply("Pow", 1.0), "first")
    dense_case("Pow", ALWAYS, apply("Pow", 2.0), "second", silent="scaled opposite negative")
    dense_case("CastLike", LINEAR, apply("CastLike", 1.0))

    def whole(net: Net, data: str, relation: str) -> str:
        return net.node("Cast", net.node("CastLike", data, net.ints(1)), to=TensorProto.FLOAT)

    dense_case("CastLike", ALWAYS, whole, "integer")
    pads = [0, 0, 1, 1, 0, 0, 1, 1]

    def padded(net: Net, data: str, relation: str) -> str:
        return net.node("Pad", data, net.ints(*pads))

    def reflected(net: Net, data: str, relation: str) -> str:
        return net.node("Pad", data, net.ints(*pads), mode="reflect")

    conv_case("Pad", UNSHIFTED, padded, side=3)
    conv_case("Pad", LINEAR, reflected, "reflected", side=3)
    conv_case("Pad", UNSHIFTED, apply("Pad", pads=pads), "attribute", opset=9)


_functions()
_logic()
