"""What the run that made a plan found, in plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnx_condense.merging.entries import finite, word


@dataclass(frozen=True)
class Measured:
    """What the run that made a plan found.

    error: its approximation error, None where that was no finite number. inputs: sha256 of the first feed that it was
    measured on.
    """

    error: float | None
    inputs: str

    @staticmethod
    def from_json(content: Mapping[str, Any] | None) -> Measured | None:
        """From what a plan states. Raises ValueError for what no run gives."""
        if content is None:
            return None
        error = None if content["error"] is None else finite(content["error"])
        if error is not None and error < 0:
            raise ValueError("its error is no number")
        return Measured(error, word(content["inputs"]))
