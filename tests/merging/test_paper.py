"""Clustered networks against an independent implementation of the paper (reference.py): same widths, same
outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import onnx
import pytest
from support import reference
from support.planted.net import (
    Net,
    run,
    signed_feed,
    widths,
)
from support.reference import Layer

from onnx_condense import Options, condense

Doubles = reference.Doubles


@dataclass(frozen=True)
class Style:
    """How layers become nodes. dense: "gemm" (transB=1), "gemm-t" (transB=0) or "matmul"; pads of every
    Conv.
    """

    dense: str = "gemm"
    padded: bool = False
    flatten: str = "Flatten"


def clustered(rng: np.random.Generator, count: int, size: int, spread: float) -> tuple[Doubles, Doubles]:
    """Rows and biases around count // 3 directions of any length, some pairs nearly opposite."""
    centres = rng.standard_normal((max(2, count // 3), size + 1))
    chosen = centres[rng.integers(0, len(centres), count)]
    noise = spread * rng.standard_normal((count, size + 1)) * rng.choice([0.3, 1.0, 2.0], (count, 1))
    rows = (chosen + noise) * rng.uniform(0.4, 2.0, (count, 1)) / np.sqrt(size)
    return rows[:, :-1], rows[:, -1]


def mlp(sizes: tuple[int, ...], activation: str, bias: bool = True, spread: float = 0.25, seed: int = 0) -> list[Layer]:
    rng = np.random.default_rng(seed)
    layers = []
    for inputs, outputs in pairwise(sizes):
        rows, offsets = clustered(rng, outputs, inputs, spread)
        layers.append(Layer(rows, offsets if bias else None, activation=activation))
    return [*layers[:-1], replace(layers[-1], activation="")]


def convnet(
    channels: tuple[int, ...],
    *,
    bias: bool = True,
    norm: bool = False,
    pool: bool = False,
    classes: tuple[int, ...] = (5,),
    side: int = 12,
    activation: str = "Relu",
    padded: bool = False,
    spread: float = 0.3,
    seed: int = 0,
) -> list[Layer]:
    """3x3 Convs (BatchNormalization, activation, MaxPool 2x2), Flatten, dense layers."""
    rng = np.random.default_rng(seed)
    layers = []
    for inputs, outputs in pairwise(channels):
        rows, offsets = clustered(rng, outputs, inputs * 9, spread)
        side = (side if padded else side - 2) // (2 if pool else 1)
        statistics = None
        if norm:
            scale, variance = rng.uniform(0.5, 1.5, outputs), rng.uniform(0.5, 2, outputs)
            statistics = (
                scale,
                0.3 * rng.standard_normal(outputs),
                0.3 * rng.standard_normal(outputs),
                variance,
            )
        kernels = rows.reshape(outputs, inputs, 3, 3)
        layers.append(Layer(kernels, offsets if bias else None, statistics, activation, pool))
    width, spatial = channels[-1], side * side
    for outputs in classes:
        rows, offsets = clustered(rng, outputs, width * spatial, spread)
        layers.append(Layer(rows, offsets if bias else None, activation="Relu", spatial=spatial))
        width, spatial = outputs, 1
    return [*layers[:-1], replace(layers[-1], activation="")]


def export(layers: list[Layer], style: Style) -> onnx.ModelProto:
    net = Net()
    first = layers[0].weight
    dense = first.ndim == 2
    data = net.input("batch", first.shape[1]) if dense else net.input("batch", first.shape[1], 12, 12)
    for index, layer in enumerate(layers):
        name = f"layer{index}"
        if layer.weight.ndim == 4:
            data = net.conv(name, data, layer.weight, layer.bias, pads=[int(style.padded)] * 4)
        else:
            if index and layers[index - 1].weight.ndim == 4:
                shape = () if style.flatten == "Flatten" else (net.ints(0, -1),)
                data = net.node(style.flatten, data, *shape)
            if style.dense == "matmul":
                data = net.matmul(name, data, layer.weight, layer.bias)
            else:
                data = net.dense(name, data, layer.weight, layer.bias, trans_b=style.dense == "gemm")
        if layer.norm is not None:
            data = net.batchnorm(data, *layer.norm)
        if layer.activation:
            data = net.node(layer.activation, data)
        if layer.pool:
            data = net.node("MaxPool", data, kernel_shape=[2, 2], strides=[2, 2])
    return net.build(data)


Build = Callable[[], tuple[list[Layer], Style]]

NETWORKS: dict[str, Build] = {
    "mlp relu": lambda: (mlp((6, 24, 18, 4), "Relu"), Style()),
    "mlp relu, transB=0": lambda: (mlp((6, 24, 18, 4), "Relu", seed=1), Style("gemm-t")),
    "mlp relu, MatMul and Add": lambda: (mlp((6, 24, 18, 4), "Relu", seed=2), Style("matmul")),
    "mlp relu, no bias": lambda: (mlp((7, 21, 15, 3), "Relu", bias=False, seed=3), Style()),
    "mlp relu, MatMul without bias": lambda: (mlp((7, 21, 3), "Relu", bias=False, seed=4), Style("matmul")),
    "mlp leaky relu, deep": lambda: (mlp((5, 20, 20, 20, 16, 3), "LeakyRelu", seed=5), Style()),
    "mlp tanh": lambda: (mlp((6, 24, 18, 4), "Tanh", spread=0.15, seed=6), Style()),
    "mlp softsign, transB=0": lambda: (mlp((3, 30, 4), "Softsign", spread=0.15, seed=7), Style("gemm-t")),
    "mlp sigmoid": lambda: (mlp((3, 30, 18, 4), "Sigmoid", spread=0.15, seed=8), Style()),
    "mlp elu": lambda: (mlp((6, 24, 4), "Elu", seed=9), Style("matmul")),
    "mlp linear": lambda: (mlp((4, 24, 18, 4), "", bias=False, seed=10), Style()),
    "mlp relu, wide": lambda: (mlp((16, 96, 64, 8), "Relu", spread=0.35, seed=11), Style()),
    "mlp relu, two inputs": lambda: (mlp((2, 40, 40, 1), "Relu", spread=0.1, seed=12), Style()),
    "conv": lambda: (convnet((3, 12, 9), seed=13), Style()),
    "conv, no bias": lambda: (convnet((2, 12, 12), bias=False, seed=14), Style("gemm-t")),
    "conv, padded": lambda: (convnet((3, 12, 9), padded=True, seed=15), Style(padded=True)),
    "conv, norm": lambda: (convnet((3, 12, 9), norm=True, bias=False, seed=16), Style()),
    "conv, norm and bias, padded": lambda: (
        convnet((3, 12, 9), norm=True, padded=True, seed=17),
        Style("matmul", padded=True),
    ),
    "conv, pool": lambda: (convnet((3, 12, 9), pool=True, padded=True, seed=18), Style(padded=True)),
    "conv, norm, pool, two dense": lambda: (
        convnet((3, 12, 12), norm=True, pool=True, classes=(15, 4), seed=19),
        Style(flatten="Reshape"),
    ),
    "conv, leaky relu": lambda: (convnet((1, 16, 12), activation="LeakyRelu", seed=20), Style("gemm-t")),
    "conv, three": lambda: (convnet((3, 10, 10, 10), norm=True, seed=21), Style()),
}


@pytest.mark.parametrize("threshold", [0.95, 0.88, 0.7])
@pytest.mark.parametrize("name", NETWORKS)
def test_paper(name: str, threshold: float) -> None:
    layers, style = NETWORKS[name]()
    layers = [rounded(layer) for layer in layers]
    model, expected = export(layers, style), export(reference.condense(layers, threshold), style)
    result = condense(model, Options(threshold=threshold, merge="ratio", align=1))
    assert widths(result.model) == widths(expected)
    feed = signed_feed(model, batch=16)
    got, wanted = run(result.model, feed)[0], run(expected, feed)[0]
    assert np.linalg.norm(got - wanted) <= 1e-5 * np.linalg.norm(wanted)


def rounded(layer: Layer) -> Layer:
    """The layer with the float32 numbers that the file holds."""

    def round_(value: Doubles) -> Doubles:
        return value.astype(np.float32).astype(np.float64)

    norm = None if layer.norm is None else tuple(map(round_, layer.norm))
    bias = None if layer.bias is None else round_(layer.bias)
    return replace(layer, weight=round_(layer.weight), bias=bias, norm=norm)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_are_clustered(name: str) -> None:
    """The comparison above means something: at 0.7 each network shrinks, at 0.95 none vanishes."""
    layers, style = NETWORKS[name]()
    before = sum(widths(export(layers, style)).values())
    loose, strict = (sum(widths(export(reference.condense(layers, t), style)).values()) for t in (0.7, 0.95))
    assert loose < strict <= before
    assert loose < 0.9 * before


def test_reference_on_the_papers_own_example() -> None:
    """Two neurons of one direction merge into the main one, exactly (section 2.1.3)."""
    weight = np.array([[1.0, 2.0], [3.0, 6.0], [2.0, -1.0]])
    bias = np.array([0.5, 1.5, 0.0])
    layers = [Layer(weight, bias, activation="Relu"), Layer(np.array([[1.0, 1.0, 1.0]]), np.zeros(1))]
    first, second = reference.condense(layers, 0.9)
    np.testing.assert_allclose(first.weight, weight[[0, 2]])
    np.testing.assert_allclose(second.weight, [[1 + 3, 1]])


def test_thresholds_per_network_differ_from_the_original() -> None:
    """Ratio merging at 0.7 changes the function: equal outputs are no accident of a network that ignores
    its input.
    """
    layers, style = NETWORKS["mlp relu"]()
    model = export(layers, style)
    condensed = condense(model, Options(threshold=0.7, merge="ratio", align=1)).model
    feed = signed_feed(model, batch=16)
    a, b = run(model, feed)[0], run(condensed, feed)[0]
    assert np.linalg.norm(a - b) > 1e-3 * np.linalg.norm(a)
