"""The network that maps a state to its change over one step: made, trained, cut by SVD, and run in place of Cantera."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from _chemistry import IGNITED, Array, Kinetics, box_cox, delay, features, inverse
from onnx import numpy_helper
from torch import nn

from onnx_condense.model.runtime import run, session
from onnx_condense.operators.queries import count_parameters
from onnx_condense.torch import Samples, Strategy, fit, to_module, written_back

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of the outputs and the targets of a batch."""


@dataclass(frozen=True)
class Annealed(Strategy):
    """Adam whose learning rate falls to zero along one half of a cosine; `steps` is how many there are."""

    steps: int = 1000

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.learning_rate / 2 * (1 + cos(pi * min(step, self.steps) / self.steps))


def annealed(steps: int, rate: float, batch: int) -> Annealed:
    """The schedule of so many steps."""
    return replace(Annealed(), descent=0, learning_rate=rate, batch=batch, steps=steps)


def told(loss: Loss, steps: int, name: str) -> Loss:
    """The same loss, which prints where the training is, ten times on the way."""
    seen: list[float] = []

    def telling(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        value = loss(outputs, targets)
        seen.append(value.item())
        if len(seen) % max(steps // 10, 1) == 0:
            print(f"{name}: step {len(seen)}, loss {np.mean(seen[-20:]):.4f}", flush=True)
        return value

    return telling


def absolute(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean absolute difference, for outputs and targets of any equal shape."""
    return nn.functional.l1_loss(outputs, targets)


@dataclass(frozen=True, eq=False)
class Scaling:
    """Means and deviations of the features [d], and of their changes over a step [d]; constant ones are left alone."""

    mean: Array
    deviation: Array
    change_mean: Array
    change_deviation: Array

    @classmethod
    def of(cls, values: Array, changes: Array) -> Scaling:
        """Of samples [n, d]."""
        parts = []
        for table in (values, changes):
            deviation = table.std(0)
            moves = deviation > 1e-9
            parts += [np.where(moves, table.mean(0), table[0]), np.where(moves, deviation, 1.0)]
        return cls(*parts)

    @classmethod
    def read(cls, model: onnx.ModelProto) -> Scaling:
        """That of a model, from its metadata."""
        held = {entry.key: entry.value for entry in model.metadata_props}
        return cls(**{name: np.array(values) for name, values in json.loads(held["scaling"]).items()})

    def inputs(self, values: Array) -> Array:
        """[n, d] what the network reads, of features [n, d]."""
        return np.asarray((values - self.mean) / self.deviation, dtype=np.float32)

    def targets(self, changes: Array) -> Array:
        """[n, d] what it learns, of changes [n, d]."""
        return np.asarray((changes - self.change_mean) / self.change_deviation, dtype=np.float32)

    def changes(self, outputs: Array) -> Array:
        """[n, d] changes, of its outputs [n, d]."""
        return np.asarray(outputs * self.change_deviation + self.change_mean)

    def to_json(self) -> str:
        """As `read` takes it."""
        return json.dumps({name: values.tolist() for name, values in vars(self).items()})


def layered(widths: Sequence[int], exponent: float, seed: int) -> nn.Sequential:
    """Linear layers with ReLU between; weights from N(0, ((inputs + outputs) / 2)^-2·exponent), biases zero."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential()
    for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        layer = nn.Linear(inputs, outputs)
        nn.init.normal_(layer.weight, 0, ((inputs + outputs) / 2) ** -exponent, generator=generator)
        nn.init.zeros_(layer.bias)
        network.add_module(f"layer{number}", layer)
        if number < len(widths) - 1:
            network.add_module(f"relu{number}", nn.ReLU())
    return network


def exported(network: nn.Module, width: int, path: Path, scaling: Scaling) -> None:
    """Writes the file, with its scaling."""
    torch.onnx.export(
        network.eval(),
        (torch.zeros(1, width),),
        str(path),
        dynamo=False,
        input_names=["state"],
        output_names=["change"],
        dynamic_axes={"state": {0: "N"}, "change": {0: "N"}},
    )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"scaling": scaling.to_json()})
    onnx.save(model, path)


def tuned(source: Path, target: Path, samples: Samples, schedule: Annealed) -> list[float]:
    """Trains a model file into another, and returns the losses of the steps."""
    module = to_module(source)
    losses = fit(module, samples, told(absolute, schedule.steps, target.stem), schedule.steps, schedule)
    onnx.save(written_back(module, source), target)
    return losses


def factored(source: Path, target: Path, share: float) -> None:
    """Cuts a network's layers into two each by SVD until at most a share of its parameters is left.

    Singular values of all layers go in one ranking: by the part of their layer's energy that they hold, per parameter.
    """
    model = onnx.load(source)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if len(t.dims) == 2}
    parts = {name: np.linalg.svd(value.astype(np.float64), full_matrices=False) for name, value in weights.items()}
    ranks = _ranks(
        {name: (value.shape, parts[name][1]) for name, value in weights.items()},
        share * count_parameters(model.graph)[0] - count_parameters(model.graph)[0],
    )
    network = nn.Sequential()
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for number, name in enumerate(weights, start=1):
        bias = tensors[name.replace("weight", "bias")]
        left, sizes, right = parts[name]
        rank = ranks.get(name)
        factors = [weights[name]] if rank is None else [sizes[:rank, None] * right[:rank], left[:, :rank]]
        for place, factor in enumerate(factors):
            last = place == len(factors) - 1
            layer = nn.Linear(factor.shape[1], factor.shape[0], bias=last)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(np.array(factor, dtype=np.float32)))
                if last:
                    layer.bias.copy_(torch.from_numpy(np.array(bias)))
            network.add_module(f"layer{number}{'ab'[place] if rank else ''}", layer)
        if number < len(weights):
            network.add_module(f"relu{number}", nn.ReLU())
    exported(network, next(iter(weights.values())).shape[1], target, Scaling.read(model))


