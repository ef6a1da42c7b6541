"""Models that a search tried: what they are told by, and which of them no other one beats."""

from __future__ import annotations

import math
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
    threshold: the one that made it, None where a budget did.
    """

    parameters: int
    macs: int
    value: float
    accepted: bool
    on_front: bool = False
    threshold: float | None = None


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


@dataclass(frozen=True)
class Alternative:
    """An option that says how much is removed, about how many parameters it leaves, and the error that this is."""

    option: str
    parameters: int
    error: float


def alternatives(search: SearchReport) -> tuple[Alternative, ...]:
    """What the lowest threshold gives and what a larger budget does, of what a search for an error tried."""
    known = [c for c in search.candidates if math.isfinite(c.value)]
    made = sorted((c.threshold, number) for number, c in enumerate(known) if c.threshold is not None)
    found = [Alternative(f"--threshold {t:g}", known[n].parameters, known[n].value) for t, n in made[:1]]
    refused = [c for c in known if c.value > search.bound]
    if refused:
        least = min(refused, key=lambda c: (c.value, c.parameters))
        digits = 1 - math.floor(math.log10(least.value))
        bound = math.ceil(least.value * 10**digits) / 10**digits
        found.append(Alternative(f"--budget error={bound:g}", least.parameters, least.value))
    return tuple(found)


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
