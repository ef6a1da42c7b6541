"""What values from Python must be, where a command line cannot get them wrong: checks that say what was expected."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from onnx_condense.errors import UsageError

INPUTS = "a path, loader.py:function, or arrays by input name: {name: array}"


def is_number(value: Any) -> bool:
    """Whether a value is a real number."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_pair(value: Any) -> bool:
    """Whether a value is a pair (text, number)."""
    return isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], str) and is_number(value[1])


def globs(option: str, value: Any) -> None:
    """A tuple of texts. Raises UsageError."""
    if isinstance(value, str):
        raise UsageError(f"{option} is a tuple of globs, not one string: pass ({value!r},)")
    if not (isinstance(value, Iterable) and all(isinstance(one, str) for one in value)):
        raise UsageError(f"{option} is a tuple of globs, not {shown(value)}")


def pairs(option: str, value: Any) -> None:
    """A tuple of pairs (glob, number). Raises UsageError."""
    if not isinstance(value, tuple | list) or not all(map(is_pair, value)):
        raise UsageError(f"{option} is a tuple of pairs (glob, threshold), not {shown(value)}")


def shapes(option: str, value: Any) -> None:
    """Sizes by name. Raises UsageError."""
    if not isinstance(value, Mapping) or not all(isinstance(k, str) and _is_shape(v) for k, v in value.items()):
        raise UsageError(f'{option} are sizes by name, as {{"x": (1, 3, 224, 224)}}, not {shown(value)}')


def given_inputs(option: str, value: Any) -> None:
    """Inputs in a file, or by name. Raises UsageError."""
    if not isinstance(value, str | os.PathLike | Mapping):
        raise UsageError(f"{option} is {INPUTS}, not {shown(value)}")


def several_inputs(option: str, value: Any) -> None:
    """Inputs, or several of them. Raises UsageError."""
    if hasattr(value, "__array__") or not isinstance(value, str | os.PathLike | Mapping | Iterable):
        raise UsageError(f"{option} is {INPUTS}, or several of these, not {shown(value)}")


def score(option: str, value: Any) -> None:
    """A command, or a function. Raises UsageError."""
    if not isinstance(value, str) and not callable(value):
        raise UsageError(f"{option} is a command, or a function of a model, not {shown(value)}")


def budget(option: str, value: Any) -> None:
    """A pair. Raises UsageError."""
    if not is_pair(value):
        raise UsageError(f'{option} is a pair, ("params", F), ("macs", F) or ("error", R), not {shown(value)}')


def interval(option: str, value: Any) -> None:
    """Two finite numbers, the lower one first. Raises UsageError."""
    if not (isinstance(value, tuple | list) and len(value) == 2 and all(map(is_number, value))):
        raise UsageError(f"{option} is a pair of numbers, (low, high), not {shown(value)}")
    if not -math.inf < value[0] < value[1] < math.inf:
        raise UsageError(f"--input-range is two finite numbers, the lower one first, not {shown(value)}: pass 0,255")


FIELDS = {
    "budget": budget,
    "calibration": several_inputs,
    "data": given_inputs,
    "evaluate": score,
    "exclude": globs,
    "include": globs,
    "input_range": interval,
    "input_shape": shapes,
    "layer_threshold": pairs,
}
"""What fields of Options must be, by name, where that is no number and no switch."""


def check(options: object) -> None:
    """Raises UsageError for the first field of `options` that is of another kind."""
    for name, checked in FIELDS.items():
        value = getattr(options, name)
        if value is not None:
            checked(name, value)


def shown(value: Any) -> str:
    """A value for a message of one line: short ones as Python writes them, others by their type."""
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else f"of type {type(value).__name__}"


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(n, Integral) and not isinstance(n, bool) for n in value)
