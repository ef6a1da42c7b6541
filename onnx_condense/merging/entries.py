"""Entries of a plan, as runs write them. Each raises ValueError or OverflowError for another."""

from __future__ import annotations

import math
from typing import Any


def whole(value: Any, least: float = 0) -> int:
    """A whole number."""
    if type(value) is not int or value < least:
        raise ValueError("an index is no whole number in its range")
    return value


def word(value: Any) -> str:
    """A name."""
    if not isinstance(value, str):
        raise ValueError("a name is no text")
    return value


def finite(value: Any) -> float:
    """A finite number."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError("a number is missing or not finite")
    return float(value)
