"""How models are measured: what a caller may ask for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnx_condense import flags
from onnx_condense.errors import UsageError
from onnx_condense.flags import Heading, must, option
from onnx_condense.options import MOST_THREADS

if TYPE_CHECKING:  # a command line is read before anything slow is imported
    from onnx_condense.model.inputs import Inputs

SECONDS = 10.0
"""Time limit per batch size."""

SUFFIX = "ExecutionProvider"
"""onnxruntime's names of providers end so."""


def _batches(text: str) -> tuple[int, ...]:
    """Sizes like 1,8,64. Raises ValueError."""
    return tuple(int(size) for size in text.split(","))


def _positive(option: str, batches: Sequence[int]) -> None:
    if any(batch < 1 for batch in batches):
        raise UsageError(f"{option} sizes are positive whole numbers, not {min(batches)}")


@dataclass(frozen=True)
class Setup:
    """How models are measured. Every field has the name of a parameter of `benchmark`, which says what it means."""

    threads: int = option(
        0,
        "of onnxruntime",
        Heading.FAST,
        "N",
        int,
        must(lambda value: 0 <= value <= MOST_THREADS, f"{{option}} is 0 (all cores) to {MOST_THREADS}, not {{value}}"),
        unset="0, all cores",
    )
    batches: tuple[int, ...] = option(
        (),
        "sizes of a symbolic batch axis",
        Heading.FAST,
        "1,8,64",
        _batches,
        _positive,
        unset="1",
        wants="sizes like 1,8,64",
        name="batch",
    )
    provider: str = option(
        "CPU", "onnxruntime's execution provider, by its whole name or as CUDA", Heading.FAST, "NAME"
    )
    seconds: float = option(
        SECONDS,
        "at most, per batch size",
        Heading.FAST,
        "S",
        float,
        must(lambda value: 0 < value < math.inf, "{option} is a positive number, not {value:g}"),
    )
    with_profile: bool = option(False, "also show the time per operator type and node", Heading.FAST, name="profile")
    data: Inputs | None = None
    input_shape: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError for values out of range."""
        flags.check(self)
        whole = self.provider if self.provider.endswith(SUFFIX) else self.provider + SUFFIX
        object.__setattr__(self, "provider", whole)
