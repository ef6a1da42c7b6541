"""An example trainer for `onnx-condense auto`, in numpy: fits Gemm-Relu networks to the digits of models/digits.npz.

    python tools/digits_trainer.py --new digits_mlp.onnx --widths 64,64 --steps 60      # a first network
    onnx-condense auto digits_mlp.onnx --work run --trainer "python tools/digits_trainer.py"

A step is one pass over the 1,347 training images (every fourth image is kept for the score, which is the accuracy
there), in batches of 32, with Adam. The seed is taken from the weights, so the same call gives the same result.
"""

from __future__ import annotations

import argparse
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

DATA = Path(__file__).resolve().parent.parent / "models" / "digits.npz"
BATCH = 32
Array = NDArray[np.float32]


def digits() -> tuple[Array, NDArray[np.int64], Array, NDArray[np.int64]]:
    """Training images and labels, validation images and labels; images [n, 64] in [0, 1]."""
    with np.load(DATA) as file:
        images, labels = (file["images"] / np.float32(16)).astype(np.float32), file["labels"].astype(np.int64)
    held = np.arange(len(labels)) % 4 == 0
    return images[~held], labels[~held], images[held], labels[held]


def layers(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """Names of weight [out, in] and bias [out] of every Gemm. Raises SystemExit for any other network."""
    found = []
    for position, node in enumerate(model.graph.node):
        if node.op_type != ("Relu" if position % 2 else "Gemm"):
            raise SystemExit("digits_trainer.py trains Gemm-Relu networks only")
        if node.op_type == "Gemm":
            if {a.name: a.i for a in node.attribute if a.name.startswith("trans")} != {"transB": 1}:
                raise SystemExit("digits_trainer.py wants Gemm with transB = 1")
            found.append((node.input[1], node.input[2]))
    return found


def forward(weights: list[Array], x: Array) -> list[Array]:
    """The inputs of every layer, and the logits last; `weights` are weight, bias, weight, bias and so on."""
    values = [x]
    for i in range(0, len(weights), 2):
        z = values[-1] @ weights[i].T + weights[i + 1]
        values.append(z if i + 2 == len(weights) else np.maximum(z, 0))
    return values


def gradients(weights: list[Array], x: Array, labels: NDArray[np.int64]) -> list[Array]:
    """Of the mean cross-entropy, in the order of `weights`."""
    values = forward(weights, x)
    logits = values[-1]
    delta = np.exp(logits - logits.max(axis=1, keepdims=True))
    delta /= delta.sum(axis=1, keepdims=True)
    delta[np.arange(len(labels)), labels] -= 1
    delta /= len(labels)
    found: list[Array] = []
    for i in range(len(weights) - 2, -1, -2):
        inputs = values[i // 2]
        found = [delta.T @ inputs, delta.sum(axis=0), *found]
        delta = (delta @ weights[i]) * (inputs > 0)
    return found


def fit(weights: list[Array], rate: float, steps: int, seed: int) -> list[Array]:
    """Adam for `steps` passes over the training images."""
    images, labels, _, _ = digits()
    generator = np.random.default_rng(seed)
    first, second, count = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights], 0
    for _ in range(steps):
        order = generator.permutation(len(labels))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            count += 1
            for i, g in enumerate(gradients(weights, images[batch], labels[batch])):
                first[i] = 0.9 * first[i] + 0.1 * g
                second[i] = 0.999 * second[i] + 0.001 * g * g
                step = first[i] / (1 - 0.9**count) / (np.sqrt(second[i] / (1 - 0.999**count)) + 1e-8)
                weights[i] = (weights[i] - np.float32(rate) * step).astype(np.float32)
    return weights


def score(weights: list[Array]) -> float:
    """Accuracy on the validation images."""
    _, _, images, labels = digits()
    return float((forward(weights, images)[-1].argmax(axis=1) == labels).mean())


def new(widths: list[int], gamma: float, seed: int) -> onnx.ModelProto:
    """An untrained network 64-widths-10 with weights from N(0, (fan_in^-gamma)²): small ones condense (the paper)."""
    generator = np.random.default_rng(seed)
    sizes = [64, *widths, 10]
    nodes, weights = [], []
    for i in range(len(sizes) - 1):
        deviation = sizes[i] ** -gamma
        value = (generator.standard_normal((sizes[i + 1], sizes[i])) * deviation).astype(np.float32)
        bias = np.zeros(sizes[i + 1], dtype=np.float32)
        weights += [numpy_helper.from_array(value, f"w{i}"), numpy_helper.from_array(bias, f"b{i}")]
        last = i + 2 == len(sizes)
        source, target = f"h{i}" if i else "input", "output" if last else f"z{i}"
        nodes.append(helper.make_node("Gemm", [source, f"w{i}", f"b{i}"], [target], name=f"layer{i}", transB=1))
        if not last:
            nodes.append(helper.make_node("Relu", [target], [f"h{i + 1}"], name=f"relu{i}"))
    ports = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", c])
        for n, c in (("input", 64), ("output", 10))
    ]
    graph = helper.make_graph(nodes, "digits", ports[:1], ports[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def read(model: onnx.ModelProto) -> list[Array]:
    """Copies of the weights, in the order of `layers`."""
    stored = {t.name: t for t in model.graph.initializer}
    return [numpy_helper.to_array(stored[name]).astype(np.float32) for pair in layers(model) for name in pair]


def write(model: onnx.ModelProto, weights: list[Array]) -> onnx.ModelProto:
    """Puts weights back under their names."""
    names = [name for pair in layers(model) for name in pair]
    trained = dict(zip(names, weights, strict=True))
    for tensor in model.graph.initializer:
        if tensor.name in trained:
            tensor.CopyFrom(numpy_helper.from_array(trained[tensor.name], tensor.name))
    return model


class Digits:
    """The same trainer as a Python object (see onnx_condense.finetune.Trainer)."""

    def train(
        self, model: onnx.ModelProto, steps: int, learning_rate: float, done: int
    ) -> tuple[onnx.ModelProto, dict[str, Any]]:
        """The model after `steps` passes over the training images, and its accuracy."""
        first = read(model)
        seed = zlib.crc32(b"".join(weight.tobytes() for weight in first))
        weights = fit(first, learning_rate, steps, seed)
        return write(model, weights), {"score": score(weights)}

    def evaluate(self, model: onnx.ModelProto) -> dict[str, Any]:
        """The accuracy on the validation images."""
        return {"score": score(read(model))}


def arguments() -> argparse.Namespace:
    """What `onnx-condense auto` passes, and what --new wants."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add: Any = parser.add_argument
    add("--model", type=Path)
    add("--output", type=Path)
    add("--steps", type=int, default=0)
    add("--learning-rate", type=float, default=3e-3)
    add("--metrics", type=Path)
    add("--evaluate-only", action="store_true")
    add("--new", type=Path, metavar="OUT.onnx", help="make and train a first network instead")
    add("--widths", default="128,64", help="of its hidden layers")
    add("--gamma", type=float, default=0.5)
    add("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """One call."""
    given = arguments()
    if given.new:
        model = new([int(w) for w in given.widths.split(",")], given.gamma, given.seed)
    else:
        model = onnx.load(given.model)
    if given.evaluate_only:
        metrics = Digits().evaluate(model)
    else:
        model, metrics = Digits().train(model, given.steps, given.learning_rate, 0)
        onnx.save(model, given.new or given.output)
    if given.metrics:
        given.metrics.write_text(json.dumps(metrics))
    else:
        print(f"accuracy {metrics['score']:.4f}")


if __name__ == "__main__":
    main()
