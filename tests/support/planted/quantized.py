"""Planted cases of quantized models: rounded activations, and weights that are stored as integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from support.planted.cases import (
    ALWAYS,
    COPIES,
    FULL,
    MAINS,
    RATIOS,
    case,
    dense_case,
)
from support.planted.net import Net

Integers = NDArray[np.signedinteger[Any]]


def rounded(net: Net, data: str, relation: str = "", *, scale: float = 0.05, kind: type = np.uint8) -> str:
    """QuantizeLinear and DequantizeLinear with one scale for all channels."""
    zero = 128 if kind is np.uint8 else 0
    grid = net.constant(scale), net.constant(np.array(zero, dtype=kind))
    return net.node("DequantizeLinear", net.node("QuantizeLinear", data, *grid), *grid)


def integers(net: Net, *shape: int, size: int = 30) -> Integers:
    return net.rng.integers(-size, size + 1, shape).astype(np.int8)


def integer_rows(net: Net, relation: str, *tail: int) -> tuple[Integers, Integers]:
    """Rows [8, ...] of int8 and biases [8] of int32; ratios that are no integers are rounded, near is one step off."""
    rows, bias = integers(net, FULL, *tail), net.rng.integers(-90, 90, FULL).astype(np.int32)
    for copy in COPIES if relation != "unread" else ():
        main = MAINS.index(MAINS[copy])
        rows[copy], bias[copy] = (np.round(RATIOS[relation] * x[main]) for x in (rows, bias))
        rows[copy].flat[:1] += relation == "near"
    bias[list(COPIES)] += 70 * (relation == "shifted")
    return rows, bias


def integer_columns(net: Net, relation: str, outputs: int, *tail: int) -> Integers:
    columns = integers(net, outputs, FULL, *tail)
    if relation == "unread":
        columns[:, list(COPIES)] = 0
    return columns


def stored(net: Net, values: Integers, scale: Any = 0.02, axis: int | None = None, floats: bool = False) -> str:
    """A DequantizeLinear of an initializer of integers, or of a QuantizeLinear of floats."""
    scales = np.asarray(scale, dtype=np.float32)
    attributes = {} if axis is None else {"axis": axis}
    grid = net.constant(scales), net.constant(np.zeros(scales.shape, dtype=values.dtype))
    leaf = net.constant(values * np.float32(scale) if floats else values)
    leaf = net.node("QuantizeLinear", leaf, *grid, **attributes) if floats else leaf
    return net.node("DequantizeLinear", leaf, *grid, **attributes)


def dense_integers(net: Net, data: str, rows: Integers, bias: Integers | None = None, *, name: str) -> str:
    """Gemm with rows [outputs, inputs] in steps of 0.02 and a bias in steps of 0.001."""
    inputs = [data, stored(net, rows)] + ([] if bias is None else [stored(net, bias, 0.001)])
    return net.node("Gemm", *inputs, name=name, transB=1)


Body = Callable[[Net, str], str]


def dense(label: str, passes: frozenset[str], middle: Body, floats: bool = False, silent: str = "") -> None:
    """Gemm, the middle, Gemm, with all weights stored as integers; `floats`: behind a QuantizeLinear."""

    def build(relation: str) -> onnx.ModelProto:
        net = Net(13)
        data = rounded(net, net.input("batch", 6))
        rows, bias = integer_rows(net, relation, 6)
        weight = stored(net, rows, floats=floats)
        hidden = net.node("Gemm", data, weight, stored(net, bias, 0.001), name="producer", transB=1)
        hidden = middle(net, hidden)
        columns = stored(net, integer_columns(net, relation, 4).T, floats=floats)
        return net.build(net.node("Gemm", hidden, columns, stored(net, np.arange(4, dtype=np.int32), 0.001)))

    case("DequantizeLinear", passes, label, silent)(build)


def _relu(net: Net, data: str) -> str:
    return rounded(net, net.node("Relu", data))


def _convolutions(relation: str) -> onnx.ModelProto:
    """Conv, depthwise Conv, Conv, each with a scale per output channel."""
    net = Net(13)
    scales = np.linspace(0.01, 0.03, FULL)
    if relation not in ("unread", "near"):
        scales[list(COPIES)] = [scales[MAINS.index(MAINS[c])] for c in COPIES]
    data = rounded(net, net.input("batch", 3, 8, 8))
    rows, bias = integer_rows(net, relation, 3, 3, 3)
    taps, _ = integer_rows(net, "unread" if relation == "dead" else relation, 1, 3, 3)
    weight = stored(net, rows, scales, 0)
    made = net.node("Conv", data, weight, stored(net, bias, 0.05 * scales, 0), name="producer", pads=[1] * 4)
    made = rounded(net, net.node("Relu", made), scale=0.1)
    made = net.node("Conv", made, stored(net, taps, scales, 0), group=FULL, name="filter", pads=[1] * 4)
    made = rounded(net, made, scale=0.2)
    columns = integer_columns(net, relation, 4, 1, 1)
    return net.build(net.node("Conv", made, stored(net, columns, np.linspace(0.01, 0.03, 4), 0), name="consumer"))


def _products(relation: str) -> onnx.ModelProto:
    """MatMul, Add, MatMul: the bias is a constant of its own, the result of a product is rounded before it is added."""
    net = Net(13)
    data = rounded(net, net.input("batch", 6))
    rows, bias = integer_rows(net, relation, 6)
    hidden = rounded(net, net.node("MatMul", data, stored(net, np.ascontiguousarray(rows.T)), name="producer"))
    hidden = rounded(net, net.node("Add", hidden, stored(net, bias, 0.001)))
    return net.build(net.node("MatMul", hidden, stored(net, integer_columns(net, relation, 4).T), name="consumer"))


def _register() -> None:
    dense_case("QuantizeLinear", ALWAYS, rounded)
    dense_case("DequantizeLinear", ALWAYS, lambda n, x, r: rounded(n, x, r, kind=np.int8), "activations")
    dense("weights", ALWAYS, _relu)
    dense("weights behind QuantizeLinear", ALWAYS, _relu, floats=True)
    dense("weights without activations", ALWAYS | {"opposite"}, lambda n, x: x, silent="shifted")
    case("DequantizeLinear", ALWAYS, "Conv")(_convolutions)
    case("DequantizeLinear", ALWAYS, "MatMul")(_products)


_register()
