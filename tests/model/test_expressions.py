"""Names of dimensions that follow from others."""

from __future__ import annotations

import pytest

from onnx_condense.model.expressions import expressions

SIZES = {"past_sequence_length": 5, "sequence_length": 3, "n": 4, "s0": 7}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("past_sequence_length + sequence_length", 8),
        ("past_sequence_length+sequence_length", 8),
        ("2 * n", 8),
        ("n*n - 1", 15),
        ("(s0 + 1)//2", 4),
        ("16", 16),
        ("n // (s0 - 7)", 0),
    ],
)
def test_what_a_name_says(text: str, value: int) -> None:
    assert expressions([*SIZES, text])[text].at(SIZES) == value


@pytest.mark.parametrize(
    "text",
    [
        *("n", "batch", "", "unk__6", "p2o.DynamicDimension.0", "None", "batch-size", "n +", "n + other", "-n"),
        *("n / 2", "n ** 9", "f(n)", "n if s0 else n", "n[0]", "[red]", "0xn", "n\0"),
        *("(" * 150, "1+" * 99 + "1" * 9, "a" * 199 + "!", "n+" * 150 + "n"),
    ],
)
def test_what_is_no_expression_of_known_names(text: str) -> None:
    assert expressions([*SIZES, text]) == {}
