"""Random graphs over the rows of the operator table that combine, with planted copies of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray

from support.choices import Choices, Drawn
from support.drawn_tensors import POSITIVE, RATIOS, SINCE, SMOOTH, Tensor
from support.planted.net import Net

T = TypeVar("T")

OPSETS = (9, 11, 13, 15, 17, 18, 20, 21)


class Generator:
    """Draws a graph."""

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.opset = self.pick(OPSETS)
        self.net = Net(self.opset, self.number(0, 2**16))
        self.layers = 0

    def pick(self, values: Sequence[T]) -> T:
        return self.choices.pick(values)

    def number(self, low: int, high: int) -> int:
        return self.choices.number(low, high)

    def flag(self) -> bool:
        return self.pick((False, True))

    def width(self) -> int:
        return self.number(4, 12)

    # ---- producers

    def rows(self, outputs: int, *tail: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Rows and biases, some of them copies: equal, scaled, opposite, zero or shifted."""
        rows = self.net.normal(outputs, *tail) / np.sqrt(np.prod(tail))
        bias = 0.5 * self.net.normal(outputs)
        for _ in range(self.number(2, 5)):
            j, m = self.number(0, outputs - 1), self.number(0, outputs - 1)
            ratio = self.pick(RATIOS)
            if j != m:
                rows[j], bias[j] = ratio * rows[m], ratio * bias[m] + 0.5 * self.flag()
        return rows, bias

    def layer(self, x: Tensor, outputs: int | None = None, same: bool = False) -> Tensor:
        """A Gemm, MatMul or Conv; `same` keeps the side."""
        outputs = outputs or self.width()
        self.layers += 1
        name = f"layer{self.layers}"
        if not x.side:
            rows, bias = self.rows(outputs, x.channels)
            offsets = bias if self.flag() else None
            if self.flag():
                return Tensor(self.net.matmul(name, x.name, rows, offsets), outputs)
            if offsets is None and self.opset < 11:
                offsets = np.zeros(outputs)
            return Tensor(self.net.dense(name, x.name, rows, offsets, trans_b=self.flag()), outputs)
        kernel = 1 if x.side < 3 else self.pick([1, 3])
        padded = kernel == 3 and (same or self.flag())
        rows, bias = self.rows(outputs, x.channels, kernel, kernel)
        made = self.net.conv(name, x.name, rows, bias if self.flag() else None, pads=[int(padded)] * 4)
        return Tensor(made, outputs, x.side if padded or kernel == 1 else x.side - 2)

    # ---- steps that keep the channels

    def function(self, x: Tensor) -> Tensor:
        ops = [op for op in SMOOTH if SINCE.get(op, 9) <= self.opset]
        op = self.pick([*ops, *POSITIVE, "Clip", "Cast", "PRelu", "Max", "Min"])
        net, name = self.net, x.name
        if op in POSITIVE:
            name = net.node(op, net.node("Add", net.node("Sigmoid", name), net.constant(0.5)))
        elif op == "Clip":
            low, high = self.pick([(0.0, 6.0), (-1.0, 1.0), (-0.5, 2.0)])
            bounds: dict[str, Any] = {"min": low, "max": high}
            old = self.opset < 11
            name = net.node(op, name, **bounds) if old else net.node(op, name, net.constant(low), net.constant(high))
        elif op == "Cast":
            name = net.node(op, net.node(op, name, to=11), to=1)
        elif op == "PRelu":
            slopes = net.constant(self.per_channel(x, [0.1, 0.25]))
            name = net.node(op, name, slopes)
        elif op in ("Max", "Min"):
            name = net.node(op, name, net.constant(self.pick([0.0, 0.25])))
        else:
            name = net.node(op, net.node("Tanh", name) if op == "Sinh" else name)
        return Tensor(name, x.channels, x.side)

    def careful(self, x: Tensor) -> Tensor:
        """Functions that need numbers of some range, and choices that do not jump where they change."""
        net, name = self.net, x.name
        calm = net.node("Mul", net.node("Softsign", name), net.constant(0.9))
        kind = self.pick(["Asin", "Atanh", "Tan", "Acos", "Cosh", "Acosh", "Pow", "Shrink", "choice"])
        if kind == "Acosh":
            name = net.node(kind, net.node("Add", net.node("Sigmoid", name), net.constant(1.5)))
        elif kind == "Pow":
            name = net.node(kind, calm, net.constant(2.0))
        elif kind == "Shrink":
            name = net.node(kind, name, lambd=0.5, bias=0.5)
        elif kind == "choice":
            zero = net.constant(0.0)
            above, below = net.node("Greater", name, zero), net.node("Less", name, zero)
            mask = net.node(self.pick(["And", "Or", "Xor"]), above, net.node("Not", below))
            mask = net.node("Not", mask) if self.flag() else mask
            name = net.node("Where", mask, name, net.node("Mul", name, net.constant(0.1)))
        else:
            name = net.node(kind, calm)
        return Tensor(name, x.channels, x.side)

    def along_lines(self, x: Tensor) -> Tensor:
        """What mixes the places of a map, channel by channel."""
        net, name = self.net, x.name
        since = {"CumSum": 11, "Trilu": 14, "LayerNormalization": 17}
        kinds = ["LogSoftmax", "LpNormalization", "MeanVarianceNormalization", "LpPool", "Expand", *since]
        kind = self.pick([k for k in kinds if since.get(k, 0) <= self.opset])
        if kind in ("LogSoftmax", "LpNormalization"):
            name = net.node(kind, name, axis=-1)
        elif kind == "MeanVarianceNormalization":
            uneven = net.constant(np.linspace(-1, 1, x.places).reshape(1, 1, x.side, x.side))
            name = net.node(kind, net.node("Add", name, uneven), axes=[2, 3])  # a map of one number has no deviation
        elif kind == "LpPool":
            name = net.node(kind, name, kernel_shape=[1, 1])
        elif kind == "CumSum":
            name = net.node(kind, name, net.constant(np.array(3)))
        elif kind == "LayerNormalization":
            name = net.node(kind, name, net.constant(np.full(x.side, 0.5)))
        elif kind == "Expand":
            stated: dict[str, Any] = {"axes": [3]} if self.opset < 13 else {}
            extra = [] if stated else [net.ints(3)]
            name = net.node("ReduceSum", name, *extra, keepdims=1, **stated)
            name = net.node("Expand", name, net.ints(1, x.channels, x.side, x.side))
        else:
            name = net.node(kind, name)
        return Tensor(name, x.channels, x.side)

    def per_channel(self, x: Tensor, values: list[float]) -> NDArray[np.floating]:
        drawn = [self.pick(values) for _ in range(x.channels)]
        return np.array(drawn).reshape(-1, *[1] * (2 if x.side else 0))

    def affine(self, x: Tensor) -> Tensor:
        op = self.pick(["Add", "Sub", "Mul", "Div", "BatchNormalization"])
        values = [0.5, 0.5, 1.0, -0.75]
        if op == "BatchNormalization":
            flat = [self.per_channel(x, v).reshape(-1) for v in (values, values, [0.0, 0.3], [0.5, 1.0])]
            return Tensor(self.net.batchnorm(x.name, *flat), x.channels, x.side)
        constant = np.array(0.75) if self.flag() else self.per_channel(x, values)
        return Tensor(self.net.node(op, x.name, self.net.constant(constant)), x.channels, x.side)

    def residual(self, x: Tensor) -> Tensor:
        branch = self.layer(x, x.channels, same=True)
        branch = self.function(branch) if self.flag() else branch
        op = self.pick(["Add", "Add", "Sub", "Sum", "Max", "Min"])
        return Tensor(self.net.node(op, x.name, branch.name), x.channels, x.side)

    def gate(self, x: Tensor) -> Tensor:
        if self.flag():
            gate = self.net.node("Sigmoid", x.name)
        elif x.side and self.flag():
            squeezed = Tensor(self.net.node("GlobalAveragePool", x.name), x.channels, 1)
            inner = self.layer(squeezed, 4)
            excited = self.layer(Tensor(self.net.node("Relu", inner.name), 4, 1), x.channels)
            gate = self.net.node("Sigmoid", excited.name)
        else:
            gate = self.net.node("Sigmoid", self.layer(x, x.channels, same=True).name)
        return Tensor(self.net.node("Mul", x.name, gate), x.channels, x.side)

    def permuted(self, x: Tensor) -> Tensor:
        order = self.choices.order(x.channels)
        return Tensor(self.net.node("Gather", x.name, self.net.ints(*order), axis=1), x.channels, x.side)

    def halves(self, x: Tensor) -> Tensor:
        """Split or two Slices, a function of each, Concat."""
        cut = self.number(1, x.channels - 1)
        net, sizes = self.net, (cut, x.channels - cut)
        if self.flag():
            stated: dict[str, Any] = {"split": list(sizes)} if self.opset < 13 else {}
            extra = [] if stated else [net.ints(*sizes)]
            parts = net.multiple("Split", x.name, *extra, outputs=2, axis=1, **stated)
        elif self.opset < 10:
            parts = [net.node("Slice", x.name, axes=[1], starts=[a], ends=[b]) for a, b in ((0, cut), (cut, 999))]
        else:
            ends = ((0, cut), (cut - x.channels, 999))
            parts = [net.node("Slice", x.name, net.ints(a), net.ints(b), net.ints(1)) for a, b in ends]
        made = [self.function(Tensor(p, n, x.side)) for p, n in zip(parts, sizes, strict=True)]
        return Tensor(net.node("Concat", *(m.name for m in made), axis=1), x.channels, x.side)

    def dense_block(self, x: Tensor) -> Tensor:
        other = self.layer(x, 4, same=True)
        return Tensor(self.net.node("Concat", x.name, other.name, axis=1), x.channels + 4, x.side)

    def depthwise(self, x: Tensor) -> Tensor:
        if x.side < 3:
            return self.function(x)
        self.layers += 1
        taps = self.rows(x.channels, 1, 3, 3)[0]
        bias = self.net.normal(x.channels) if self.flag() else None
        made = self.net.conv(f"layer{self.layers}", x.name, taps, bias, group=x.channels, pads=[1] * 4)
        return Tensor(made, x.channels, x.side)

    def pool(self, x: Tensor) -> Tensor:
        if x.side < 4:
            return self.affine(x)
        op = self.pick(["MaxPool", "AveragePool"])
        return Tensor(self.net.node(op, x.name, kernel_shape=[2, 2], strides=[2, 2]), x.channels, x.side // 2)

    def grouped(self, x: Tensor) -> Tensor:
        """A grouped Conv between two shuffles, each there or not."""
        groups = self.pick([2, 4])
        x = self.layer(x, 8, same=True)
        x = self.shuffled(x, groups) if self.flag() else x
        self.layers += 1
        rows, bias = self.rows(8, 8 // groups, 1, 1)
        made = self.net.conv(f"layer{self.layers}", self.function(x).name, rows, bias, group=groups)
        return self.shuffled(Tensor(made, 8, x.side), groups) if self.flag() else Tensor(made, 8, x.side)

    def shuffled(self, x: Tensor, groups: int) -> Tensor:
        net = self.net
        name = net.node("Reshape", x.name, net.ints(0, groups, x.channels // groups, x.side, x.side))
        name = net.node("Transpose", name, perm=[0, 2, 1, 3, 4])
        return Tensor(net.node("Reshape", name, net.ints(0, x.channels, x.side, x.side)), x.channels, x.side)

    def attention(self, x: Tensor) -> Tensor:
        """Two heads over the places of a map, queries, keys and values from one projection or from three."""
        net, places = self.net, x.places
        tokens = net.node("Transpose", net.node("Reshape", x.name, net.ints(0, x.channels, places)), perm=[0, 2, 1])
        self.layers += 1
        fused = self.flag()
        if fused:
            whole = net.matmul(f"layer{self.layers}", tokens, *self.rows(24, x.channels))
            whole = net.node("Reshape", whole, net.ints(0, places, 3, 2, 4))
            whole = net.node("Transpose", whole, perm=[2, 0, 3, 1, 4])
            query, key, value = (net.node("Gather", whole, net.constant(np.array(i)), axis=0) for i in range(3))
        else:
            query, key, value = (
                net.node("Transpose", net.node("Reshape", made, net.ints(0, places, 2, 4)), perm=[0, 2, 1, 3])
                for made in (
                    net.matmul(f"layer{self.layers}{part}", tokens, *self.rows(8, x.channels)) for part in "qkv"
                )
            )
        scores = net.node("MatMul", query, net.node("Transpose", key, perm=[0, 1, 3, 2]))
        mixed = net.node("MatMul", net.node("Softmax", scores, axis=-1), value)
        mixed = net.node("Reshape", net.node("Transpose", mixed, perm=[0, 2, 1, 3]), net.ints(0, places, 8))
        mixed = net.matmul(f"layer{self.layers}o", mixed, *self.rows(x.channels, 8))
        name = net.node("Transpose", mixed, perm=[0, 2, 1])
        return Tensor(net.node("Reshape", name, net.ints(0, x.channels, x.side, x.side)), x.channels, x.side)

    def stacked(self, x: Tensor) -> Tensor:
        """Two branches as [batch, 2, channels], a function of both, and flat again."""
        if x.side:
            return self.function(x)
        width = self.width()
        parts = [self.net.node("Reshape", self.layer(x, width).name, self.net.ints(0, 1, width)) for _ in range(2)]
        both = self.function(Tensor(self.net.node("Concat", *parts, axis=1), 1))
        return Tensor(self.net.node("Reshape", both.name, self.net.ints(0, 2 * width)), 2 * width)

    def transposed(self, x: Tensor) -> Tensor:
        """A ConvTranspose that keeps the side."""
        self.layers += 1
        outputs, net = self.width(), self.net
        rows, bias = self.rows(outputs, x.channels, 3, 3)
        inputs = net.constant(rows.swapaxes(0, 1)), net.constant(bias)
        name = f"layer{self.layers}"
        return Tensor(net.node("ConvTranspose", x.name, *inputs, name=name, pads=[1] * 4), outputs, x.side)

    def framed(self, x: Tensor) -> Tensor:
        """Larger and smaller again: Pad and Slice, Resize and MaxPool, Tile and AveragePool, DepthToSpace and back."""
        net, side, kind = self.net, x.side, self.pick(["pad", "resize", "tile", "depth"])
        halved = {"kernel_shape": [2, 2], "strides": [2, 2]}
        if kind == "pad" and self.opset >= 11:
            wide = net.node("Pad", x.name, net.ints(0, 0, 1, 1, 0, 0, 0, 0), mode=self.pick(["constant", "edge"]))
            name = net.node("Slice", wide, net.ints(0, 0), net.ints(side, side), net.ints(2, 3))
        elif kind == "resize" and self.opset >= 11:
            wide = net.node("Resize", x.name, "", net.constant(np.array([1.0, 1.0, 2.0, 2.0])), mode="nearest")
            name = net.node("MaxPool", wide, **halved)
        elif kind == "tile":
            name = net.node("AveragePool", net.node("Tile", x.name, net.ints(1, 1, 2, 2)), **halved)
        elif x.channels % 4 == 0:
            wide = net.node("DepthToSpace", x.name, blocksize=2)
            name = net.node("SpaceToDepth", wide, blocksize=2)
        else:
            name = net.node("InstanceNormalization", x.name, *(net.constant(np.ones(x.channels)) for _ in range(2)))
        return Tensor(name, x.channels, side)

    def recurrent(self, x: Tensor) -> Tensor:
        """The features as a sequence of one step, or the places of a map, through an LSTM, GRU or RNN."""
        net, steps = self.net, x.places or 1
        if x.side:
            lines = net.node("Reshape", x.name, net.ints(0, x.channels, steps))
            lines = net.node("Transpose", lines, perm=[2, 0, 1])
        else:
            lines = net.node("Reshape", x.name, net.ints(1, -1, x.channels))
        op, gates = self.pick([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
        self.layers += 1
        weights, again = (self.net.normal(1, gates, 6, n) / 3 for n in (x.channels, 6))
        bias = self.net.normal(1, 2 * gates, 6) / 3
        j, m = self.number(0, 5), self.number(0, 5)
        for value in (weights, again, bias):
            value[:, :, j] = value[:, :, m]
        flat = (net.constant(v.reshape(1, -1, *v.shape[3:])) for v in (weights, again, bias))
        made = net.node(op, lines, *flat, name=f"layer{self.layers}", hidden_size=6)
        made = net.node("Transpose", made, perm=[2, 1, 3, 0])  # [batch, directions, 6, steps]
        if x.side:
            return Tensor(net.node("Reshape", made, net.ints(0, 6, x.side, x.side)), 6, x.side)
        return Tensor(net.node("Reshape", made, net.ints(0, 6)), 6)

    def reshaped(self, x: Tensor) -> Tensor:
        """There and back: through another shape, or through a place before the channels."""
        net = self.net
        if not x.side:
            axes: dict[str, Any] = {"axes": [2]} if self.opset < 13 else {}
            extra = [] if axes else [net.ints(2)]
            wide = net.node("Unsqueeze", x.name, *extra, **axes)
            return Tensor(net.node("Squeeze", wide, *extra, **axes), x.channels)
        name = net.node("Reshape", x.name, net.ints(0, x.channels, x.places))
        name = net.node("Transpose", name, perm=[0, 2, 1])
        if self.flag():
            self.layers += 1
            outputs = self.width()
            name = net.matmul(f"layer{self.layers}", name, *self.rows(outputs, x.channels))
        else:
            outputs = x.channels
        name = net.node("Transpose", name, perm=[0, 2, 1])
        return Tensor(net.node("Reshape", name, net.ints(0, outputs, x.side, x.side)), outputs, x.side)

    # ---- the whole

    def flat(self, x: Tensor) -> Tensor:
        """[batch, features] for the head."""
        if not x.side:
            return x
        net, kind = (
            self.net,
            self.pick(["flatten", "reshape", "mean", "max", "global", "global max", "lp", "norm"]),
        )
        if kind == "flatten":
            return Tensor(net.node("Flatten", x.name), x.channels * x.places)
        if kind == "reshape":
            return Tensor(net.node("Reshape", x.name, net.ints(0, -1)), x.channels * x.places)
        if kind in ("mean", "max"):
            stated: dict[str, Any] = {"axes": [2, 3]} if self.opset < 18 else {}
            extra = [] if stated else [net.ints(2, 3)]
            op = "ReduceMean" if kind == "mean" else "ReduceMax"
            return Tensor(net.node(op, x.name, *extra, keepdims=0, **stated), x.channels)
        if kind == "norm":
            stated = {"axes": [2, 3]} if self.opset < 18 else {}
            extra = [] if stated else [net.ints(2, 3)]
            op = self.pick(["ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceMin", "ReduceLogSumExp"])
            return Tensor(net.node(op, x.name, *extra, keepdims=0, **stated), x.channels)
        if kind == "lp":
            return Tensor(net.node("Flatten", net.node("GlobalLpPool", x.name)), x.channels)
        pooled = net.node("GlobalAveragePool" if kind == "global" else "GlobalMaxPool", x.name)
        return Tensor(net.node("Flatten", pooled), x.channels)

    def model(self) -> onnx.ModelProto:
        side = 6 if self.flag() else 0
        shape = ("batch", 3, side, side) if side else ("batch", 5)
        x = self.layer(Tensor(self.net.input(*shape), 3 if side else 5, side))
        steps: list[Callable[[Tensor], Tensor]] = [
            self.function, self.affine, self.residual, self.gate, self.permuted, self.halves,
            self.dense_block, self.reshaped, self.stacked, self.recurrent, self.careful,
            *([self.depthwise, self.pool, self.grouped, self.attention] if side else []),
            *([self.transposed, self.framed, self.along_lines] if side else []),
        ]  # fmt: skip
        for _ in range(self.number(1, 3)):
            for _ in range(self.number(1, 2)):
                x = self.pick(steps)(x)
            x = self.layer(x)
        x = self.flat(self.function(x))
        return self.net.build(self.net.dense("head", x.name, self.net.normal(3, x.channels), self.net.normal(3)))


models = st.composite(lambda draw: Generator(Drawn(draw)).model())
