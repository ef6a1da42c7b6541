"""Golden plans: what a run decides on small seeded models, as files in golden/.

Indices must be equal, floats equal to 1e-5. After a wanted change write them again, and read the difference:

    ONNX_CONDENSE_GOLDEN=write python -m pytest tests/test_golden.py && git diff tests/golden
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.lossless import LOSSLESS
from support.planted.net import COPIES, MAINS, Net, planted_columns, planted_rows

from onnx_condense import Options, condense

GOLDEN = Path(__file__).parent / "golden"
WRITE = os.environ.get("ONNX_CONDENSE_GOLDEN") == "write"

INDICES = ("index", "width", "main", "held", "node", "input", "path", "layers", "layer")
FLOATS = ("cosine", "highest", "ratio", "constant")


def noisy(net: Net, *tail: int) -> tuple[np.ndarray, np.ndarray]:
    """Planted scaled rows with noise of several sizes: cosines from 0.7 to 1."""
    rows, bias = planted_rows(net, "scaled", *tail)
    size = np.linspace(0.05, 0.5, len(rows)).reshape(-1, *[1] * len(tail)).astype(np.float32)
    return rows + size * 0.5 * net.normal(*rows.shape), bias


def mlp() -> onnx.ModelProto:
    net = Net(seed=101)
    hidden = net.node("Relu", net.dense("first", net.input("batch", 5), *noisy(net, 5)))
    hidden = net.node("Tanh", net.dense("second", hidden, *noisy(net, 8)))
    return net.build(net.dense("third", hidden, net.normal(3, 8), net.normal(3)))


def convnet() -> onnx.ModelProto:
    net = Net(seed=102)
    hidden = net.conv("first", net.input("batch", 3, 8, 8), *noisy(net, 3, 3, 3))
    parameters = net.rng.uniform(0.5, 1.5, 8), net.normal(8), net.normal(8), net.rng.uniform(0.5, 2, 8)
    hidden = net.node("Relu", net.batchnorm(hidden, *parameters))
    hidden = net.node("Relu", net.conv("second", hidden, *noisy(net, 8, 3, 3), pads=[1] * 4))
    hidden = net.node("Flatten", net.node("MaxPool", hidden, kernel_shape=[2, 2], strides=[2, 2]))
    return net.build(net.dense("third", hidden, net.normal(4, 72), net.normal(4)))


def residual() -> onnx.ModelProto:
    net = Net(seed=103)
    stream = net.node("Relu", net.conv("stem", net.input("batch", 3, 6, 6), *noisy(net, 3, 3, 3)))
    inner = net.node("Relu", net.conv("inner", stream, *noisy(net, 8, 3, 3), pads=[1] * 4))
    stream = net.node("Add", stream, net.conv("outer", inner, *noisy(net, 8, 1, 1)))
    parameters = net.rng.uniform(0.5, 1.5, 8), net.normal(8), net.normal(8), net.rng.uniform(0.5, 2, 8)
    head = net.node("GlobalAveragePool", net.node("Relu", net.batchnorm(stream, *parameters)))
    return net.build(net.conv("head", head, net.normal(4, 8, 1, 1)))


def separable() -> onnx.ModelProto:
    net = Net(seed=104)
    hidden = net.node("Relu", net.conv("expand", net.input("batch", 3, 6, 6), *noisy(net, 3, 1, 1)))
    taps, bias = noisy(net, 1, 3, 3)
    hidden = net.conv("depthwise", hidden, taps, bias, group=8, pads=[1] * 4)
    hidden = net.node("Clip", hidden, net.constant(0.0), net.constant(6.0))
    return net.build(net.conv("project", hidden, net.normal(4, 8, 1, 1)))


def gated() -> onnx.ModelProto:
    net = Net(seed=105)
    data = net.input("batch", 5)
    gate = net.node("Sigmoid", net.dense("gate", data, *planted_rows(net, "near", 5)))
    hidden = net.node("Mul", net.node("LeakyRelu", net.dense("value", data, *noisy(net, 5))), gate)
    return net.build(net.dense("head", hidden, net.normal(3, 8), net.normal(3)))


def exact() -> onnx.ModelProto:
    """Scaled, shifted, dead and unread channels over two layers."""
    net = Net(seed=106)
    rows, bias = planted_rows(net, "shifted", 5)
    hidden = net.dense("first", net.input("batch", 5), rows, bias)
    second, offsets = planted_rows(net, "scaled", 8)
    second[COPIES[0]] = offsets[COPIES[0]] = 0
    hidden = net.node("Relu", net.dense("second", hidden, second, offsets))
    columns = planted_columns(net, "scaled", 3)
    columns[:, MAINS.index(4)] = 0
    return net.build(net.dense("third", hidden, columns, net.normal(3)))


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], Options]] = {
    "mlp-0.88": (mlp, Options(threshold=0.88, align=1)),
    "mlp-0.7-sequential": (mlp, Options(threshold=0.7, merge="ratio", align=1, sequential=True)),
    "convnet-0.8-align-2": (convnet, Options(threshold=0.8, align=2)),
    "residual-0.7": (residual, Options(threshold=0.7, align=1)),
    "separable-joint-0.7": (separable, Options(threshold=0.7, align=1)),
    "separable-kernel-0.8": (separable, Options(threshold=0.8, align=1, depthwise="kernel")),
    "gated-0.9-delete": (gated, Options(threshold=0.9, align=1, merge="delete")),
    "exact": (exact, LOSSLESS),
}


def content(name: str) -> dict[str, Any]:
    """The decisions of a plan; not the model's sha256, which follows onnx's serialization."""
    build, options = CASES[name]
    groups = []
    for group in condense(build(), options).plan.groups:
        reads = [
            {key: getattr(read, key) for key in ("node", "input", "path", "layer", "ratio", "constant")}
            for read in group.reads
        ]
        named = {key: getattr(group, key) for key in ("index", "layers", "main", "cosine", "highest", "held")}
        groups.append(named | {"reads": reads})
    result: dict[str, Any] = json.loads(json.dumps({"groups": groups}))
    return result


def assert_same(found: Any, golden: Any, key: str = "") -> None:
    if isinstance(golden, dict):
        assert found.keys() == golden.keys()
        for name in golden:
            assert_same(found[name], golden[name], name)
    elif isinstance(golden, list) and golden and isinstance(golden[0], dict):
        assert len(found) == len(golden)
        for left, right in zip(found, golden, strict=True):
            assert_same(left, right, key)
    elif key in FLOATS:
        np.testing.assert_allclose(found, golden, rtol=1e-5, atol=1e-5)
    else:
        assert key in INDICES
        assert found == golden


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    path, found = GOLDEN / f"{name}.json", content(name)
    if WRITE:
        path.parent.mkdir(exist_ok=True)
        rounded = json.loads(json.dumps(found), parse_float=lambda number: float(f"{float(number):.7g}"))
        path.write_text(json.dumps(rounded, indent=1) + "\n")
    assert_same(found, json.loads(path.read_text()))


@pytest.mark.parametrize("name", CASES)
def test_golden_plans_merge_something(name: str) -> None:
    groups = json.loads((GOLDEN / f"{name}.json").read_text())["groups"]
    assert any(main != i for group in groups for i, main in enumerate(group["main"]))


def test_no_golden_file_without_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(CASES)
