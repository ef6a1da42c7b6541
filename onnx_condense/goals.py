"""What may decide the widths where thresholds do not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Unit(StrEnum):
    """What a budget may keep a share of."""

    PARAMS = "params"
    MACS = "macs"
    """Multiply-accumulates."""


LATENCY = "latency"
"""What a budget of seconds is called."""

SHARES = (*(f"{unit}=F" for unit in Unit), f"{LATENCY}=F")
"""How a budget of each is written."""


@dataclass(frozen=True)
class Share:
    """Keep at most this share of the units."""

    unit: Unit
    share: float


@dataclass(frozen=True)
class Latency:
    """Take this share of the original's latency."""

    share: float


@dataclass(frozen=True)
class ErrorBound:
    """The smallest model whose approximation error is at most this."""

    bound: float


@dataclass(frozen=True)
class ScoreDrop:
    """The smallest model whose score is at most this much below the original's."""

    most: float


Goal = Share | Latency | ErrorBound | ScoreDrop
"""What decides the widths where thresholds do not."""