def _ranks(layers: Mapping[str, tuple[tuple[int, ...], Array]], excess: float) -> dict[str, int]:
    """Ranks of layers, given their (shape, singular values [r]), that change the parameters by `excess` or less.

    A layer whose two factors would be larger than itself is not named.
    """
    energy = {name: np.square(values) / np.square(values).sum() for name, (_, values) in layers.items()}
    worth = [(part / sum(layers[n][0]), n, rank) for n, parts in energy.items() for rank, part in enumerate(parts, 1)]
    full = {name: int(np.prod(shape)) for name, (shape, _) in layers.items()}
    ranks = {name: len(values) for name, (_, values) in layers.items()}

    def change() -> int:
        cut = {name: rank * sum(layers[name][0]) for name, rank in ranks.items()}
        return sum(min(cut[name] - full[name], 0) for name in layers)

    for _, name, rank in sorted(worth):
        if change() <= excess:
            break
        ranks[name] = max(1, min(ranks[name], rank - 1))
    return {name: rank for name, rank in ranks.items() if rank * sum(layers[name][0]) < full[name]}


@dataclass(frozen=True, eq=False)
class Grid:
    """Ignitions that networks are judged on.

    Attributes:
        conditions: (T, p in atm, equivalence ratio) of each.
        starts: [n, 2 + species] states after one step, where a network takes over.
        delays: [n] Cantera's own [s].
        curves: Cantera's temperatures, one a step from the start, of each.
        step: seconds.
    """

    conditions: list[tuple[float, float, float]]
    starts: Array
    delays: Array
    curves: list[Array]
    step: float

    @classmethod
    def of(cls, kinetics: Kinetics, conditions: list[tuple[float, float, float]], fuel: str, step: float) -> Grid:
        """Integrates each to twice its delay."""
        starts, delays, curves = [], [], []
        for condition in conditions:
            fresh = kinetics.fresh(*condition, fuel)
            _, when = kinetics.visited(fresh, 1.0)
            found = kinetics.at(fresh, step * np.arange(1, 2 * int(when / step) + 2))
            starts.append(found[0])
            delays.append(float(delay(found[:, :1], step)[0]) + step)
            curves.append(found[:, 0])
        return cls(conditions, np.array(starts), np.array(delays), curves, step)

    def followed(self, path: Path) -> tuple[list[Array], float]:
        """(temperatures by a network for each ignition, to twice its delay; microseconds of a step of all)."""
        active, scaling = session(path), Scaling.read(onnx.load(path))
        ends = np.array([len(curve) for curve in self.curves])
        values = features(self.starts)
        heat = [values[:, 0].copy()]
        begun = time.process_time()
        for number in range(1, ends.max()):
            goes = ends > number
            outputs = run(active, None, {active.get_inputs()[0].name: scaling.inputs(values[goes])})[0]
            moved = values[goes] + scaling.changes(outputs.astype(np.float64))
            fractions = inverse(np.nan_to_num(moved[:, 2:], nan=-10.0))
            moved[:, 2:] = box_cox(fractions / np.maximum(fractions.sum(1, keepdims=True), 1e-30))
            values[goes] = np.clip(np.nan_to_num(moved), -20, 6000)
            heat.append(values[:, 0].copy())
        spent = 1e6 * (time.process_time() - begun) / max(ends.max() - 1, 1)
        return [np.array(heat)[:end, place] for place, end in enumerate(ends)], float(spent)

    def judged(self, path: Path) -> dict[str, Any]:
        """Relative errors of a network's ignition delays; where nothing ignites within twice the delay it is 1."""
        curves, spent = self.followed(path)
        found = np.array([delay(curve[:, None], self.step)[0] + self.step for curve in curves])
        ignited = np.array([np.max(curve) - curve[0] > IGNITED for curve in curves])
        errors = np.where(ignited, np.abs(found / self.delays - 1), 1.0)
        gaps = [np.abs(ours - truth).mean() for ours, truth in zip(curves, self.curves, strict=True)]
        return {
            "delay_error": float(errors.mean()),
            "worst": float(errors.max()),
            "not_ignited": int((~ignited).sum()),
            "delays": [float(f"{value:.4g}") for value in found],
            "temperature_gap": float(np.mean(gaps)),
            "microseconds": round(spent, 1),
        }


def loss_of(path: Path, inputs: Array, targets: Array) -> float:
    """The mean absolute difference of a network's outputs [n, d] from targets [n, d]."""
    active = session(path)
    name = active.get_inputs()[0].name
    parts = [run(active, None, {name: inputs[start : start + 2048]})[0] for start in range(0, len(inputs), 2048)]
    return float(np.abs(np.concatenate(parts) - targets).mean())
