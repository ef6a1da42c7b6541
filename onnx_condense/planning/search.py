"""The smallest model within a bound on its error or its score, among those between the original and the narrowest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Literal

from onnx_condense.merging.twin import Twin
from onnx_condense.model.parts import Model
from onnx_condense.options import Options
from onnx_condense.planning.budget import Pruner
from onnx_condense.proving.scorers import Measure
from onnx_condense.refitting.samples import spread

CUTS = 2
"""Candidates of a round. They cut the range that is left into equal parts and can be measured at once; always so many,
so that the result does not depend on where they are measured."""

FINE = 1e-3
"""A range that is narrower than this share of the original's parameters is not cut further."""

DECIMAL = 1e-12
"""Relative difference that counts as none: scores are decimal numbers, and so is what they may fall by."""


@dataclass(frozen=True)
class Goal:
    """What is measured on candidates, and what is accepted.

    start: what it is for the original. bound: the largest error, or the lowest score. spent: evaluations so far.
    """

    kind: Literal["error", "score"]
    measure: Measure
    start: float
    bound: float
    spent: int

    def accepts(self, value: float) -> bool:
        """Whether a value is within the bound."""
        if self.kind == "error":
            return value <= self.bound
        return value >= self.bound or math.isclose(value, self.bound, rel_tol=DECIMAL)


def goal_of(
    options: Options, score: Measure | None, error: Measure, original: Model, progress: Callable[[str], None]
) -> Goal | None:
    """The goal that the options name, None where they ask for no search; `score` is taken of the original here."""
    if score is not None and options.max_drop is not None:
        progress("evaluate the original")
        start = score(original)
        return Goal("score", score, start, start - options.max_drop, 1)
    if options.budget is not None and options.searches:
        return Goal("error", error, 0.0, options.budget[1], 0)
    return None


@dataclass(frozen=True)
class Candidate:
    """What would be written for a twin, and its size."""

    model: Model
    parameters: int
    macs: int


def search(
    pruner: Pruner,
    make: Callable[[Twin], Candidate],
    goal: Goal,
    trials: int,
    progress: Callable[[str], None],
    executor: Executor | None = None,
) -> tuple[Twin, SearchReport]:
    """The smallest twin found that the goal accepts (the original, where none is), and what was tried.

    A section search over the share of parameters kept: the range between the largest share refused and the smallest
    share accepted above it is cut into equal parts. Which one is the smallest is decided by what was measured, so that
    a score that does not fall evenly costs size, never the bound.

    Args:
        pruner: makes the states.
        make: completes a twin, and says what would be written.
        goal: what is measured, and what is accepted.
        trials: evaluations at most, those spent included.
        progress: called with the name of each stage.
        executor: measures the candidates of a round at once; None measures one after the other.
    """
    best = pruner.builder.original
    original = make(best)
    tried = [CandidateReport(original.parameters, original.macs, goal.start, True)]
    smallest, spent, known = original.parameters, goal.spent, {best.widths: True}
    low, high = pruner.at(0.0)[1] / pruner.before, 1.0
    while spent < trials and high - low > FINE:
        cuts = min(CUTS, trials - spent)
        shares = [high - (high - low) * cut / (cuts + 1) for cut in range(1, cuts + 1)]
        progress(f"evaluate {spent + 1}/{trials}: " + ", ".join(f"{share:.1%}" for share in shares))
        states = {share: pruner.at(share)[0] for share in shares}
        new = {twin.widths: twin for twin in states.values() if twin.widths not in known}
        made = [make(twin) for twin in new.values()]
        values = spread(executor, goal.measure, [candidate.model for candidate in made])
        for (widths, twin), candidate, value in zip(new.items(), made, values, strict=True):
            spent, known[widths] = spent + 1, goal.accepts(value)
            tried.append(CandidateReport(candidate.parameters, candidate.macs, value, known[widths]))
            if known[widths] and candidate.parameters < smallest:
                best, smallest = twin, candidate.parameters
        accepted = {share: known[twin.widths] for share, twin in states.items()}
        high = min([high, *(share for share in shares if accepted[share])])
        low = max([low, *(share for share in shares if share < high and not accepted[share])])
    return best, SearchReport(goal.kind, goal.bound, trials, spent, pareto(tried, goal.kind == "score"))


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
