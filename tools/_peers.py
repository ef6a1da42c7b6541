"""Peers that remove channels, at a given number of parameters: onnxsim 0.8 and Torch-Pruning, the real packages.

Both are in the extra `peers`. Each function yields what the package offers: (name of a setting, the model).
"""

from __future__ import annotations

import copy
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from onnx_condense.errors import InputError
from onnx_condense.operators.queries import count_parameters

BISECTIONS = 9

Made = tuple[str, onnx.ModelProto]


def tightest(make: Callable[[float], Any], size: Callable[[Any], int], target: float) -> Any | None:
    """What `make` makes of the least share removed whose size is at most the target; None where nothing is so small."""
    low, high, best = 0.0, 0.98, None
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        made = make(middle)
        if size(made) <= target:
            high, best = middle, made
        else:
            low = middle
    return best


def by_onnxsim(
    model: onnx.ModelProto, target: float, calibration: Sequence[Mapping[str, np.ndarray]] | None
) -> Iterator[Made]:
    """Structured pruning of the simplified model, by L2 norm or, with calibration batches, by Wanda.

    With one share of the channels for all layers, and with one ranking over all layers.
    """
    import onnxsim

    simple, _ = onnxsim.simplify(model)
    for setting, everywhere in (("one share", False), ("one ranking", True)):

        def make(share: float, everywhere: bool = everywhere) -> onnx.ModelProto:
            given = {"sparsity": share, "global_sparsity": everywhere}
            if calibration is None:
                return onnxsim.apply_structured_pruning(simple, **given)
            return onnxsim.apply_structured_wanda_pruning(simple, calibration_data=calibration, **given)

        found = tightest(make, lambda made: count_parameters(made.graph)[0], target)
        if found is not None:
            yield setting, found


def by_torch_pruning(model: onnx.ModelProto, target: float, module: str | None, inner: Sequence[str]) -> Iterator[Made]:
    """Torch-Pruning's magnitude pruner (L2), exported again.

    With one share of the channels for all layers, for the layers `inner` alone, and with one ranking over all layers.

    module: FILE:CLASS of a torch module with the model's weights, which is made without arguments; by default the
    module that compare_latency.py makes of the graph. Raises InputError where there is none, or where it is another
    model.
    """
    import torch
    import torch_pruning

    original = _module(model, module)
    example = torch.zeros(1, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]))
    layers = {n: m for n, m in original.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)}
    last = list(layers)[-1]
    names = _names(original)
    outer = [name for name in layers if names and names.get(name) not in inner]
    importance = torch_pruning.importance.MagnitudeImportance(p=2)

    def make(share: float, ignored: Sequence[str], everywhere: bool) -> torch.nn.Module:
        network = copy.deepcopy(original)
        skipped = [m for n, m in network.named_modules() if n in ignored]
        torch_pruning.pruner.MagnitudePruner(
            network,
            example,
            importance=importance,
            pruning_ratio=share,
            ignored_layers=skipped,
            global_pruning=everywhere,
        ).step()
        return network

    settings = [("one share", [last], False), ("one ranking", [last], True)]
    if names and set(inner) & set(names.values()):
        settings.append(("inner layers", outer, False))
    for setting, ignored, everywhere in settings:
        found = tightest(
            lambda share, i=ignored, e=everywhere: make(share, i, e),  # type: ignore[misc]
            lambda network: sum(p.numel() for p in network.parameters()),
            target,
        )
        if found is not None:
            yield setting, exported(found, example, model)


def _module(model: onnx.ModelProto, module: str | None) -> Any:
    """The torch module. Raises InputError where it is not the model."""
    import torch
    from compare_latency import Network, check_conversion

    if module is None:
        try:
            check_conversion(model)
        except (ValueError, KeyError, AttributeError, IndexError, RuntimeError) as error:
            raise InputError(f"no torch module at hand ({error}): give one with --module FILE:CLASS") from error
        return Network(model).eval()
    path, _, name = module.rpartition(":")
    spec = importlib.util.spec_from_file_location("compared_module", path)
    if not name or spec is None or spec.loader is None or not Path(path).is_file():
        raise InputError(f"--module {module} names no class in a file: pass FILE.py:CLASS")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules["compared_module"] = loaded
    spec.loader.exec_module(loaded)
    network = getattr(loaded, name)().eval()
    x = np.random.default_rng(0).standard_normal([d.dim_value or 2 for d in _dims(model)]).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {model.graph.input[0].name: x})
    with torch.no_grad():
        found = network(torch.from_numpy(x)).numpy()
    if found.shape != wanted.shape or not np.abs(found - wanted).max() <= 1e-3 * np.abs(wanted).max():
        raise InputError(f"--module {module} is not the ONNX model: its outputs differ")
    return network


def _dims(model: onnx.ModelProto) -> Any:
    return model.graph.input[0].type.tensor_type.shape.dim


def _names(network: Any) -> dict[str, str]:
    """Name of a torch layer -> of the node that it was made of; empty for a module of the user's."""
    nodes = getattr(network, "nodes", None)
    return {} if nodes is None else {f"layers.{number}": node.name for number, node in enumerate(nodes)}


def exported(network: Any, example: Any, model: onnx.ModelProto) -> onnx.ModelProto:
    """A torch module as a model with the inputs and outputs of another."""
    import torch

    name, output = model.graph.input[0].name, model.graph.output[0].name
    axes = {name: {0: "N"}} if not _dims(model)[0].dim_value else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exported.onnx"
        torch.onnx.export(
            network, (example,), path, dynamo=False, dynamic_axes=axes, input_names=[name], output_names=[output]
        )
        return onnx.load(path)
