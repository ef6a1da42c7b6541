"""CPU seconds of a whole run over the depth of a network, for networks of many kinds: they are to be linear.

    python tools/benchmark_depth.py [--kinds relu_chain ...] [--blocks 500 1000 2000] [--by budget] [--json FILE]

Each network is a row of equal blocks between two linear maps; half of the channels of every weight are copies of the
others, so that every group shrinks, and at a threshold that only copies reach. Weights are such that numbers keep their
size over thousands of blocks: else outputs overflow, and what costs time is drawing other inputs. A run is
`onnx-condense` with --threshold 0.9999 --align 1 (--by budget: with --budget params=0.8 --align 1), in a process of its
own; its CPU seconds are of all threads, start-up included. The ratio is of twice as many blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

WIDTH = 8
SIZE = 3
"""Of images, where there are any."""

BRANCH = 0.02
"""What a residual branch adds, of what it is given."""

WAYS = {"threshold": ("--threshold", "0.9999"), "budget": ("--budget", "params=0.8")}
"""What decides how much goes."""


class Network:
    """A network that grows node by node. data: the tensor that the next block reads."""

    def __init__(self, image: bool = False) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.data = "x"
        self._image = image
        self._generator = np.random.default_rng(0)

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node; returns its output."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], f"{op}{len(self.nodes)}", **attributes))
        return name

    def constant(self, values: Any) -> str:
        """A weight; returns its name."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype=np.float32), name))
        return name

    def linear(self, data: str, outputs: int, inputs: int, kernel: int = 1, gain: float = 1.0) -> str:
        """A linear map whose second half of rows copies the first one."""
        rows = gain * self._generator.standard_normal((outputs // 2, inputs, kernel, kernel)) / (kernel * inputs**0.5)
        return self._mapped(data, rows, kernel)

    def near_identity(self, data: str) -> str:
        """One that leaves channels, of which the second half copies the first, nearly as they are."""
        rows = self._generator.standard_normal((WIDTH // 2, WIDTH, 1, 1)) / 50
        rows[:, :, 0, 0] += np.tile(np.eye(WIDTH // 2) / 2, 2)
        return self._mapped(data, rows, 1)

    def _mapped(self, data: str, rows: np.ndarray[Any, Any], kernel: int) -> str:
        weight, bias = np.concatenate([rows, rows]), self.constant(np.zeros(2 * len(rows)))
        if not self._image:
            return self.add("Gemm", data, self.constant(weight[:, :, 0, 0]), bias, transB=1)
        return self.add("Conv", data, self.constant(weight), bias, pads=[kernel // 2] * 4)

    def normalized(self, data: str) -> str:
        """BatchNormalization."""
        numbers = [self.constant(np.full(WIDTH, value)) for value in (1, 0, 0, 1)]
        return self.add("BatchNormalization", data, *numbers)

    def filtered(self, data: str) -> str:
        """A depthwise convolution near the identity, so that numbers keep their size over thousands of them."""
        kernels = self._generator.standard_normal((WIDTH // 2, 1, 3, 3)) / 50
        kernels[:, :, 1, 1] += 1
        kernels = np.tile(kernels, (2, 1, 1, 1))
        return self.add("Conv", data, self.constant(kernels), group=WIDTH, pads=[1] * 4)

    def model(self) -> onnx.ModelProto:
        """The model."""
        space = [SIZE, SIZE] if self._image else []
        ends = [[name, onnx.TensorProto.FLOAT, ["batch", n, *space]] for name, n in (("x", 4), (self.data, 4))]
        first, last = (helper.make_tensor_value_info(*end) for end in ends)
        graph = helper.make_graph(self.nodes, "deep", [first], [last], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def relu_chain(net: Network, data: str) -> str:
    """One function after the other."""
    return net.add("Relu", data)


def doubling(net: Network, data: str) -> str:
    """The mean of a tensor and its Relu."""
    return net.add("Mul", net.add("Add", data, net.add("Relu", data)), net.constant(0.5))


def diamond(net: Network, data: str) -> str:
    """Two functions of one tensor, joined."""
    return net.add("Max", net.add("Relu", data), net.add("Tanh", data))


def gate(net: Network, data: str) -> str:
    """Swish."""
    return net.add("Mul", data, net.add("Sigmoid", data))


def mlp(net: Network, data: str) -> str:
    """A layer."""
    return net.add("Relu", net.near_identity(data))


def residual(net: Network, data: str) -> str:
    """A residual block without a function behind the sum."""
    return net.add("Add", data, net.linear(mlp(net, data), WIDTH, WIDTH, gain=BRANCH))


def residual_relu(net: Network, data: str) -> str:
    """A residual block with one."""
    return net.add("Relu", residual(net, data))


def normalized(net: Network, data: str) -> str:
    """A residual block of convolutions whose normalizations come first (pre-activation)."""
    inner = net.linear(net.add("Relu", net.normalized(data)), WIDTH, WIDTH, 3)
    return net.add("Add", data, net.linear(net.add("Relu", net.normalized(inner)), WIDTH, WIDTH, 3, BRANCH))


def convolutions(net: Network, data: str) -> str:
    """A residual block of convolutions, with normalizations behind them and a function behind the sum."""
    inner = net.add("Relu", net.normalized(net.linear(data, WIDTH, WIDTH, 3)))
    return net.add("Relu", net.add("Add", data, net.normalized(net.linear(inner, WIDTH, WIDTH, 3, BRANCH))))


def separable(net: Network, data: str) -> str:
    """An inverted residual block: expansion, depthwise, projection."""
    inner = net.filtered(net.add("Clip", net.linear(data, WIDTH, WIDTH), *_six(net)))
    return net.add("Add", data, net.linear(net.add("Clip", inner, *_six(net)), WIDTH, WIDTH, gain=BRANCH))


def depthwise(net: Network, data: str) -> str:
    """A depthwise convolution and a function."""
    return net.add("Relu", net.filtered(data))


def _six(net: Network) -> list[str]:
    return [net.constant(0), net.constant(6)]


KINDS: Mapping[str, tuple[Callable[[Network, str], str], bool]] = {
    "relu_chain": (relu_chain, False),
    "doubling": (doubling, False),
    "diamond": (diamond, False),
    "gate": (gate, False),
    "mlp": (mlp, False),
    "residual": (residual, False),
    "residual_relu": (residual_relu, False),
    "normalized": (normalized, True),
    "convolutions": (convolutions, True),
    "separable": (separable, True),
    "depthwise": (depthwise, True),
}
"""Kind -> its block, and whether it is one of images."""


def network(kind: str, blocks: int) -> onnx.ModelProto:
    """A network of equal blocks."""
    block, image = KINDS[kind]
    net = Network(image)
    net.data = net.add("Relu", net.linear(net.data, WIDTH, 4))
    for _ in range(blocks):
        net.data = block(net, net.data)
    net.data = net.linear(net.data, 4, WIDTH)
    return net.model()


def measured(kind: str, blocks: int, by: str, folder: Path) -> dict[str, Any]:
    """What a run takes and leaves."""
    source, target = folder / "deep.onnx", folder / "small.onnx"
    onnx.save(network(kind, blocks), source)
    given = (str(source), "-o", str(target), *WAYS[by], "--align", "1", "--force")
    command = [sys.executable, "-m", "onnx_condense", *given]
    with open(folder / "said", "w+") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        said.seek(0)
        if status:
            raise SystemExit(f"{kind}, {blocks} blocks: {said.read()}")
    cpu = used.ru_utime + used.ru_stime
    nodes = len(onnx.load(source).graph.node)
    return {"kind": kind, "blocks": blocks, "nodes": nodes, "cpu": round(cpu, 2), "peak_mb": used.ru_maxrss // 1024}


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Kind -> what each row takes, of the one before it."""
    found: dict[str, list[float]] = {}
    for before, row in pairwise(rows):
        if before["kind"] == row["kind"]:
            found.setdefault(row["kind"], []).append(round(row["cpu"] / before["cpu"], 2))
    return found


def main() -> int:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="CPU seconds over depth")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--blocks", nargs="+", type=int, default=[500, 1000, 2000])
    parser.add_argument("--by", choices=WAYS, default="threshold", help="what decides how much goes")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in given.kinds:
            for blocks in sorted(given.blocks):
                rows.append(measured(kind, blocks, given.by, Path(folder)))
                print(rows[-1], flush=True)
    for kind, found in ratios(rows).items():
        print(kind, *found)
    if given.json:
        host = {"machine": platform.machine(), "cores": os.cpu_count(), "onnxruntime": onnxruntime.__version__}
        given.json.write_text(json.dumps({"host": host, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
