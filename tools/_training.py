"""What the training scripts share: determinism, condensing initialization, fitting, export and a report."""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from evaluate import evaluate
from onnx import numpy_helper
from torch import Tensor, nn

FloatArray = npt.NDArray[np.float32]
Loss = Callable[[Tensor, Tensor], Tensor]

INPUT_NAME = "input"
OUTPUT_NAME = "output"
OPSET = 17
MAX_IR_VERSION = 10
THRESHOLDS = (0.999, 0.95, 0.88, 0.7)
WEAK = 0.01  # of the layer's longest neuron
MODELS_DIR = Path(__file__).resolve().parent.parent / "models"


@dataclass(frozen=True)
class FitSettings:
    """An optimizer with a cosine-annealed learning rate; noise is the deviation added to the inputs."""

    optimizer: Literal["adam", "sgd"]
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.0
    noise: float = 0.0

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return Adam with decoupled weight decay, or stochastic gradient descent with momentum 0.9."""
        rate, decay = self.learning_rate, self.weight_decay
        if self.optimizer == "adam":
            return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
        return torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay, momentum=0.9)


@dataclass(frozen=True)
class Split:
    """Training and held-out samples."""

    train_inputs: npt.NDArray[np.floating]
    train_targets: npt.NDArray[np.generic]
    test_inputs: npt.NDArray[np.floating]
    test_targets: npt.NDArray[np.generic]


def parse_arguments(description: str | None, default_name: str) -> argparse.Namespace:
    """Read the --seed and --out options that every training script has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=int, default=0, help="seed of the data, the weights and the batches")
    parser.add_argument("--out", type=Path, default=MODELS_DIR / default_name, help="ONNX file to write")
    return parser.parse_args()


def make_deterministic(seed: int, threads: int = 2) -> None:
    """Seed torch and restrict it to deterministic kernels and a fixed number of threads."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)


def initialize_small(model: nn.Module, gamma: float) -> None:
    """Draw every Linear and Conv parameter from N(0, (fan_in^-gamma)^2), the condensing initialization."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            std = module.weight[0].numel() ** -gamma
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=std)


def fit(model: nn.Module, inputs: Tensor, targets: Tensor, loss_of: Loss, settings: FitSettings) -> None:
    """Train the model in place and leave it in evaluation mode."""
    optimizer = settings.make_optimizer(model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    model.train()
    for step, batch in enumerate(_batches(len(inputs), settings)):
        samples = inputs[batch]
        loss = loss_of(model(samples + settings.noise * torch.randn_like(samples)), targets[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % (settings.steps // 10) == 0:
            print(f"step {step:6d}  loss {loss.item():.3e}", flush=True)
    model.eval()


def _batches(count: int, settings: FitSettings) -> Iterator[Tensor]:
    produced = 0
    while True:
        order = torch.randperm(count)
        for start in range(0, count - settings.batch_size + 1, settings.batch_size):
            if produced == settings.steps:
                return
            produced += 1
            yield order[start : start + settings.batch_size]


def save_model(model: nn.Module, split: Split, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write the ONNX file and its held-out samples, check both and print what they are worth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _export(model, torch.as_tensor(split.test_inputs[:2], dtype=torch.float32), path)
    _finish(model, path, metadata or {})
    data = path.with_suffix(".test.npz")
    arrays = {INPUT_NAME: split.test_inputs.astype(np.float32), "target": split.test_targets}
    np.savez_compressed(data, allow_pickle=False, **arrays)
    print(json.dumps(evaluate(path, data)))
    for layer, kept in condensation_report(onnx.load(path)).items():
        print(f"{layer:40s} {kept}")


def _export(model: nn.Module, example: Tensor, path: Path) -> None:
    # The TorchScript exporter: in PRESERVE mode it does not fold BatchNormalization into the convolutions.
    torch.onnx.export(
        model.eval(),
        (example,),
        str(path),
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        opset_version=OPSET,
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_axes={INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}},
    )


def _finish(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    proto = onnx.load(path)
    proto.graph.name = path.stem
    proto.doc_string = proto.graph.doc_string = ""
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.helper.set_model_props(proto, metadata)
    proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    _check(model, proto)
    onnx.save(proto, path)


def _check(model: nn.Module, proto: onnx.ModelProto) -> None:
    onnx.checker.check_model(proto, full_check=True)
    normalizations = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    expected = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    if len(normalizations) != expected:
        raise RuntimeError(f"{len(normalizations)} BatchNormalization nodes in the file, not {expected}")
    for node in normalizations:
        training = any(a.name == "training_mode" and a.i for a in node.attribute)
        if training or len(node.output) != 1:
            raise RuntimeError(f"{node.name} is not in inference form")
    if proto.ir_version > MAX_IR_VERSION:
        raise RuntimeError(f"ir_version {proto.ir_version} is above {MAX_IR_VERSION}")


def condensation_report(proto: onnx.ModelProto) -> dict[str, str]:
    """Per hidden layer, how many neurons stay at each cosine threshold, and how many are almost zero."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    consumers = {name: node for node in proto.graph.node for name in node.input}
    layers = [node for node in proto.graph.node if node.op_type in ("Gemm", "Conv")]
    report = {}
    for node in layers[:-1]:
        rows = _neuron_rows(node, consumers[node.output[0]], weights)
        kept = "  ".join(f"{count_groups(rows, limit):4d} at {limit}" for limit in THRESHOLDS)
        lengths = np.linalg.norm(rows, axis=1)
        weak = int((lengths < WEAK * lengths.max()).sum())
        report[node.name] = f"{len(rows):4d} neurons:  {kept}  ({weak} weak)"
    return report


def _neuron_rows(node: onnx.NodeProto, reader: onnx.NodeProto, weights: dict[str, FloatArray]) -> FloatArray:
    weight = weights[node.input[1]]
    weight = weight.reshape(len(weight), -1)
    bias = weights[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
    if reader.op_type == "BatchNormalization":
        scale, shift, mean, variance = (weights[name] for name in reader.input[1:])
        epsilon = next((a.f for a in reader.attribute if a.name == "epsilon"), 1e-5)
        factor = (scale / np.sqrt(variance + epsilon)).astype(np.float32)
        weight, bias = weight * factor[:, None], (bias - mean) * factor + shift
    return np.concatenate([weight, bias[:, None]], axis=1)


def count_groups(rows: FloatArray, threshold: float) -> int:
    """Group greedily: the neuron with the most ungrouped neighbours takes them; return the group count."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
    unit = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    near = unit @ unit.T > threshold
    np.fill_diagonal(near, True)
    ungrouped = np.ones(len(rows), dtype=bool)
    groups = 0
    while ungrouped.any():
        neighbours = np.where(ungrouped, near[:, ungrouped].sum(axis=1), -1)
        ungrouped &= ~near[np.argmax(neighbours)]
        groups += 1
    return groups
