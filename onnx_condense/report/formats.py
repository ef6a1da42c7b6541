"""Formats of the documents that a run writes: one function and one row each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def as_json(content: Mapping[str, Any]) -> bytes:
    """JSON, for programs."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


FORMATS: dict[str, Callable[[Mapping[str, Any]], bytes]] = {".json": as_json}
"""By the ending of the file; any other ending means JSON."""


def encoded(path: Path, content: Mapping[str, Any]) -> bytes:
    """What `to_json` of a report or an analysis gives, in the format of a file of this name."""
    return FORMATS.get(path.suffix, as_json)(content)
