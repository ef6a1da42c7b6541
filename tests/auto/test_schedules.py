"""The paper's formulas and every constant's range."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from onnx_condense import UsageError
from onnx_condense.auto.schedules import Cosine, logit, sigmoid
from onnx_condense.finetune import Settings


def test_every_criterion_of_the_paper() -> None:
    """Section 3.2.3: 16 reductions per round, before rounds 1 to 7."""
    main, layer = Cosine(0.88, 0.85, 100), Cosine(0.84, 0.81, 100)
    found = [(round(main.at(16 * n), 5), round(layer.at(16 * n), 5)) for n in range(7)]
    assert found == [
        (0.88, 0.84),
        (0.87837, 0.83837),
        (0.87343, 0.83343),
        (0.86641, 0.82641),
        (0.85904, 0.81904),
        (0.85315, 0.81315),
        (0.85018, 0.81018),
    ]


def test_time_is_clamped() -> None:
    falling = Cosine(1.0, 0.0, 10)
    assert [falling.at(n) for n in (0, 1)] == [1.0, 1.0]
    assert [falling.at(n) for n in (11, 12, 1000)] == pytest.approx([0.0, 0.0, 0.0], abs=1e-15)


def test_the_first_threshold_is_the_papers() -> None:
    assert round(sigmoid(2), 5) == 0.88080
    assert [sigmoid(x) for x in (-1e4, 0, 1e4)] == [0.0, 0.5, 1.0]
    assert sigmoid(logit(0.4)) == pytest.approx(0.4)


def test_settings_come_back_from_json() -> None:
    settings = Settings(criterion=(0.9, 0.8), rounds=3)
    assert Settings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"criterion": (0.8, 0.9)},
        {"layer_criterion": (float("nan"), 0.9)},
        {"learning_rate": (0.1, -0.1)},
        {"last_criterion": float("inf")},
        {"threshold_up": 0.0},
        {"threshold_down": -1.0},
        {"last_layer_threshold": 1.5},
        {"until": 0.0},
        {"until": 1.0},
        {"rounds": 0},
        {"test_every": 0},
        {"step_limit": 0},
        {"step_limit_growth": -1},
        {"patience": 0},
        {"keep_rounds": 0},
        {"least_removed": 1.0},
    ],
    ids=lambda w: next(iter(w)),
)
def test_settings_out_of_range_name_their_option(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--" + next(iter(wrong)).replace("_", "-")):
        replace(Settings(), **wrong)
