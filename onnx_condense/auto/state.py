"""What a run knows at one moment: everything that its journal says, folded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from onnx_condense.auto.schedules import logit, sigmoid
from onnx_condense.auto.settings import Criteria, Settings

Phase = Literal["begin", "evaluate", "main", "round", "last", "done"]
Layer = tuple[str, ...]
"""A dependency group, by the names of its producers."""
Event = Mapping[str, Any]
"""A line of the journal."""

RESOLUTION = 1e-6
"""Thresholds this close to 1 are 1: cosines of float32 weights say no more. (So a layer that fails comes to an end.)"""


@dataclass(frozen=True)
class Point:
    """A model, by its sha256, with its size and score; `since`: training steps since the last reduction."""

    model: str
    parameters: int
    score: float | None = None
    since: int = 0


@dataclass(frozen=True)
class Attempt:
    """A reduction that is being tried, from its save point.

    best: the best-scoring model so far. failed: why the trainer failed, where it did.
    """

    save: Point
    threshold: float
    unchanged: bool
    steps: int = 0
    best: Point | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Round:
    """One row of the status: criteria before it, and where it led; `steps`: of training, since the round before."""

    criterion: float
    layer_criterion: float
    parameters: int
    score: float | None
    steps: int
    reverts: int = 0


@dataclass(frozen=True)
class State:
    """Everything that the journal says.

    Attributes:
        completed: layer reductions made. limit: training steps of an attempt now.
        arguments: layer -> sigmoid argument of its threshold, where it is not the first one.
        layers, last, last_parameters: the survey of the current model; last_parameters is what the last layer's
            reduction would leave. surveyed: whether it is of the current model.
        position: of the layer at work, among `layers`.
        round_steps, main_steps, total_steps: training steps since the last round, in this main phase, in all.
        main_best: the best-scoring model of this main phase.
        exhausted: the main criterion was not met within its limit.
        idle: rounds in a row that removed next to nothing.
        row: the row of the round at work. rows: of the rounds completed. round_models: the models they left.
        result: the smallest model that met its criterion.
        failures: failed trainer calls in a row.
    """

    settings: Settings
    phase: Phase = "begin"
    now: Point = field(default_factory=lambda: Point("", 0))
    start: Point = field(default_factory=lambda: Point("", 0))
    goals: Criteria | None = None
    completed: int = 0
    limit: int = 0
    arguments: Mapping[Layer, float] = field(default_factory=dict)
    surveyed: bool = False
    layers: tuple[Layer, ...] = ()
    last: Layer | None = None
    last_parameters: int | None = None
    position: int = 0
    attempt: Attempt | None = None
    round_steps: int = 0
    main_steps: int = 0
    total_steps: int = 0
    main_best: Point | None = None
    exhausted: bool = False
    idle: int = 0
    row: Round | None = None
    rows: tuple[Round, ...] = ()
    round_models: tuple[str, ...] = ()
    result: Point | None = None
    reason: str = ""
    failures: int = 0

    @property
    def criterion(self) -> float:
        """The main criterion now."""
        assert self.goals is not None
        return self.goals.main.at(self.completed)

    @property
    def layer_criterion(self) -> float:
        """The criterion of a layer's reduction now, other than the last one's."""
        assert self.goals is not None
        return self.goals.layer.at(self.completed)

    @property
    def layer(self) -> Layer:
        """The layer at work."""
        if self.phase == "last":
            assert self.last is not None
            return self.last
        return self.layers[self.position]

    @property
    def is_last(self) -> bool:
        """Whether the layer at work has the last layer's limits: the last of a round, or the classifier's group."""
        return self.phase == "last" or self.position == len(self.layers) - 1

    def argument(self, layer: Layer) -> float:
        """The sigmoid argument of a layer's threshold."""
        first = self.settings.threshold_start
        if layer == self.last and self.settings.last_layer_threshold is not None:
            first = logit(self.settings.last_layer_threshold)
        return self.arguments.get(layer, first)

    def threshold(self, layer: Layer) -> float:
        """The condensation threshold of a layer: 0 < threshold <= 1; at 1 it stays as it is."""
        value = sigmoid(self.argument(layer))
        return 1.0 if value > 1 - RESOLUTION else max(value, RESOLUTION)

    def goal(self) -> tuple[float, int]:
        """(score to reach, training steps to reach it in) of the layer at work."""
        assert self.goals is not None
        if self.is_last:
            return self.goals.last, self.settings.last_step_limit
        return self.layer_criterion, self.limit

    def models(self) -> set[str]:
        """The models that stay in the store.

        They are the first, the current one and its save point, the best of this attempt and of this main phase, the
        result, and those of the last `keep_rounds` rounds.
        """
        points = [self.start, self.now, self.main_best, self.result]
        if self.attempt is not None:
            points += [self.attempt.save, self.attempt.best]
        return {p.model for p in points if p is not None} | set(self.round_models)
