"""Networks of usual shapes, built by code with random weights: what the tool's own speed is measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


class Net:
    """A graph that grows node by node; tensors are named by their number."""

    def __init__(self, shape: Sequence[int | str]) -> None:
        self._generator = np.random.default_rng(0)
        self._input = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def constant(self, value: NDArray[np.generic]) -> str:
        """An initializer of any shape."""
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, *shape: int) -> str:
        """An initializer of normal numbers, of a size that keeps what flows."""
        fan_in = int(np.prod(shape[1:])) if len(shape) != 2 else shape[0]
        return self.constant(self._generator.standard_normal(shape, dtype=np.float32) * np.float32(fan_in**-0.5))

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        """The output of one more node."""
        name = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def conv(
        self, x: str, widths: tuple[int, int], window: tuple[int, int] = (1, 1), groups: int = 1, act: str = ""
    ) -> str:
        """A convolution of (inputs, outputs), (size, stride), its BatchNormalization, and an activation."""
        (ins, outs), (size, stride) = widths, window
        at = {"strides": [stride] * 2, "pads": [size // 2] * 4, "kernel_shape": [size] * 2, "group": groups}
        made = self.node("Conv", x, self.weight(outs, ins // groups, size, size), **at)
        stated = (self._generator.uniform(0.5, 1.5, outs), *self._generator.normal(0, 0.1, (2, outs)), np.ones(outs))
        made = self.node("BatchNormalization", made, *(self.constant(one.astype(np.float32)) for one in stated))
        if act == "Clip":
            return self.node("Clip", made, *(self.constant(np.float32([n])[0:1].reshape(())) for n in (0, 6)))
        return self.node(act, made) if act else made

    def dense(self, x: str, ins: int, outs: int) -> str:
        """A linear map with a bias."""
        made = self.node("MatMul", x, self.weight(ins, outs))
        return self.node("Add", made, self.constant(self._generator.normal(0, 0.1, outs).astype(np.float32)))

    def gemm(self, x: str, ins: int, outs: int) -> str:
        """The same of a matrix, as exporters write it."""
        bias = self._generator.normal(0, 0.1, outs).astype(np.float32)
        weight = self._generator.standard_normal((outs, ins), dtype=np.float32) * np.float32(ins**-0.5)
        return self.node("Gemm", x, self.constant(weight), self.constant(bias), transB=1)

    def model(self, size: int) -> onnx.ModelProto:
        """All of it, with one output [n, size], that of the last node."""
        self._nodes[-1].output[0] = "y"
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n", size))]
        graph = helper.make_graph(self._nodes, "net", [self._input], outputs, self._weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def mlp(hidden: Sequence[int] = (3200, 1600, 800, 400)) -> onnx.ModelProto:
    """From 23 numbers to 23."""
    net, x, widths = Net(("n", 23)), "x", (23, *hidden, 23)
    for ins, outs in pairwise(widths):
        x = net.gemm(x, ins, outs)
        x = net.node("Relu", x) if outs != 23 else x
    return net.model(23)


def mobilenet(size: int = 224) -> onnx.ModelProto:
    """MobileNetV2 for images of a size."""
    net = Net(("n", 3, size, size))
    x, ins = net.conv("x", (3, 32), (3, 2), act="Clip"), 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for factor, outs, count, first in stages:
        for number in range(count):
            stride, wide = first if number == 0 else 1, ins * factor
            inner = net.conv(x, (ins, wide), act="Clip") if factor > 1 else x
            inner = net.conv(net.conv(inner, (wide, wide), (3, stride), wide, "Clip"), (wide, outs))
            x, ins = net.node("Add", x, inner) if stride == 1 and ins == outs else inner, outs
    x = net.node("Flatten", net.node("GlobalAveragePool", net.conv(x, (320, 1280), act="Clip")))
    net.gemm(x, 1280, 1000)
    return net.model(1000)


def resnet() -> onnx.ModelProto:
    """ResNet-50 at 224."""
    net = Net(("n", 3, 224, 224))
    x, ins = net.conv("x", (3, 64), (7, 2), act="Relu"), 64
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for width, count, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(count):
            stride = first if number == 0 else 1
            inner = net.conv(net.conv(x, (ins, width), act="Relu"), (width, width), (3, stride), act="Relu")
            beside = net.conv(x, (ins, 4 * width), (1, stride)) if number == 0 else x
            x, ins = net.node("Relu", net.node("Add", net.conv(inner, (width, 4 * width)), beside)), 4 * width
    x = net.node("Flatten", net.node("GlobalAveragePool", x))
    net.gemm(x, 2048, 1000)
    return net.model(1000)


def vit(width: int = 768, blocks: int = 12, heads: int = 12) -> onnx.ModelProto:
    """ViT-B/16 at 224, without a token of the class."""
    net = Net(("n", 3, 224, 224))
    x = net.node("Conv", "x", net.weight(width, 3, 16, 16), strides=[16, 16], kernel_shape=[16, 16])
    flat = net.constant(np.array([0, width, -1]))
    x = net.node("Transpose", net.node("Reshape", x, flat), perm=[0, 2, 1])
    x = net.node("Add", x, net.weight(1, 196, width))
    split, joined = net.constant(np.array([0, 0, heads, -1])), net.constant(np.array([0, 0, width]))
    scale, half, one = (net.constant(np.float32(n)) for n in ((width / heads) ** -0.5, 0.5, 1.0))
    root = net.constant(np.float32(2**0.5))
    for _ in range(blocks):
        even = _layer_norm(net, x, width)
        q, k, v = (net.node("Reshape", net.dense(even, width, width), split) for _ in range(3))
        q, v = (net.node("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
        scores = net.node("Mul", net.node("MatMul", q, net.node("Transpose", k, perm=[0, 2, 3, 1])), scale)
        mixed = net.node("MatMul", net.node("Softmax", scores, axis=-1), v)
        mixed = net.node("Reshape", net.node("Transpose", mixed, perm=[0, 2, 1, 3]), joined)
        x = net.node("Add", x, net.dense(mixed, width, width))
        up = net.dense(_layer_norm(net, x, width), width, 4 * width)
        bent = net.node("Add", net.node("Erf", net.node("Div", up, root)), one)
        x = net.node("Add", x, net.dense(net.node("Mul", net.node("Mul", up, bent), half), 4 * width, width))
    x = net.node("ReduceMean", _layer_norm(net, x, width), axes=[1], keepdims=0)
    net.dense(x, width, 1000)
    return net.model(1000)


def _layer_norm(net: Net, x: str, width: int) -> str:
    stated = (net.constant(value(width, np.float32)) for value in (np.ones, np.zeros))
    return net.node("LayerNormalization", x, *stated)


def chain(layers: int) -> onnx.ModelProto:
    """So many layers of 32 neurons in a row."""
    net, x = Net(("n", 32)), "x"
    for _ in range(layers):
        x = net.node("Relu", net.dense(x, 32, 32))
    return net.model(32)


NETWORKS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "MLP 23-3200-1600-800-400-23": mlp,
    "MobileNetV2 at 224": mobilenet,
    "ResNet-50 at 224": resnet,
    "ViT-B/16 at 224": vit,
    "chain of 2,500 nodes": lambda: chain(833),
    "chain of 5,000 nodes": lambda: chain(1667),
}
