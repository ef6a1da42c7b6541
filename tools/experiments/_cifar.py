"""CIFAR-10 as the experiment's networks take it, the recipe of its start, and training that goes on after an end."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from _images import DEVIATION, MEAN, Images, load, outputs, prepared
from torch import nn

from onnx_condense.torch import Samples as Batches
from onnx_condense.torch import Strategy, cross_entropy, distillation, fit, to_module, written_back

Array = np.ndarray[Any, Any]
Facts = dict[str, Any]

PADDING = 4
TEMPERATURE = 4.0


class Course(Protocol):
    """How weights go: images of a step, and the learning rate."""

    @property
    def batch(self) -> int: ...

    def learning_rate(self, epoch: int, part: float) -> float: ...


@dataclass(frozen=True)
class Recipe:
    """How a network is trained from small weights.

    Attributes:
        small: the first epochs, on crops of `crop` pixels.
        descent: epochs of stochastic gradient descent, those among them; one cosine.
        adam: epochs after.
        again: epochs of descent after those, along a further cosine each (warm restarts, Loshchilov and Hutter 2017).
        again_rate: where those begin.
        mixed: the first epoch whose products are of bfloat16 (sums and weights stay float32).
        batch: images of a step.
        rate: of the descent, reached in the first epoch.
        crop: pixels.
        held: training images that validate.
    """

    small: int = 8
    descent: int = 20
    adam: int = 3
    again: tuple[int, ...] = (12, 24)
    again_rate: float = 0.05
    mixed: int = 35
    batch: int = 128
    rate: float = 0.1
    crop: int = 24
    held: int = 2000

    def learning_rate(self, epoch: int, part: float) -> float:
        """At so much of an epoch."""
        at = epoch + part
        if epoch < self.descent:
            return self.rate * min(1, at) * 0.5 * (1 + math.cos(math.pi * at / self.descent))
        if epoch < self.descent + 1:
            return 3e-4
        if epoch < self.descent + self.adam:
            return 3e-4 * (1 - (at - self.descent - 1) / (self.adam - 1))
        begun = max(start for start in self.restarts if start <= epoch)
        length = self.again[self.restarts.index(begun)]
        return self.again_rate * 0.5 * (1 + math.cos(math.pi * (at - begun) / length))

    @property
    def restarts(self) -> list[int]:
        """Where each further cosine begins."""
        return [self.descent + self.adam + sum(self.again[:number]) for number in range(len(self.again))]

    @property
    def epochs(self) -> int:
        """In all."""
        return self.descent + self.adam + sum(self.again)

    def descends(self, epoch: int) -> bool:
        """Whether an epoch is one of stochastic gradient descent."""
        return not self.descent <= epoch < self.descent + self.adam


class Data:
    """Images, normalized, in the order of their file; `held` training images validate, the other `rows` train."""

    def __init__(self, place: Path, held: int) -> None:
        self.arrays = load(place, held)
        order = np.random.default_rng(0).permutation(len(self.arrays["train_x"]))
        self.held, self.rows = order[:held], order[held:]

    def _ready(self, images: Array) -> Array:
        made: Array = prepared(images, MEAN, DEVIATION, [0, 3, 0, 0])
        return made

    @cached_property
    def images(self) -> torch.Tensor:
        """[n, 3, height, width] all training images."""
        return torch.from_numpy(self._ready(self.arrays["train_x"]))

    @cached_property
    def labels(self) -> torch.Tensor:
        """[n] of all training images."""
        return torch.from_numpy(self.arrays["train_y"].astype(np.int64))

    def unlabelled(self, count: int, seed: int) -> Array:
        """[count, 3, height, width] training images that do not validate."""
        rows = np.random.default_rng(seed).choice(self.rows, count, replace=False)
        return self._ready(self.arrays["train_x"][rows])

    @cached_property
    def chosen(self) -> Images:
        """What variants are chosen on."""
        return Images(self._ready(self.arrays["train_x"][self.held]), self.arrays["train_y"][self.held])

    @cached_property
    def test(self) -> Images:
        """Looked at once, at the end."""
        return Images(self._ready(self.arrays["test_x"]), self.arrays["test_y"])

    def crops(self, rows: Array, generator: np.random.Generator, size: int) -> torch.Tensor:
        """[n, 3, size, size] random crops of padded training images, half of them mirrored."""
        pad, count, side = PADDING, len(rows), self.images.shape[-1]
        x = nn.functional.pad(self.images[rows], (pad, pad, pad, pad))
        down, right = generator.integers(0, side + 2 * pad + 1 - size, (2, count))
        flip = generator.random(count) < 0.5
        r, c = down[:, None] + np.arange(size), right[:, None] + np.arange(size)
        c[flip] = c[flip, ::-1]
        first, second = torch.arange(count)[:, None, None, None], torch.arange(3)[None, :, None, None]
        made = x[first, second, torch.from_numpy(r)[:, None, :, None], torch.from_numpy(c)[:, None, None, :]]
        return made.to(memory_format=torch.channels_last)


def accuracy(model: onnx.ModelProto, images: Images) -> float:
    """The share that is classified rightly."""
    return float(np.mean(outputs(model, images.x).argmax(1) == images.y))


def first_training(network: nn.Module, data: Data, recipe: Recipe, checkpoint: Path) -> list[Facts]:
    """Trains from small weights, in place; goes on from the checkpoint where there is one. A row for each epoch."""
    network = network.to(memory_format=torch.channels_last)
    given: Any = network.parameters
    sgd = torch.optim.SGD(given(), recipe.rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    adam = torch.optim.AdamW(given(), 1e-3, weight_decay=1e-4)

    def run(epoch: int) -> float:
        nonlocal sgd
        if epoch in recipe.restarts:
            sgd = parts["sgd"] = torch.optim.SGD(given(), recipe.rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
        return _epoch(network, data, recipe, sgd if recipe.descends(epoch) else adam, epoch)

    parts: dict[str, Any] = {"net": network, "sgd": sgd, "adam": adam}
    return continued(parts, checkpoint, data, recipe.epochs, run)


def continued(
    parts: dict[str, Any], checkpoint: Path, data: Data, epochs: int, run: Callable[[int], float]
) -> list[Facts]:
    """Runs the epochs that are left, each of which returns its mean loss. A row for each epoch.

    parts: what has a state; `net` is scored after every epoch. checkpoint: where all of it is kept.
    """
    log: list[Facts] = []
    if checkpoint.exists():
        held = torch.load(checkpoint, weights_only=False)
        for name, part in parts.items():
            part.load_state_dict(held[name])
        log = held["log"]
    for epoch in range(len(log), epochs):
        wall, cpu = time.time(), time.process_time()
        loss = run(epoch)
        log.append(_row(epoch, loss, _right(parts["net"], data), wall, cpu))
        _replace(checkpoint, {name: part.state_dict() for name, part in parts.items()} | {"log": log})
        print(_line(log[-1]), flush=True)
    return log


def _row(epoch: int, loss: float, held: float, wall: float, cpu: float) -> Facts:
    """What an epoch did, given when it began."""
    spent = {"wall": round(time.time() - wall), "cpu": round(time.process_time() - cpu)}
    return {"epoch": epoch + 1, "loss": round(loss, 4), "held": round(held, 4)} | spent


def _line(row: Facts) -> str:
    return " ".join(f"{name} {value}" for name, value in row.items())


def _epoch(network: nn.Module, data: Data, recipe: Recipe, optimizer: torch.optim.Optimizer, epoch: int) -> float:
    """The mean loss."""

    def logits(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=epoch >= recipe.mixed):
            made: torch.Tensor = network(x)
            return made

    side = recipe.crop if epoch < recipe.small else data.images.shape[-1]
    network.train()
    return one_epoch(logits, data, recipe, side, optimizer, epoch)


def one_epoch(
    logits: Callable[[torch.Tensor], torch.Tensor],
    data: Data,
    course: Course,
    side: int,
    optimizer: torch.optim.Optimizer,
    epoch: int,
) -> float:
    """Trains on every image that does not validate, on crops of so many pixels; the mean loss."""
    generator = np.random.default_rng(1000 + epoch)
    order = generator.permutation(data.rows)
    steps, total = len(order) // course.batch, 0.0
    for step in range(steps):
        rows = order[step * course.batch : (step + 1) * course.batch]
        for group in optimizer.param_groups:
            group["lr"] = course.learning_rate(epoch, step / steps)
        loss = nn.functional.cross_entropy(logits(data.crops(rows, generator, side)).float(), data.labels[rows])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        total += loss.item()
    return total / steps


def _right(network: nn.Module, data: Data) -> float:
    """The share of the held images that is classified rightly."""
    network.eval()
    with torch.no_grad():
        parts = [
            network(data.images[rows]).argmax(1) == data.labels[rows]
            for rows in np.array_split(data.held, -(-len(data.held) // 500))
        ]
    return float(torch.cat(parts).float().mean())


def _replace(path: Path, content: Facts) -> None:
    """Saves as a whole."""
    part = path.with_suffix(".part")
    torch.save(content, part)
    os.replace(part, path)


@dataclass(frozen=True)
class Tuning:
    """How a smaller network is trained on: epochs of the paper's strategy, the last fifth of them with Adam."""

    epochs: int = 2
    rate: float = 0.02
    decay: float = 5e-4
    batch: int = 128

    def strategy(self, steps: int) -> Strategy:
        """For so many steps an epoch: one cosine, then Adam at two rates."""
        whole = self.epochs * steps
        descent = whole * 4 // 5
        pair = (self.rate * 0.015, self.rate * 0.0015)
        return Strategy(self.rate, descent, descent, pair, max((whole - descent) // 2, 1), 0.9, self.decay, self.batch)


class Taught(nn.Module):
    """A network beside its teacher: [n, 2, classes]."""

    def __init__(self, network: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.network, self.teacher = network, teacher.requires_grad_(False)

    def train(self, mode: bool = True) -> Taught:
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.network(x), self.teacher(x)], 1)


def taught(outputs: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Distillation from the second of each pair of logits [n, 2, classes]; labels are not used."""
    return distillation(TEMPERATURE)(outputs[:, 0], outputs[:, 1])


def tuned(source: Path, target: Path, data: Data, tuning: Tuning, teacher: Path | None = None) -> list[Facts]:
    """Trains a model file into another, after its teacher where there is one; goes on after the epochs that it made."""
    checkpoint = target.with_suffix(".pt")
    network: nn.Module = to_module(source)
    log: list[Facts] = []
    if checkpoint.exists():
        held = torch.load(checkpoint, weights_only=False)
        network.load_state_dict(held["net"])
        log = held["log"]
    trained = network if teacher is None else Taught(network, to_module(teacher))
    loss: Callable[..., Any] = cross_entropy if teacher is None else taught
    trained = trained.to(memory_format=torch.channels_last)
    steps = len(data.rows) // tuning.batch
    labels, side = data.labels.numpy()[data.rows], data.images.shape[-1]
    for epoch in range(len(log), tuning.epochs):
        wall, cpu = time.time(), time.process_time()
        generator = np.random.default_rng(2000 + epoch)
        batches = Batches(data.rows, labels, lambda rows, _, g=generator: data.crops(rows.numpy(), g, side))  # type: ignore[misc]
        losses = fit(trained, batches, loss, steps, tuning.strategy(steps), epoch * steps)
        log.append(_row(epoch, float(np.mean(losses)), _right(network, data), wall, cpu))
        _replace(checkpoint, {"net": network.state_dict(), "log": log})
        print(f"{target.stem}: {_line(log[-1])}", flush=True)
    onnx.save(written_back(network, source), target)
    return log
