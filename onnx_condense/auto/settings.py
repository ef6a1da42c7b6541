"""Every constant of the automatic reduction, as one frozen value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from onnx_condense.auto.schedules import Cosine
from onnx_condense.errors import UsageError

PAPER_SCORE = 0.8816
"""The accuracy that the paper's constants belong to (section 3.2.3); defaults scale with the starting score."""

PAPER = {"criterion": (0.88, 0.85), "layer_criterion": (0.84, 0.81), "last_criterion": 0.8, "deviation_score": 0.5}

Span = tuple[float, float]


@dataclass(frozen=True)
class Criteria:
    """What scores must reach, in absolute numbers.

    main: before a round. layer: after a layer's reduction. last: after the last layer's. deviation: below it an
    attempt is given up early.
    """

    main: Cosine
    layer: Cosine
    last: float
    deviation: float


@dataclass(frozen=True)
class Settings:
    """Constants of one run. Every field has the name of its command-line option; the paper's values are the defaults.

    Attributes:
        criterion: score that starts a round, (first, lowest). None here and in the next three: the paper's number
            divided by 0.8816 times the starting score.
        layer_criterion: score that a layer's reduction must reach, (first, lowest).
        last_criterion: the same for the last layer of a round, and for the group that the classifier reads.
        deviation_score: an attempt whose score is below it after `deviation_steps` is reverted at once.
        criterion_period: layer reductions until both criteria are at their lowest.
        learning_rate: (first, lowest). learning_rate_period: layer reductions until it is at its lowest.
        step_limit: training steps that an attempt has. step_limit_growth: added for good after each failure.
        last_step_limit: training steps for the last layer of a round, and for the group that the classifier reads.
        threshold_start: the first threshold of a layer is its sigmoid. threshold_up: added after a failure,
            threshold_down: subtracted after a reduction that removed less than `least_removed` of the parameters.
        last_layer_threshold: of the group that the classifier reads, reduced at the end; None: one layer among others.
        test_every: training steps between two tests of an attempt; main_test_every: between two tests before a round.
        main_step_limit: training steps to reach the main criterion in, before the rounds end.
        rounds: how many; None for no limit. until: share of the parameters at which the rounds end.
        patience: rounds in a row that removed less than `least_removed`, before the rounds end.
        keep_rounds: how many rounds' models stay in the store, the latest.
    """

    criterion: Span | None = None
    layer_criterion: Span | None = None
    last_criterion: float | None = None
    deviation_score: float | None = None
    deviation_steps: int = 10
    criterion_period: int = 100
    learning_rate: Span = (1e-2, 1e-4)
    learning_rate_period: int = 200
    step_limit: int = 20
    step_limit_growth: int = 10
    last_step_limit: int = 200
    threshold_start: float = 2.0
    threshold_up: float = 0.5
    threshold_down: float = 0.5
    least_removed: float = 0.001
    last_layer_threshold: float | None = 0.4
    test_every: int = 1
    main_test_every: int = 1
    main_step_limit: int = 10_000
    rounds: int | None = None
    until: float | None = None
    patience: int = 10
    keep_rounds: int = 10

    def __post_init__(self) -> None:
        """Raises UsageError for values out of range."""
        for name in ("criterion", "layer_criterion", "learning_rate"):
            span = getattr(self, name)
            if span is not None:
                _check(len(span) == 2 and all(math.isfinite(v) for v in span), name, "two numbers, FIRST:LOWEST", span)
                _check(span[0] >= span[1], name, "a span that falls, FIRST:LOWEST", f"{span[0]:g}:{span[1]:g}")
        _check(self.learning_rate[1] >= 0, "learning_rate", "not negative", self.learning_rate[1])
        for name in ("last_criterion", "deviation_score", "threshold_start"):
            value = getattr(self, name)
            _check(value is None or math.isfinite(value), name, "a finite number", value)
        for name in ("threshold_up", "threshold_down"):
            value = getattr(self, name)
            _check(0 < value < math.inf, name, "a number above 0", value)
        for name in ("last_layer_threshold", "until"):
            value = getattr(self, name)
            _check(value is None or 0 < value < 1, name, "between 0 and 1", value)
        _check(0 <= self.least_removed < 1, "least_removed", "at least 0 and below 1", self.least_removed)
        for name in COUNTS:
            value = getattr(self, name)
            _check(value is None or value >= 1, name, "a whole number of at least 1", value)
        _check(self.step_limit_growth >= 0, "step_limit_growth", "at least 0", self.step_limit_growth)

    def criteria(self, score: float) -> Criteria:
        """The criteria in absolute numbers, for a model that starts with this score. Raises UsageError."""
        missing = [name for name in PAPER if getattr(self, name) is None]
        if missing and not score > 0:
            options = ", ".join("--" + name.replace("_", "-") for name in missing)
            raise UsageError(f"the starting score is {score:g}: where scores are not positive, say {options} yourself")
        scale = score / PAPER_SCORE

        def span(name: str) -> Cosine:
            given = getattr(self, name)
            first, lowest = given if given is not None else (v * scale for v in PAPER[name])  # type: ignore[attr-defined]
            return Cosine(first, lowest, self.criterion_period)

        def number(name: str) -> float:
            given = getattr(self, name)
            return float(given if given is not None else PAPER[name] * scale)  # type: ignore[operator]

        return Criteria(span("criterion"), span("layer_criterion"), number("last_criterion"), number("deviation_score"))

    def rate(self, completed: int) -> float:
        """The learning rate once `completed` layer reductions are made."""
        return Cosine(*self.learning_rate, self.learning_rate_period).at(completed)

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Settings:
        """The inverse of `to_json`. Raises TypeError or UsageError for what it never writes."""
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
        return Settings(**values)


COUNTS = tuple(
    f.name for f in fields(Settings) if f.name not in ("step_limit_growth",) and str(f.type) in ("int", "int | None")
)
"""Settings that are whole numbers of at least 1."""


def _check(condition: bool, name: str, wanted: str, value: object) -> None:
    if not condition:
        raise UsageError(f"--{name.replace('_', '-')} is {wanted}, not {value}")
