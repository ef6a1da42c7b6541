"""Random graphs beyond random_graphs.py: tied weights, shared constants, sizes that are tied, depth, integers.

`graph(seed)` is the same graph for the same seed; it needs no hypothesis, so tools draw thousands of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from support.choices import Choices, Seeded
from support.drawn_tensors import Tensor
from support.planted.net import Net
from support.random_graphs import Generator

SIZES: tuple[Mapping[str, int], ...] = (
    {"batch": 2, "H": 6, "W": 8, "T": 3, "P": 2},
    {"batch": 1, "H": 8, "W": 6, "T": 1, "P": 5},
    {"batch": 5, "H": 10, "W": 10, "T": 4, "P": 1},
)
"""Three sizes of every name; "A + 1" and "A + B" follow from them."""
DEEPEST = 200
"""Blocks of the deepest residual networks."""


class SharingNet(Net):
    """Integer constants of one value are one initializer, used wherever it is asked for."""

    def __init__(self, opset: int, seed: int) -> None:
        super().__init__(opset, seed)
        self._shared: dict[tuple[int, ...], str] = {}

    def ints(self, *values: int) -> str:
        if values not in self._shared:
            self._shared[values] = super().ints(*values)
        return self._shared[values]


class Wider(Generator):
    """Draws a graph; `open` maps have symbolic sides, so that no step may state them."""

    def __init__(self, choices: Choices) -> None:
        super().__init__(choices)
        kind = SharingNet if self.flag() else Net
        self.net = kind(self.opset, self.number(0, 2**16))
        self.middle: list[str] = []

    def rows(self, outputs: int, *tail: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """As before, and now and then columns that nobody reads, and rows that no input wakes."""
        rows, bias = super().rows(outputs, *tail)
        if self.number(0, 3) == 0:
            rows[:, self.number(0, tail[0] - 1)] = 0
        if self.number(0, 3) == 0:
            bias[self.number(0, outputs - 1)] = -50
        return rows, bias

    # ---- layers

    def again(self, x: Tensor) -> Tensor:
        """One weight twice in a row, a function between."""
        self.layers += 1
        net, name = self.net, f"layer{self.layers}"
        rows, bias = self.rows(x.channels, x.channels, *([1, 1] if x.side else []))
        if x.side:
            inputs = net.constant(rows, f"{name}.weight"), net.constant(bias, f"{name}.bias")
            first = self.function(Tensor(net.node("Conv", x.name, *inputs, name=name), x.channels, x.side))
            return Tensor(net.node("Conv", first.name, *inputs, name=f"{name}.again"), x.channels, x.side)
        weight = net.constant(rows.T, f"{name}.weight")
        first = self.function(Tensor(net.node("MatMul", x.name, weight, name=name), x.channels))
        return Tensor(net.node("MatMul", first.name, weight, name=f"{name}.again"), x.channels)

    def siblings(self, x: Tensor) -> Tensor:
        """Two branches with one weight, added, or one of them only moved."""
        self.layers += 1
        net, name, width = self.net, f"layer{self.layers}", self.width()
        rows, _ = self.rows(width, x.channels, *([1, 1] if x.side else []))
        weight = net.constant(rows if x.side else rows.T, f"{name}.weight")
        op = "Conv" if x.side else "MatMul"
        inputs = x.name, self.affine(x).name
        made = [net.node(op, data, weight, name=f"{name}.{i}") for i, data in enumerate(inputs)]
        other = self.function(Tensor(made[1], width, x.side)).name
        return Tensor(net.node(self.pick(["Add", "Mul", "Max"]), made[0], other), width, x.side)

    def left(self, x: Tensor) -> Tensor:
        """A product whose weight stands on the left."""
        self.layers += 1
        net, name, width = self.net, f"layer{self.layers}", self.width()
        rows, _ = self.rows(width, x.channels)
        if not x.side:
            turned = net.node("Transpose", x.name, perm=[1, 0])
            if self.flag():
                made = net.node("MatMul", net.constant(rows, f"{name}.weight"), turned, name=name)
            else:
                weight = net.constant(rows.T, f"{name}.weight")
                bias = [] if self.opset >= 11 else [net.constant(0.0)]
                made = net.node("Gemm", weight, turned, *bias, name=name, transA=1, alpha=0.5)
            return Tensor(net.node("Transpose", made, perm=[1, 0]), width)
        lines = net.node("Reshape", x.name, net.ints(0, x.channels, x.places))
        made = net.node("MatMul", net.constant(rows, f"{name}.weight"), lines, name=name)
        return Tensor(net.node("Reshape", made, net.ints(0, width, x.side, x.side)), width, x.side)

    def einsum(self, x: Tensor) -> Tensor:
        """A linear map in letters, its weight on either side and in either layout."""
        if self.opset < 12:
            return self.layer(x, same=True)
        self.layers += 1
        net, width, turned, first = self.net, self.width(), self.flag(), self.flag()
        rows, _ = self.rows(width, x.channels)
        weight = net.constant(rows.T if turned else rows, f"layer{self.layers}.weight")
        letters = "nchw" if x.side else "nc"
        terms = [letters, "co" if turned else "oc"]
        inputs = [x.name, weight]
        if first:
            terms, inputs = terms[::-1], inputs[::-1]
        equation = f"{','.join(terms)}->{letters.replace('c', 'o')}"
        return Tensor(net.node("Einsum", *inputs, name=f"layer{self.layers}", equation=equation), width, x.side)

    def lines(self, x: Tensor) -> Tensor:
        """A Conv along one axis, grouped or not, over the places of a map."""
        if not x.side:
            return self.einsum(x)
        self.layers += 1
        net, name = self.net, f"layer{self.layers}"
        groups = self.pick([g for g in (1, 1, 2, x.channels) if x.channels % g == 0])
        width = groups * self.number(2, 4)
        rows, bias = self.rows(width, x.channels // groups, 3)
        flat = net.node("Reshape", x.name, net.ints(0, x.channels, x.places))
        made = net.conv(name, flat, rows, bias, group=groups, pads=[2, 0], dilations=[1])
        return Tensor(net.node("Reshape", made, net.ints(0, width, x.side, x.side)), width, x.side)

    def upward(self, x: Tensor) -> Tensor:
        """A ConvTranspose with strides, grouped or not, and a pool back."""
        self.layers += 1
        net, name = self.net, f"layer{self.layers}"
        groups = 2 if x.channels % 2 == 0 and self.flag() else 1
        each = self.number(2, 4)
        rows, bias = self.rows(groups * each, x.channels // groups, 2, 2)
        weight = rows.reshape(groups, each, -1, 2, 2).swapaxes(1, 2).reshape(x.channels, each, 2, 2)
        inputs = net.constant(weight, f"{name}.weight"), net.constant(bias, f"{name}.bias")
        wide = net.node("ConvTranspose", x.name, *inputs, name=name, strides=[2, 2], group=groups)
        pool = self.pick(["MaxPool", "AveragePool"])
        return Tensor(net.node(pool, wide, kernel_shape=[2, 2], strides=[2, 2]), groups * each, x.side)

    def quantized(self, x: Tensor) -> Tensor:
        """A layer whose weights are integers with a scale, or a scale per row, between pairs on its data or not."""
        if self.opset < 13:
            return self.function(x)
        self.layers += 1
        net, name, width = self.net, f"layer{self.layers}", self.width()
        rows = self.net.rng.integers(-100, 100, (width, x.channels)).astype(np.int8)
        for _ in range(3):
            rows[self.number(0, width - 1)] = rows[self.number(0, width - 1)]
        axis = {"axis": 0 if x.side else 1} if self.flag() else {}
        scale = net.constant(np.full(width, 0.01) if axis else np.array(0.01))
        zero = net.constant(np.zeros(width if axis else (), dtype=np.int8))
        stored = net.constant(rows.reshape(*rows.shape, 1, 1) if x.side else rows.T, f"{name}.weight")
        weight = net.node("DequantizeLinear", stored, scale, zero, **axis)
        data = x.name
        if self.flag():
            pair = net.constant(np.array(0.05)), net.constant(np.array(0, dtype=np.int8))
            data = net.node("DequantizeLinear", net.node("QuantizeLinear", data, *pair), *pair)
        made = net.node("Conv" if x.side else "MatMul", data, weight, name=name)
        return Tensor(made, width, x.side)

    # ---- what stands between

    def across(self, x: Tensor) -> Tensor:
        """What mixes channels, and so lets them stay."""
        net, kind = self.net, self.pick(["softmax", "mean", "norm", "max"])
        if kind == "softmax":
            return Tensor(net.node("Softmax", x.name, axis=1), x.channels, x.side)
        if kind == "norm" and not x.side and self.opset >= 17:
            given = net.constant(np.linspace(0.5, 1.5, x.channels)), net.constant(np.zeros(x.channels))
            return Tensor(net.node("LayerNormalization", x.name, *given), x.channels)
        stated: dict[str, Any] = {"axes": [1]} if self.opset < 18 else {}
        extra = [] if stated else [net.ints(1)]
        op = "ReduceMax" if kind == "max" else "ReduceMean"
        mean = net.node(op, x.name, *extra, keepdims=1, **stated)
        return Tensor(net.node(self.pick(["Add", "Sub", "Mul"]), x.name, mean), x.channels, x.side)

    def chosen(self, x: Tensor) -> Tensor:
        """Where: by a constant of each channel, or by the data, between a branch and a number or another branch."""
        net = self.net
        if self.flag():
            picked = self.per_channel(x, [0.0, 1.0]) > 0
            mask = net.constant(picked)
        else:
            mask = net.node("Greater", x.name, net.constant(0.1))
        other = net.constant(0.0) if self.flag() else self.layer(x, x.channels, same=True).name
        sides = [x.name, other]
        return Tensor(net.node("Where", mask, *(sides if self.flag() else sides[::-1])), x.channels, x.side)

    def stated(self, x: Tensor) -> Tensor:
        """There and back through shapes that the graph computes."""
        net = self.net
        if self.opset < 11:
            return self.affine(x)
        shape = net.node("Shape", x.name)
        first = net.node("Gather", shape, net.ints(0), axis=0)
        flat = net.node("Reshape", x.name, net.node("Concat", first, net.ints(-1), axis=0))
        if self.flag():
            return Tensor(net.node("Reshape", self.function(Tensor(flat, x.channels)).name, shape), x.channels, x.side)
        return Tensor(net.node("Reshape", flat, shape), x.channels, x.side)

    def rejoined(self, x: Tensor) -> Tensor:
        """A tensor beside itself, or beside a function of itself, or a slice of it with steps, read as one."""
        net, kind = self.net, self.pick(["self", "function", "steps"])
        if kind == "steps" and self.opset >= 10:
            odd = net.node("Slice", x.name, net.ints(1), net.ints(999), net.ints(1), net.ints(2))
            both, width = [x.name, odd], x.channels + x.channels // 2
        else:
            both, width = [x.name, x.name if kind == "self" else self.function(x).name], 2 * x.channels
        return Tensor(net.node("Concat", *(both if self.flag() else both[::-1]), axis=1), width, x.side)

    def repeated(self, x: Tensor) -> Tensor:
        """Channels more than once: Tile, or a Gather that repeats some."""
        net = self.net
        if self.flag():
            return Tensor(net.node("Tile", x.name, net.ints(1, 2, *[1] * (2 if x.side else 0))), 2 * x.channels, x.side)
        picked = [self.number(0, x.channels - 1) for _ in range(x.channels)]
        return Tensor(net.node("Gather", x.name, net.ints(*picked), axis=1), x.channels, x.side)

    def padded(self, x: Tensor) -> Tensor:
        """Channels of zeros behind the others."""
        if self.opset < 11:
            return self.function(x)
        ends = [0, 0, *[0] * (2 if x.side else 0)]
        amounts = [*ends[:1], 1, *ends[2:], *ends[:1], 2, *ends[2:]]
        return Tensor(self.net.node("Pad", x.name, self.net.ints(*amounts)), x.channels + 3, x.side)

    def jumping(self, x: Tensor) -> Tensor:
        """Functions that jump, in expressions that do not."""
        net, name = self.net, x.name
        kinds = [
            "Floor",
            "Ceil",
            "Round",
            "Sign",
            "ThresholdedRelu",
            "IsNaN",
            "IsInf",
            "Equal",
            "Mod",
            "GreaterOrEqual",
        ]
        since = {"Round": 11, "Mod": 10, "ThresholdedRelu": 10, "IsInf": 10, "Equal": 11, "GreaterOrEqual": 16}
        kind = self.pick([k for k in kinds if since.get(k, 9) <= self.opset])
        one = net.constant(1.0)
        if kind == "Sign":
            return Tensor(net.node("Mul", net.node(kind, name), name), x.channels, x.side)
        if kind == "ThresholdedRelu":
            above = net.node("Relu", net.node("Sub", name, net.constant(0.5)))
            return Tensor(net.node("Mul", net.node(kind, name, alpha=0.5), above), x.channels, x.side)
        if kind in ("IsNaN", "IsInf", "Equal", "GreaterOrEqual"):
            mask = net.node(kind, name, *([net.constant(1e9)] if kind in ("Equal", "GreaterOrEqual") else []))
            return Tensor(net.node("Where", mask, net.constant(0.0), name), x.channels, x.side)
        if kind == "Mod":
            part = net.node("Abs", net.node(kind, name, one, fmod=1))
        else:
            part = net.node("Abs", net.node("Sub", name, net.node(kind, name)))
        return Tensor(net.node("Mul", part, net.node("Sub", one, part)), x.channels, x.side)

    def fused(self, x: Tensor) -> Tensor:
        """What onnxruntime's optimizer writes."""
        self.layers += 1
        net, width, name = self.net, self.width(), f"layer{self.layers}"
        rows, bias = self.rows(width, x.channels, *([1, 1] if x.side else []))
        inputs = x.name, net.constant(rows, f"{name}.weight"), net.constant(bias, f"{name}.bias")
        given: dict[str, Any] = {"name": name, "domain": "com.microsoft"}
        kind = self.pick(["Gelu", "FastGelu", "QuickGelu", "Fused", "Fused"])
        if kind != "Fused":
            return Tensor(net.node(kind, x.name, domain="com.microsoft"), x.channels, x.side)
        if x.side:
            return Tensor(net.node("FusedConv", *inputs, activation="Relu", **given), width, x.side)
        if self.flag():
            return Tensor(net.node("FusedMatMul", *inputs[:2], transB=1, alpha=0.5, **given), width)
        return Tensor(net.node("FusedGemm", *inputs, activation="Relu", transB=1, **given), width)

    def branching(self, x: Tensor) -> Tensor:
        """One of two bodies, as an input says."""
        if self.opset < 13:
            return self.affine(x)
        net = self.net
        largest = net.node("ReduceMax", "x", keepdims=0)
        condition = net.node("Greater", largest, net.constant(1.5))
        half, bodies = net.constant(0.5), []
        for op in ("Mul", "Add"):
            made = net.fresh("inside")
            port = onnx.helper.make_tensor_value_info(made, onnx.TensorProto.FLOAT, None)
            node = onnx.helper.make_node(op, [x.name, half], [made], name=made)
            bodies.append(onnx.helper.make_graph([node], made, [], [port]))
        return Tensor(net.node("If", condition, then_branch=bodies[0], else_branch=bodies[1]), x.channels, x.side)

    # ---- sizes that are tied

    def neighbours(self, x: Tensor) -> Tensor:
        """Rows mixed by an input with two equal axes."""
        if any(port.name == "adjacency" for port in self.net.inputs):
            return Tensor(self.net.node("MatMul", "adjacency", x.name), x.channels)
        return Tensor(self.net.node("MatMul", self.net.input("batch", "batch", name="adjacency"), x.name), x.channels)

    def longer(self, x: Tensor) -> Tensor:
        """A row more in front, to which an input of that length is added, and away again."""
        if self.opset < 10 or any(port.name == "places" for port in self.net.inputs):
            return self.affine(x)
        net = self.net
        front = net.constant(net.normal(1, x.channels), "class_row")
        places = net.input("batch + 1", x.channels if self.flag() else 1, name="places")
        long = net.node("Add", net.node("Concat", front, x.name, axis=0), places)
        return Tensor(net.node("Slice", long, net.ints(1), net.ints(2**31), net.ints(0)), x.channels)

    # ---- the whole

    def steps(self, side: int, sized: bool) -> list[Callable[[Tensor], Tensor]]:
        """What may stand between two layers; `sized`: steps may state the side of a map."""
        free = [
            self.function, self.affine, self.residual, self.gate, self.permuted, self.halves, self.dense_block,
            self.careful, self.again, self.siblings, self.einsum, self.quantized, self.chosen, self.rejoined,
            self.repeated, self.padded, self.across, self.stated, self.jumping, self.fused, self.branching,
        ]  # fmt: skip
        if not side:
            return [*free, self.reshaped, self.stacked, self.recurrent, self.left, self.neighbours, self.longer]
        maps = [self.depthwise, self.pool, self.transposed, self.upward]
        stating = [self.reshaped, self.recurrent, self.grouped, self.attention, self.framed, self.along_lines]
        return [*free, *maps, *([*stating, self.left, self.lines] if sized else [])]

    def deep(self) -> onnx.ModelProto:
        """A residual network of many blocks."""
        width = self.number(4, 6)
        x = self.layer(Tensor(self.net.input("batch", 5), 5), width)
        for _ in range(self.number(10, DEEPEST)):
            kind = self.pick(["add", "relu", "plain"])
            inner = self.layer(Tensor(self.net.node("Relu", x.name), width) if kind != "plain" else x)
            inner = self.layer(Tensor(self.net.node("Relu", inner.name), inner.channels), width)
            scaled = Tensor(self.net.node("Mul", inner.name, self.net.constant(0.2)), width)
            x = Tensor(self.net.node("Add", x.name, scaled.name), width)
            x = Tensor(self.net.node("Relu", x.name), width) if kind == "relu" else x
        return self.closed(x)

    def closed(self, x: Tensor) -> onnx.ModelProto:
        """The model, with a head on x, and now and then with a tensor from inside as another output."""
        head = self.net.dense("head", x.name, self.net.normal(3, x.channels), self.net.normal(3))
        inside = [self.pick(self.middle)] if self.middle and self.number(0, 9) == 0 else []
        return self.net.build(head, *inside)

    def model(self) -> onnx.ModelProto:
        if self.number(0, 24) == 0:
            return self.deep()
        side = self.pick([0, 6])
        sized = side == 0 or self.flag()
        shape: tuple[int | str, ...] = ("batch", 5) if not side else ("batch", 3, *((side, side) if sized else "HW"))
        x = self.layer(Tensor(self.net.input(*shape), 3 if side else 5, side))
        steps = self.steps(side, sized)
        for _ in range(self.number(1, 4)):
            for _ in range(self.number(1, 3)):
                x = self.pick(steps)(x)
            x = self.layer(x)
            self.middle.append(x.name)
        return self.closed(self.flat(self.function(x)) if sized else self.pooled(self.function(x)))

    def pooled(self, x: Tensor) -> Tensor:
        """[batch, features] of a map of any size."""
        op = self.pick(["GlobalAveragePool", "GlobalMaxPool"])
        return Tensor(self.net.node("Flatten", self.net.node(op, x.name)), x.channels)


def graph(seed: int) -> onnx.ModelProto:
    """The graph of a seed."""
    return Wider(Seeded(seed)).model()


def feed(model: onnx.ModelProto, sizes: Mapping[str, int], seed: int) -> dict[str, NDArray[Any]]:
    """Standard normal inputs of these sizes; integers are small, and only 0 and 1 in a mask."""
    generator = np.random.default_rng(seed)
    made = {}
    for port in model.graph.input:
        dims = port.type.tensor_type.shape.dim
        shape = [sum(sizes.get(t) or int(t) for t in (d.dim_param or str(d.dim_value)).split(" + ")) for d in dims]
        kind = onnx.helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)
        if kind.kind == "f":
            made[port.name] = generator.standard_normal(shape).astype(kind)
        else:
            made[port.name] = generator.integers(0, 2 if "mask" in port.name else 4, shape).astype(kind)
    return made
