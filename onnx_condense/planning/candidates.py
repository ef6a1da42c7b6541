"""Models that a search tried: what they are told by, and which of them no other one beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx

from onnx_condense.rewriting.writer import Written


@dataclass(frozen=True)
class Candidate:
    """What would be written for a twin, and its size. written: keeps the model's weights in their place."""

    model: onnx.ModelProto
    parameters: int
    macs: int
    written: Written | None = None


@dataclass(frozen=True)
class CandidateReport:
    """A model that a search tried.

    value: its approximation error, or its score. accepted: whether that is within the bound. on_front: whether no other
    candidate is at most as large in parameters and MACs and at least as good, and better in one of them.
    """

    parameters: int
    macs: int
    value: float
    accepted: bool
    on_front: bool = False


@dataclass(frozen=True)
class SearchReport:
    """What --budget error=R or --evaluate tried.

    Attributes:
        measure: "error" or "score".
        bound: the largest error, or the lowest score, that is accepted.
        trials, evaluations: how many evaluations there may be, and how many there were; the original's score is one.
        candidates: the original and what was tried, largest first. The smallest that is accepted is the result.
    """

    measure: str
    bound: float
    trials: int
    evaluations: int
    candidates: tuple[CandidateReport, ...]


def pareto(tried: Sequence[CandidateReport], higher: bool) -> tuple[CandidateReport, ...]:
    """Candidates, largest first, with those marked that no other one beats. `higher`: whether high values are good."""

    def costs(candidate: CandidateReport) -> tuple[float, ...]:
        value = -candidate.value if higher else candidate.value
        return candidate.parameters, candidate.macs, value

    def beaten(candidate: CandidateReport) -> bool:
        mine = costs(candidate)
        rivals = (costs(other) for other in tried)
        return any(other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in rivals)

    ranked = sorted(tried, key=lambda c: (-c.parameters, -c.macs))
    return tuple(replace(candidate, on_front=not beaten(candidate)) for candidate in ranked)
