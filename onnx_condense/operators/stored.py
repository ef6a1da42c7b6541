"""How constants are stored that a node makes of what takes less room: integers, or narrower floats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx_condense.arrays import FLOATS, Array
from onnx_condense.model.storage import INTEGERS, Narrowed, Quantized
from onnx_condense.operators.wiring import Wiring

ValueOf = Callable[[str], Array | None]
"""The value of a constant by its name, None of every other tensor, and of those that are too large."""


def is_stated(maker: gs.Node | None) -> bool:
    """Whether the file itself holds a constant, given the node that makes it."""
    return maker is None or maker.op == "Constant"


def is_dequantized(maker: gs.Node | None) -> bool:
    """Whether a tensor is what integers stand for, given the node that makes it."""
    return maker is not None and maker.op == "DequantizeLinear"


def read_stored(name: str, wiring: Wiring, value: ValueOf) -> Quantized | Narrowed | None:
    """How a constant is stored that one node makes, for one reader, of what takes less room; else None."""
    index = wiring.maker(name)
    if index is None or len(wiring.consumers(name)) != 1 or wiring.nodes[index].op not in READERS:
        return None
    if len(wiring.consumers(wiring.nodes[index].inputs[0].name)) != 1:
        return None
    return READERS[wiring.nodes[index].op](index, wiring, value)


def _quantized(index: int, wiring: Wiring, value: ValueOf) -> Quantized | None:
    node = wiring.nodes[index]
    integers, grid = value(node.inputs[0].name), _grid(node, value)
    if integers is None or integers.dtype not in INTEGERS or not grid:
        return None
    found = _leaf(node.inputs[0].name, grid, wiring, value)
    if found is None or not is_stated(wiring.made_by(found[0])):
        return None
    scale, zero = grid[0], grid[-1] if len(grid) > 1 else np.zeros_like(grid[0], dtype=int)
    axis = None if scale.size == 1 else int(node.attrs.get("axis", 1)) % integers.ndim
    if not _is_fine(scale, integers) or (axis is not None and scale.shape != (integers.shape[axis],)):
        return None
    shape = [-1 if a == axis else 1 for a in range(integers.ndim)]
    return Quantized(index, found[1], integers, scale.reshape(shape), zero.reshape(shape), axis, len(grid) > 1)


def _leaf(
    integers: str, grid: list[Array], wiring: Wiring, value: ValueOf
) -> tuple[str, tuple[int, np.dtype[Any]] | None] | None:
    """The constant that integers come from: they themselves, or floats, with the node that makes integers of them.

    None where that node has another grid, or others read the floats.
    """
    maker = wiring.maker(integers)
    if maker is None or wiring.nodes[maker].op != "QuantizeLinear":
        return integers, None
    name = wiring.nodes[maker].inputs[0].name
    floats = value(name)
    if floats is None or not _alike(_grid(wiring.nodes[maker], value), grid) or len(wiring.consumers(name)) != 1:
        return None
    return name, (maker, floats.dtype)


def _grid(node: gs.Node, value: ValueOf) -> list[Array]:
    """The scale, and the zero point where one is stated."""
    values = (value(tensor.name) for tensor in node.inputs[1:])
    return [v for v in values if v is not None]


def _alike(one: list[Array], other: list[Array]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def _is_fine(scale: Array, integers: Array) -> bool:
    """Whether floats of the type of a scale have as many bits as the integers."""
    return scale.dtype == np.float32 or (scale.dtype == np.float16 and integers.dtype.itemsize != 2)


def _narrowed(index: int, wiring: Wiring, value: ValueOf) -> Narrowed | None:
    node = wiring.nodes[index]
    wide, floats = value(node.outputs[0].name), value(node.inputs[0].name)
    if wide is None or floats is None or not is_stated(wiring.made_by(node.inputs[0].name)):
        return None
    narrower = floats.dtype.name in FLOATS and floats.dtype.itemsize < wide.dtype.itemsize
    return Narrowed(index, floats.dtype) if narrower else None


READERS: Mapping[str, Callable[[int, Wiring, ValueOf], Quantized | Narrowed | None]] = {
    "DequantizeLinear": _quantized,
    "Cast": _narrowed,
}
"""By the operator that makes a constant, given its node's index."""
