"""The automatic reduction with scripted trainers: schedules, thresholds, limits, reverts, failures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import builders
import onnx
import pytest

from onnx_condense import InputError, Options, TrainerError, UsageError
from onnx_condense.finetune import Settings, State, Trainer, run
from onnx_condense.finetune.journal import Folder
from onnx_condense.finetune.loop import survey
from onnx_condense.finetune.schedules import sigmoid
from onnx_condense.finetune.status import status
from onnx_condense.report import count_parameters

Score = Callable[["Scripted"], float]

PAPER = Settings(criterion=(0.88, 0.85), layer_criterion=(0.84, 0.81), last_criterion=0.8, deviation_score=0.5)
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


# ---------------------------------------------------------------------- schedules


def test_the_papers_criteria_before_every_round(tmp_path: Path) -> None:
    go(tmp_path, Scripted(), replace(PAPER, rounds=7), deep(16))
    rounds = status(tmp_path / "work")["rounds"]
    assert [len(e["layers"]) for e in events(tmp_path / "work", "surveyed")] == [16] * 8
    found = [(round(r["criterion"], 5), round(r["layer_criterion"], 5)) for r in rounds]
    main = [0.88, 0.87837, 0.87343, 0.86641, 0.85904, 0.85315, 0.85018]
    layer = [0.84, 0.83837, 0.83343, 0.82641, 0.81904, 0.81315, 0.81018]
    assert found == list(zip(main, layer, strict=True))
