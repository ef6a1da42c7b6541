"""Latency after pruning: onnxsim, Torch-Pruning, and ours as small and as fast, in one race per model and amount.

    pip install '.[images]' --group peers && python tools/compare_latency.py FOLDER [--only GLOB ...]
        [--amounts 0.1,0.3] [--threads 1] [--batch 1] [--seconds 60] [--data DATA] [--json OUT] [--fill]

FOLDER holds MODELS; a VGG-like network (tools/never_slower.py) is made here. Peers remove the given share of the
channels, ranked by the L2 norm of their weights: onnxsim 0.8 (`apply_structured_pruning` after `simplify`), and
Torch-Pruning (`MagnitudePruner`, as it comes and with `round_to=16`) on the same network with the same weights as a
torch module. Ours is condensed with `--budget params=F` to as many parameters as each peer has, and with `--budget
latency=F` to the latency of those that became faster, as a race of theirs says; no inputs are given. With --data, the
accuracy of MODELS on its test images stands beside. --fill fills the table of docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import onnxsim
import torch
import torch_pruning
from _images import cifar, outputs
from _marks import fill
from never_slower import vgg
from onnx import numpy_helper

from onnx_condense import Options, benchmark, condense
from onnx_condense.operators.queries import count_parameters
from onnx_condense.timing.benchmark import ModelLatency

MODELS = ("mobilenetv2_cifar10.onnx", "resnet56_cifar10.onnx")
FASTER = 0.95
"""Ratio below which a peer's model is so fast that ours is to be as fast."""


# ---------------------------------------------------------------------------------------------------- peers


def by_onnxsim(model: onnx.ModelProto, amount: float) -> onnx.ModelProto:
    """onnxsim's structured pruning of a simplified model."""
    simple, _ = onnxsim.simplify(model)
    pruned: onnx.ModelProto = onnxsim.apply_structured_pruning(simple, sparsity=amount)
    return pruned


class Network(torch.nn.Module):
    """An ONNX graph of common image operators as a torch module, weights included. Raises ValueError for others."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.nodes = [node for node in model.graph.node if node.op_type not in ("Constant", "Identity")]
        self.input, self.output = model.graph.input[0].name, model.graph.output[0].name
        weights = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Identity" and node.input[0] in weights:
                weights[node.output[0]] = weights[node.input[0]]
            if node.op_type == "Constant":
                weights[node.output[0]] = torch.tensor(numpy_helper.to_array(node.attribute[0].t))
        self.layers = torch.nn.ModuleDict()
        self.functions: dict[str, Callable[..., Any]] = {}
        for number, node in enumerate(self.nodes):
            made = self._make(node, weights)
            kept = self.layers if isinstance(made, torch.nn.Module) else self.functions
            if made is not None:
                kept[str(number)] = made  # type: ignore[index]

    def _make(self, node: onnx.NodeProto, weights: Mapping[str, torch.Tensor]) -> Any:
        options = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        given = [weights.get(name) for name in node.input[1:]]
        layer: torch.nn.Module
        match node.op_type:
            case "Conv":
                (outer, inner, *kernel), groups = given[0].shape, options.get("group", 1)
                pads = options.get("pads", [0] * 4)[:2]
                strides = options.get("strides", [1, 1])
                bias = len(given) > 1
                layer = torch.nn.Conv2d(inner * groups, outer, kernel, strides, pads, groups=groups, bias=bias)
            case "Gemm":
                layer = torch.nn.Linear(given[0].shape[1], given[0].shape[0], bias=len(given) > 1)
            case "BatchNormalization":
                layer = torch.nn.BatchNorm2d(len(given[0]), eps=options.get("epsilon", 1e-5))
                layer.running_mean, layer.running_var = given[2].clone(), given[3].clone()
            case "Clip":
                return lambda x: torch.clamp(x, float(given[0]), float(given[1]))
            case "Relu":
                return torch.relu
            case "Add":
                return torch.add
            case "MaxPool" | "AveragePool":
                pool = getattr(torch.nn.functional, "max_pool2d" if node.op_type == "MaxPool" else "avg_pool2d")
                return lambda x: pool(x, options["kernel_shape"], options.get("strides"))
            case "GlobalAveragePool":
                return lambda x: x.mean((2, 3), keepdim=True)
            case "ReduceMean":
                return lambda x: x.mean((2, 3), keepdim=bool(options.get("keepdims", 1)))
            case "Flatten" | "Reshape":
                return lambda x, *shape: torch.flatten(x, 1)
            case "Shape" | "Gather" | "Unsqueeze" | "Concat":  # the batch for a Reshape
                return None
            case _:
                raise ValueError(f"no torch module here has {node.op_type}")
        layer.weight.data = given[0].clone()
        if len(given) > 1:
            layer.bias.data = given[1].clone()
        return layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {self.input: x}
        for number, node in enumerate(self.nodes):
            found = self.layers[str(number)] if str(number) in self.layers else self.functions.get(str(number))
            if found is not None:
                values[node.output[0]] = found(*(values[name] for name in node.input if name in values))
        return values[self.output]


def by_torch_pruning(model: onnx.ModelProto, amount: float, round_to: int | None, path: Path) -> onnx.ModelProto:
    """Torch-Pruning's magnitude pruner, exported again."""
    network = Network(model).eval()
    example = torch.zeros(1, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]))
    last = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
    importance = torch_pruning.importance.MagnitudeImportance(p=2)
    torch_pruning.pruner.MagnitudePruner(
        network, example, importance=importance, pruning_ratio=amount, ignored_layers=last, round_to=round_to
    ).step()
    names = {"input_names": [network.input], "output_names": [network.output]}
    torch.onnx.export(network, (example,), path, dynamo=False, dynamic_axes={network.input: {0: "N"}}, **names)
    return onnx.load(path)


