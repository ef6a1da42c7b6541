"""Trainers that learn nothing: scripted scores, failures, and weights that wander."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx

from onnx_condense import Options
from onnx_condense.auto.folder import Folder
from onnx_condense.finetune import Settings, State, Trainer, run
from onnx_condense.operators.queries import count_parameters
from support import builders

Score = Callable[["Scripted"], float]

PAPER = Settings((0.88, 0.85), (0.84, 0.81), last_criterion=0.8, deviation_score=0.5, last_step_limit=4)
"""The paper's numbers, but for the last layer's steps: 200 of them take long."""
PLAIN = Options(align=1)


class Scripted:
    """A trainer that learns nothing: it returns the model as it is, and the scores that it is told to."""

    def __init__(self, score: Score | float = 0.9) -> None:
        self.score: Score = score if callable(score) else lambda _: score
        self.parameters = 0
        self.calls: list[tuple[int, float, int]] = []
        self.models: list[str] = []

    def _scored(self, model: onnx.ModelProto) -> dict[str, Any]:
        self.parameters = count_parameters(model.graph)[0]
        return {"score": self.score(self), "loss": 0.5}

    def train(
        self, model: onnx.ModelProto, steps: int, learning_rate: float, done: int
    ) -> tuple[onnx.ModelProto, Mapping[str, Any]]:
        self.calls.append((steps, learning_rate, done))
        self.models.append(hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest())
        return model, self._scored(model)

    def evaluate(self, model: onnx.ModelProto) -> Mapping[str, Any]:
        return self._scored(model)


def deep(layers: int, width: int = 6, clusters: int = 5) -> onnx.ModelProto:
    """An MLP of `layers` layers and one more that the classifier reads."""
    return builders.mlp((4, *[width] * (layers + 1), 3), clusters=(clusters,) * (layers + 1))


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [e for e in Folder(folder).events() if e["event"] == kind]


def go(
    folder: Path,
    trainer: Trainer,
    settings: Settings = PAPER,
    model: onnx.ModelProto | None = None,
    options: Options = PLAIN,
    **more: Any,
) -> State:
    return run(model or deep(2), trainer, folder / "work", settings, options, **more)


class Failing(Scripted):
    """Fails at the calls that it is told to (both kinds count)."""

    def __init__(self, *failing: int, score: Score | float = 0.9) -> None:
        super().__init__(score)
        self.failing, self.count = failing, -1

    def _scored(self, model: onnx.ModelProto) -> dict[str, Any]:
        self.count += 1
        if self.count in self.failing:
            raise RuntimeError("out of memory\nand more")
        return super()._scored(model)


class Wandering(Scripted):
    """Changes the weights a little at every call, and scores by their bytes: some attempts fail."""

    def train(
        self, model: onnx.ModelProto, steps: int, learning_rate: float, done: int
    ) -> tuple[onnx.ModelProto, Mapping[str, Any]]:
        bias = builders.weight(model, "b0").copy()
        number = int(hashlib.sha256(b"9" + bias.tobytes()).hexdigest()[:8], 16)
        bias += 1e-3 * builders.random(*bias.shape, seed=number)
        builders.set_weight(model, "b0", bias)
        return model, {"score": 0.75 + number % 1000 / 10000}
