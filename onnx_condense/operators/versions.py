"""What the operator sets say in different ways: integers that were attributes and became inputs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stated:
    """Integers that are an attribute before opset `since`, and the input at `position` from it on."""

    attribute: str
    position: int
    since: int


SPLIT_SIZES = Stated("split", 1, 13)
RESHAPE_SHAPE = Stated("shape", 1, 5)
SQUEEZE_AXES = Stated("axes", 1, 13)
SLICE_STARTS = Stated("starts", 1, 10)
SLICE_ENDS = Stated("ends", 2, 10)
SLICE_AXES = Stated("axes", 3, 10)
PADS = Stated("pads", 1, 11)
