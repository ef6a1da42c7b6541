"""Models whose outputs say nothing on signed inputs, or are no tensors of floats; and what really changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from support import builders

FEATURES, WIDTH, CLASSES = 8, 64, 4

ML = {"ai.onnx.ml": 1}


def network(head: str, outputs: str, before: str = "x", seed: int = 0, **weights: object) -> onnx.ModelProto:
    """Gemm, Relu, Gemm to z (float[N, 4]) on `before` (of x), and a head from z to the outputs.

    The rows of the hidden layer are noisy copies of some: aggressive settings merge them at a cost.
    """
    values: dict[str, Any] = {
        "w1": builders.clustered(WIDTH, FEATURES, 24, seed, noise=0.7),
        "w2": builders.random(CLASSES, WIDTH, seed=seed + 1, scale=0.2),
        **weights,
    }
    text = (
        f"g (float[N, {FEATURES}] x) => ({outputs}) {{ v = {before if '(' in before else f'Identity({before})'}\n"
        f"h = Gemm<transB = 1>(v, w1) r = Relu(h) z = Gemm<transB = 1>(r, w2)\n{head} }}"
    )
    return builders.build(text, values, domains=ML, check=False)


def labels() -> onnx.ModelProto:
    return network("y = ArgMax<axis = 1, keepdims = 0>(z)", "int64[N] y")


def truths() -> onnx.ModelProto:
    return network("o = Constant<value = float {0.0}>() y = Greater(z, o)", "bool[N, 4] y")


def words() -> onnx.ModelProto:
    head = (
        "k = ArgMax<axis = 1, keepdims = 0>(z)\n"
        'y = ai.onnx.ml.LabelEncoder<keys_int64s = [0, 1, 2], values_strings = ["a", "b", "c"], '
        'default_string = "d">(k)'
    )
    model = network(head, "string[N] y")
    model.opset_import[1].version = 2
    return model


def maps() -> onnx.ModelProto:
    head = "p = Softmax<axis = 1>(z) y = ai.onnx.ml.ZipMap<classlabels_int64s = [3, 1, 2, 0]>(p)"
    return network(head, "seq(map(int64, float[])) y")


def sequences() -> onnx.ModelProto:
    return network("y = SplitToSequence<axis = 1, keepdims = 1>(z)", "seq(float[N, 1]) y")


def ragged() -> onnx.ModelProto:
    head = "s = Constant<value = int64[2] {1, 3}>() y = SplitToSequence<axis = 1>(z, s)"
    return network(head, "seq(float[N, K]) y")


def logarithm() -> onnx.ModelProto:
    """NaN for all but one in 2^8 signed inputs."""
    return network("y = Identity(z)", "float[N, 4] y", "Log(x)")


def inverse_cosine() -> onnx.ModelProto:
    """NaN beyond 1."""
    return network("m = ReduceMean<axes = [1], keepdims = 1>(z) y = Identity(m)", "float[N, 1] y", "Acosh(x)")


def saturated() -> onnx.ModelProto:
    """1 to rounding for all inputs of size 1."""
    return network("t = Add(z, far) y = Sigmoid(t)", "float[N, 4] y", far=np.float32(200))


def dead() -> onnx.ModelProto:
    """Nothing passes its last Relu for inputs of size 1; what follows adds what differs by class only."""
    return network(
        "t = Sub(z, far) d = Relu(t) y = Add(d, b)",
        "float[N, 4] y",
        far=np.float32(200),
        b=np.arange(4, dtype=np.float32),
    )


def hopeless() -> onnx.ModelProto:
    """NaN for every input."""
    return network("q = Abs(z) n = Neg(q) m = Sub(n, one) y = Log(m)", "float[N, 4] y", one=np.float32(1))


def constant_beside_nan() -> onnx.ModelProto:
    """What is constant beside it is no comparison."""
    head = "q = Abs(z) n = Neg(q) m = Sub(n, one) y = Log(m) c = Identity(anchors)"
    return network(head, "float[N, 4] y, float[3] c", one=np.float32(1), anchors=np.arange(3, dtype=np.float32))


def nothing_inside() -> onnx.ModelProto:
    """NaN for every input, from the first tensor on."""
    head = "y = Identity(z)"
    model = network(head, "float[N, 4] y", "Log(m)", one=np.float32(1))
    before = builders.build(
        "g (float[N, 8] x) => (float[N, 8] m) { q = Abs(x) n = Neg(q) m = Sub(n, one) }", check=False
    )
    for place, node in enumerate(before.graph.node):
        model.graph.node.insert(place, node)
    return model


def changed(a: onnx.ModelProto, b: onnx.ModelProto, draw: Callable[[np.random.Generator], builders.Array]) -> float:
    """The largest change of an output over 2,000 drawn samples: relative L2, or the share of labels."""
    x = draw(np.random.default_rng(5)).astype(np.float32)
    sides = (ort.InferenceSession(m.SerializeToString()).run(None, {"x": x}) for m in (a, b))
    return max(_change(_flat(one), _flat(other)) for one, other in zip(*sides, strict=True))


def _flat(value: Any) -> builders.Array:
    if isinstance(value, list) and isinstance(value[0], dict):
        return np.array([[row[key] for key in sorted(row)] for row in value])
    return np.concatenate([np.ravel(part) for part in value]) if isinstance(value, list) else np.asarray(value)


def _change(a: builders.Array, b: builders.Array) -> float:
    if a.dtype.kind != "f":
        return float((a != b).mean())
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))
