"""The peers of the classification experiment: of what each offers, what is best on the images that validate."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import onnx
import torch
from _mobilenet import exported
from _peers import by_onnxsim, tightest
from torch import nn

Score = Callable[[onnx.ModelProto], float]


def offered(
    settings: Mapping[str, Callable[[float], nn.Module]],
    parameters: float,
    target: Path,
    export: Callable[[nn.Module, Path], None],
) -> Iterator[tuple[str, Path]]:
    """(setting, file) of what takes a share of a network's channels, at most so large: setting -> what takes it."""
    for number, (setting, made) in enumerate(settings.items()):
        found = tightest(made, lambda smaller: sum(p.numel() for p in smaller.parameters()), parameters)
        if found is not None:
            path = target.with_suffix(f".{number}.onnx")
            export(found, path)
            yield setting, path


def by_torch_pruning(network: nn.Module, target: Path, parameters: float, size: int) -> Iterator[tuple[str, Path]]:
    """(setting, file) of its magnitude pruner (L2): one share for all layers, and one ranking over all.

    BatchNormalization is kept, the classifier's outputs stay.
    """
    import torch_pruning

    example = torch.zeros(1, 3, size, size)

    def made(share: float, everywhere: bool) -> nn.Module:
        smaller = copy.deepcopy(network).eval()
        last = [m for m in smaller.modules() if isinstance(m, nn.Linear)]
        importance = torch_pruning.importance.MagnitudeImportance(p=2)
        torch_pruning.pruner.MagnitudePruner(
            smaller, example, importance=importance, pruning_ratio=share, ignored_layers=last, global_pruning=everywhere
        ).step()
        return smaller

    settings = {"one share": partial(made, everywhere=False), "one ranking": partial(made, everywhere=True)}
    return offered(settings, parameters, target, partial(exported, size=size))


def simplified(source: Path, target: Path, parameters: float) -> Iterator[tuple[str, Path]]:
    """(setting, file) of onnxsim's structured pruning (L2); BatchNormalization is folded before, or it cuts nothing."""
    for setting, model in by_onnxsim(onnx.load(source), parameters, None):
        path = target.with_suffix(f".{setting.split()[1]}.onnx")
        onnx.save(model, path)
        yield setting, path


def best(offers: Iterator[tuple[str, Path]], target: Path, score: Score) -> str | None:
    """Writes the offer of the highest score, and names its setting; None of no offers."""
    scored = [(score(onnx.load(path)), setting, path) for setting, path in offers]
    if not scored:
        return None
    _, setting, path = max(scored, key=lambda offer: offer[0])
    onnx.save(onnx.load(path), target)
    return setting
