"""Formats of the documents that a run writes: one function and one row each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from onnx_condense.pages.page import check_installed, page


def as_json(content: Mapping[str, Any]) -> bytes:
    """JSON, for programs."""
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


FORMATS: dict[str, Callable[[Mapping[str, Any]], bytes]] = {".json": as_json, ".html": page, ".htm": page}
"""By the ending of the file; any other ending means JSON."""


def encoded(path: Path, content: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> bytes:
    """What `to_json` of a report or an analysis gives, in the format of a file of this name. Raises UsageError.

    beside: what a page shows, too.
    """
    form = _format(path)
    return form({**content, **(beside or {})} if form is page else content)


def check_formats(paths: Iterable[str]) -> None:
    """Raises UsageError where a file's format takes what is not installed."""
    for path in paths:
        if _format(Path(path)) is page:
            check_installed(f"--report {path}")


def _format(path: Path) -> Callable[[Mapping[str, Any]], bytes]:
    return FORMATS.get(path.suffix.lower(), as_json)
