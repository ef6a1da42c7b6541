"""Every constant of the automatic reduction, as one frozen value."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnx_condense import flags
from onnx_condense.auto.schedules import Cosine
from onnx_condense.errors import UsageError
from onnx_condense.flags import Heading, must, option
from onnx_condense.options import Method

DEFAULT_MERGE = Method.DELETE
"""What reaches the target with the fewest training steps (tools/auto_merges.py); the paper's is "ratio"."""

PAPER_SCORE = 0.8816
"""The accuracy that the paper's constants belong to (section 3.2.3); defaults scale with the starting score."""

PAPER_SPANS = {"criterion": (0.88, 0.85), "layer_criterion": (0.84, 0.81)}
PAPER_NUMBERS = {"last_criterion": 0.8, "deviation_score": 0.5}

Span = tuple[float, float]

SCORES, TRAINING, THRESHOLDS, END = Heading.SCORES, Heading.TRAINING, Heading.THRESHOLDS, Heading.END

# ---------------------------------------------------------------------------------------------------- texts and ranges


def _span(text: str) -> Span:
    first, _, lowest = text.partition(":")
    try:
        return float(first), float(lowest or first)
    except ValueError as error:
        raise ArgumentTypeError(f"wants FIRST:LOWEST, for example 0.88:0.85, not {text}") from error


def _share(text: str) -> float:
    name, _, value = text.partition("=")
    try:
        if name != "params":
            raise ValueError
        return float(value)
    except ValueError as error:
        raise ArgumentTypeError(f"wants params=SHARE, for example params=0.115, not {text}") from error


def _threshold_or_off(text: str) -> float | None:
    try:
        return None if text == "off" else float(text)
    except ValueError as error:
        raise ArgumentTypeError(f"wants a threshold or off, not {text}") from error


def _falls(option: str, span: Any) -> None:
    if not (len(span) == 2 and all(math.isfinite(value) for value in span)):
        raise UsageError(f"{option} is two numbers, FIRST:LOWEST, not {span}")
    if not span[0] >= span[1]:
        raise UsageError(f"{option} is a span that falls, FIRST:LOWEST, not {span[0]:g}:{span[1]:g}")


def _falls_to_zero(option: str, span: Any) -> None:
    _falls(option, span)
    if not span[1] >= 0:
        raise UsageError(f"{option} is not negative, not {span[1]}")


_finite = must(math.isfinite, "{option} is a finite number, not {value}")
_positive = must(lambda value: 0 < value < math.inf, "{option} is a number above 0, not {value}")
_within = must(lambda value: 0 < value < 1, "{option} is between 0 and 1, not {value}")
_small = must(lambda value: 0 <= value < 1, "{option} is at least 0 and below 1, not {value}")
_count = must(lambda value: value >= 1, "{option} is a whole number of at least 1, not {value}")
_no_less = must(lambda value: value >= 0, "{option} is at least 0, not {value}")


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

    criterion: Span | None = option(
        None, "score that begins a round, first and lowest", SCORES, "A:B", _span, _falls, unset="0.88:0.85, scaled"
    )
    layer_criterion: Span | None = option(
        None,
        "score after a layer's reduction, first and lowest",
        SCORES,
        "A:B",
        _span,
        _falls,
        unset="0.84:0.81, scaled",
    )
    last_criterion: float | None = option(
        None,
        "score for the last layer of a round, and for the classifier's",
        SCORES,
        "S",
        float,
        _finite,
        unset="0.8, scaled",
    )
    deviation_score: float | None = option(
        None,
        "an attempt below it after --deviation-steps is reverted",
        SCORES,
        "S",
        float,
        _finite,
        unset="0.5, scaled",
    )
    deviation_steps: int = option(10, "training steps before --deviation-score is asked for", SCORES, "N", int, _count)
    criterion_period: int = option(
        100, "layer reductions until the criteria are at their lowest", SCORES, "T", int, _count
    )
    learning_rate: Span = option(
        (1e-2, 1e-4), "learning rate, first and lowest", TRAINING, "A:B", _span, _falls_to_zero, unset="0.01:0.0001"
    )
    learning_rate_period: int = option(
        200, "layer reductions until the learning rate is at its lowest", TRAINING, "T", int, _count
    )
    step_limit: int = option(20, "training steps after a reduction", TRAINING, "N", int, _count)
    step_limit_growth: int = option(
        10, "added to --step-limit for good after each failure", TRAINING, "N", int, _no_less
    )
    last_step_limit: int = option(
        200, "training steps for the last layer of a round, and for the classifier's", TRAINING, "N", int, _count
    )
    threshold_start: float = option(2.0, "a layer's first threshold is sigmoid(X)", THRESHOLDS, "X", float, _finite)
    threshold_up: float = option(0.5, "added to X after a failure", THRESHOLDS, "X", float, _positive)
    threshold_down: float = option(
        0.5, "taken from X after a reduction below --least-removed", THRESHOLDS, "X", float, _positive
    )
    least_removed: float = option(
        0.001, "of the model's parameters, that counts as a reduction", THRESHOLDS, "SHARE", float, _small
    )
    last_layer_threshold: float | None = option(
        0.4,
        "of the group that the classifier reads, reduced at the end; off: one among the others",
        THRESHOLDS,
        "T|off",
        _threshold_or_off,
        _within,
    )
    test_every: int = option(1, "training steps between tests after a reduction", TRAINING, "N", int, _count)
    main_test_every: int = option(1, "training steps between tests before a round", TRAINING, "N", int, _count)
    main_step_limit: int = option(10_000, "training steps to reach the main criterion in", TRAINING, "N", int, _count)
    rounds: int | None = option(None, "how many rounds", END, "N", int, _count, unset="as long as something goes")
    until: float | None = option(
        None, "stop when this share of the parameters is left", END, "params=SHARE", _share, _within
    )
    patience: int = option(10, "stop after N rounds in a row below --least-removed", END, "N", int, _count)
    keep_rounds: int = option(10, "models of how many rounds stay in DIR/models", Heading.OUTPUT, "N", int, _count)

    def __post_init__(self) -> None:
        """Raises UsageError for values out of range."""
        flags.check(self)

    def criteria(self, score: float) -> Criteria:
        """The criteria in absolute numbers, for a model that starts with this score. Raises UsageError."""
        missing = [name for name in (*PAPER_SPANS, *PAPER_NUMBERS) if getattr(self, name) is None]
        if missing and not score > 0:
            options = ", ".join("--" + name.replace("_", "-") for name in missing)
            raise UsageError(f"the starting score is {score:g}: where scores are not positive, say {options} yourself")
        scale = score / PAPER_SCORE

        def span(name: str) -> Cosine:
            given = getattr(self, name)
            first, lowest = given if given is not None else (v * scale for v in PAPER_SPANS[name])
            return Cosine(first, lowest, self.criterion_period)

        def number(name: str) -> float:
            given = getattr(self, name)
            return float(given if given is not None else PAPER_NUMBERS[name] * scale)

        return Criteria(span("criterion"), span("layer_criterion"), number("last_criterion"), number("deviation_score"))

    def rate(self, completed: int) -> float:
        """The learning rate once `completed` layer reductions are made."""
        return Cosine(*self.learning_rate, self.learning_rate_period).at(completed)

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values."""
        content: dict[str, Any] = flags.to_json(asdict(self))
        return content

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Settings:
        """The inverse of `to_json`. Raises TypeError or UsageError for what it never writes."""
        return Settings(**{name: flags.from_json(value) for name, value in content.items()})