def check_conversion(model: onnx.ModelProto) -> None:
    """Raises ValueError where the torch module is not the ONNX model."""
    shape = [d.dim_value or 2 for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {model.graph.input[0].name: x})
    with torch.no_grad():
        found = Network(model).eval()(torch.from_numpy(x)).numpy()
    if not np.abs(found - wanted).max() <= 1e-3 * np.abs(wanted).max():
        raise ValueError("the torch module is not the ONNX model")


# ---------------------------------------------------------------------------------------------------- the table


def as_fast(model: onnx.ModelProto, share: float, given: argparse.Namespace) -> onnx.ModelProto:
    """Condensed to a share of the latency."""
    return condense(model, Options(budget=("latency", share), threads=given.threads, batch=given.batch)).model


def raced(models: Sequence[onnx.ModelProto], given: argparse.Namespace) -> Sequence[ModelLatency]:
    """What a race of models says, the first of which is the original."""
    found = benchmark(*models, threads=given.threads, batches=(given.batch,), seconds=given.seconds)
    return found.batches[0].models


def compare(name: str, path: Path, amount: float, given: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """One race: the original, every peer, and ours at each peer's parameters, and at its latency where that is less."""
    model = onnx.load(path)
    check_conversion(model)
    exported = folder / "exported.onnx"
    entries = [
        ("onnxsim 0.8", by_onnxsim(model, amount)),
        ("Torch-Pruning", by_torch_pruning(model, amount, None, exported)),
        ("Torch-Pruning, round_to 16", by_torch_pruning(model, amount, 16, exported)),
    ]
    before = count_parameters(model.graph)[0]
    kept = {label: count_parameters(pruned.graph)[0] / before for label, pruned in entries}
    latencies = raced([model, *(pruned for _, pruned in entries)], given)[1:]
    ratios = {label: row.ratio for (label, _), row in zip(entries, latencies, strict=True)}
    entries += [
        (f"onnx-condense as small as {label}", condense(model, Options(budget=("params", share))).model)
        for label, share in kept.items()
    ]
    entries += [
        (f"onnx-condense as fast as {label}", as_fast(model, ratio, given))
        for label, ratio in ratios.items()
        if ratio < FASTER
    ]
    test = cifar(given.data, path.name)
    rows = []
    models = [("original", model), *entries]
    for (label, pruned), row in zip(models, raced([one for _, one in models], given), strict=True):
        kept_now = count_parameters(pruned.graph)[0] / before
        accuracy = None if test is None else float(np.mean(outputs(pruned, test.x).argmax(1) == test.y))
        found = {"network": name, "amount": amount, "method": label, "parameters": kept_now, "accuracy": accuracy}
        rows.append(found | vars(row))
        print(line(rows[-1]), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """A table line."""
    interval = (
        "1" if row["verdict"] is None else f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})"
    )
    cells = (
        row["network"],
        f"{row['amount']:.0%}",
        row["method"],
        f"{row['parameters']:.1%}",
        f"{1e3 * row['median']:.3g}",
        f"{interval}{'' if row['stable'] else ', unstable'}",
        "" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Races everything and prints the table."""
    parser = argparse.ArgumentParser(description="latency after pruning, beside peers")
    add = parser.add_argument
    add("folder", type=Path)
    add("--only", action="append", metavar="GLOB")
    add("--amounts", type=lambda text: [float(part) for part in text.split(",")], default=[0.1, 0.3])
    add("--threads", type=int, default=1)
    add("--batch", type=int, default=1)
    add("--seconds", type=float, default=60.0)
    add("--data", type=Path)
    add("--json", type=Path)
    add("--fill", action="store_true")
    given = parser.parse_args()
    host = f"{platform.machine()}, {os.cpu_count()} cores, onnxruntime {onnxruntime.__version__}"
    columns = "network | channels removed by peers | method | parameters kept | ms | ratio (95 %) | accuracy, %"
    head = [f"| {columns} |", "|" + "---|" * 7]
    print(f"{host}, {given.threads} threads, batch {given.batch}\n", *head, sep="\n")
    rows = []
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        onnx.save(vgg(), folder / "vgg.onnx")
        for path in (folder / "vgg.onnx", *(given.folder / name for name in MODELS)):
            if not given.only or any(fnmatch(path.name, pattern) for pattern in given.only):
                for amount in given.amounts:
                    rows += compare(path.stem, path, amount, given, folder)
    if given.json:
        given.json.write_text(json.dumps({"host": host, "seconds": given.seconds, "rows": rows}, indent=1) + "\n")
    if given.fill:
        fill("latency", [*head, *map(line, rows)])


if __name__ == "__main__":
    main()
