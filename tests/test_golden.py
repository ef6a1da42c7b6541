"""Golden plans: what a run decides on small seeded models, as files in golden/.

Indices must be equal, floats equal to 1e-5, weights of refits to 1e-3 of the largest: they are kept to four digits, and
what onnxruntime computes differs by less between hosts. After a wanted change write them again and read the difference:

    python -m pytest -k golden --regenerate-golden && git diff tests
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.lossless import LOSSLESS
from support.planted.cases import (
    COPIES,
    MAINS,
    planted_columns,
    planted_rows,
)
from support.planted.net import Net

from onnx_condense import Options, condense

GOLDEN = Path(__file__).parent / "golden"

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


def recurrent() -> onnx.ModelProto:
    """An LSTM whose units 2 and 5 are nearly equal to others."""
    net = Net(seed=107)
    weights = [net.normal(1, 4, 6, 5), net.normal(1, 4, 6, 6), net.normal(1, 8, 6)]
    for value in weights:
        for j, m in ((2, 0), (5, 1)):
            value[:, :, j] = value[:, :, m] + 0.05 * net.normal(*value[:, :, m].shape)
    flat = (net.constant(value.reshape(1, -1, *value.shape[3:])) for value in weights)
    hidden = net.node("LSTM", net.input(4, "batch", 5), *flat, name="units", hidden_size=6)
    return net.build(net.matmul("head", net.node("Squeeze", hidden, net.ints(1)), net.normal(3, 6)))


def images(count: int) -> dict[str, np.ndarray]:
    """Inputs of few dimensions, as real ones are."""
    rng = np.random.default_rng(108)
    return {"x": (rng.standard_normal((count, 6)) @ rng.standard_normal((6, 192))).reshape(-1, 3, 8, 8)}


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], Options]] = {
    "mlp-0.88": (mlp, Options(threshold=0.88, align=1)),
    "mlp-0.7-sequential": (mlp, Options(threshold=0.7, merge="ratio", align=1, sequential=True)),
    "mlp-tolerance-0.1": (mlp, Options(threshold=0.7, tolerance=0.1, align=1)),
    "mlp-error-0.2": (mlp, Options(budget=("error", 0.2), align=1)),
    "convnet-0.8-align-2": (convnet, Options(threshold=0.8, align=2)),
    "convnet-0.8-folded": (convnet, Options(threshold=0.8, align=1, fold_batchnorm=True)),
    "convnet-0.8-moments": (convnet, Options(threshold=0.8, align=1, merge="moments")),
    "convnet-0.8-calibrated": (convnet, Options(threshold=0.8, align=1, merge="calibrated", calibration=images(40))),
    "convnet-params-0.6-calibrated": (convnet, Options(budget=("params", 0.6), align=1, calibration=images(40))),
    "residual-0.7": (residual, Options(threshold=0.7, align=1)),
    "residual-params-0.6": (residual, Options(budget=("params", 0.6), align=1)),
    "separable-joint-0.7": (separable, Options(threshold=0.7, align=1)),
    "separable-kernel-0.8": (separable, Options(threshold=0.8, align=1, depthwise="kernel")),
    "separable-macs-0.7": (separable, Options(budget=("macs", 0.7), align=1)),
    "gated-0.9-delete": (gated, Options(threshold=0.9, align=1, merge="delete")),
    "recurrent-0.9": (recurrent, Options(threshold=0.9, align=1)),
    "exact": (exact, LOSSLESS),
}


def content(name: str) -> dict[str, Any]:
    """A plan; without the model's sha256, which follows onnx's serialization."""
    build, options = CASES[name]
    plan = condense(build(), options).plan
    result: dict[str, Any] = json.loads(json.dumps(plan.to_json() | {"refits": []}))
    del result["model_sha256"], result["measured"]
    for refit in plan.refits:
        named = {key: getattr(refit, key) for key in ("node", "input", "layer", "source")}
        for key in ("weight", "shift"):
            value = getattr(refit, key)
            named[key] = {"shape": list(value.shape), "values": value.astype(float).reshape(-1).tolist()}
        result["refits"].append(named)
    return result


def written(found: Any) -> str:
    """JSON with a line for each list of numbers; weights of refits to four digits, other numbers to seven."""

    def rounded(value: Any, digits: int = 7) -> Any:
        if isinstance(value, dict):
            return {key: rounded(part, 4 if key in ("weight", "shift") else digits) for key, part in value.items()}
        if isinstance(value, list):
            return [rounded(part, digits) for part in value]
        return float(f"{value:.{digits}g}") if isinstance(value, float) else value

    text = json.dumps(rounded(found), indent=1) + "\n"
    return re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda match: f"[{' '.join(match[1].split())}]", text)


def assert_same(found: Any, golden: Any, key: str = "") -> None:
    """Equal but for the rounding of numbers that are computed."""
    if isinstance(golden, dict) and key in ("weight", "shift"):
        assert found["shape"] == golden["shape"]
        size = max(map(abs, golden["values"]), default=0.0)
        np.testing.assert_allclose(found["values"], golden["values"], rtol=0, atol=1e-3 * size)
    elif isinstance(golden, dict):
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
        assert found == golden, key


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str, regenerate: bool) -> None:
    path, found = GOLDEN / f"{name}.json", content(name)
    if regenerate:
        path.write_text(written(found))
    else:
        assert_same(found, json.loads(path.read_text()))


@pytest.mark.parametrize("name", CASES)
def test_golden_plans_merge_something(name: str) -> None:
    groups = json.loads((GOLDEN / f"{name}.json").read_text())["groups"]
    assert any(main != i for group in groups for i, main in enumerate(group["main"]))


def test_every_method_and_source_of_weights_has_a_golden_plan() -> None:
    plans = [json.loads((GOLDEN / f"{name}.json").read_text()) for name in CASES]
    assert {plan["method"] for plan in plans} == {"lossless", "auto", "calibrated", "moments", "ratio", "delete"}
    sources = {refit["source"] for plan in plans for refit in plan["refits"]}
    assert sources == {"weights", "batch-normalization", "calibration"}


def test_no_golden_file_without_a_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(CASES)
