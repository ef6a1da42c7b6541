"""Packages that come with extras: what is said where one is missing."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from onnx_condense.errors import UsageError

PROJECT = "onnx-condense"

CALLED = {"PIL": "Pillow", "yaml": "PyYAML"}
"""Packages that are installed under another name than they are imported."""


def need(option: str, extra: str, packages: Sequence[str]) -> None:
    """Raises UsageError where packages of an extra cannot be imported. option: what asks for them."""
    missing = [CALLED.get(name, name) for name in packages if find_spec(name) is None]
    if missing:
        raise UsageError(f"{option} needs {' and '.join(missing)}: {command(extra)}")


def command(extra: str) -> str:
    """The command that installs an extra; from a checkout that is not installed, by its folder."""
    try:
        distribution(PROJECT)
    except PackageNotFoundError:
        return f"pip install '{Path(__file__).parents[1]}[{extra}]'"
    return f"pip install '{PROJECT}[{extra}]'"
