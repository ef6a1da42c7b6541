"""The smallest model within a bound on its error or its score, among those between the original and the narrowest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import onnx

from onnx_condense.merging.twin import Twin
from onnx_condense.planning.budget import Pruner
from onnx_condense.planning.candidates import Candidate, CandidateReport, SearchReport, pareto
from onnx_condense.planning.planned import Planned
from onnx_condense.progress import Step
from onnx_condense.proving.scorers import Scorer
from onnx_condense.refitting.samples import spread

CUTS = 2
"""Candidates of a round. They cut the range that is left into equal parts and can be measured at once; always so many,
so that the result does not depend on where they are measured."""

FINE = 1e-3
"""A range that is narrower than this share of the original's parameters is not cut further."""

DECIMAL = 1e-12
"""Relative difference that counts as none: scores are decimal numbers, and so is what they may fall by."""


@dataclass(frozen=True)
class Criterion:
    """What is measured on candidates, and what is accepted.

    start: what it is for the original. bound: the largest error, or the lowest score. spent: evaluations so far.
    """

    kind: Literal["error", "score"]
    measure: Scorer
    start: float
    bound: float
    spent: int

    @staticmethod
    def of_error(measure: Scorer, bound: float) -> Criterion:
        """At most this error."""
        return Criterion("error", measure, 0.0, bound, 0)

    @staticmethod
    def of_score(score: Scorer, most: float, original: onnx.ModelProto) -> Criterion:
        """At most so much below the score of the original, which is taken here."""
        start = score(original)
        return Criterion("score", score, start, start - most, 1)

    def accepts(self, value: float) -> bool:
        """Whether a value is within the bound."""
        if self.kind == "error":
            return value <= self.bound
        return value >= self.bound or math.isclose(value, self.bound, rel_tol=DECIMAL)


@dataclass(frozen=True)
class Trials:
    """How candidates are made and measured.

    Attributes:
        make: completes a twin, and says what would be written.
        criterion: what is measured, and what is accepted.
        most: evaluations at most, those spent included.
        progress: called with the name of each stage.
        executor: measures the candidates of a round at once; None measures one after the other.
    """

    make: Callable[[Twin], Candidate]
    criterion: Criterion
    most: int
    progress: Callable[[str], None]
    executor: Executor | None = None


Seeds = Iterable[tuple[float, Planned]]
"""(threshold, twin), each smaller than the next one."""


def search(pruner: Pruner, trials: Trials, seeds: Seeds = ()) -> Planned:
    """The smallest twin found that the criterion accepts (the original, where none is), and what was tried.

    seeds: are tried first, until one is accepted.

    A section search over the share of parameters kept: the range between the largest share refused and the smallest
    share accepted above it is cut into equal parts. Which one is the smallest is decided by what was measured, so that
    a score that does not fall evenly costs size, never the bound.
    """
    tried = _Tried(trials, pruner.planner.unchanged(pruner.aside))
    for threshold, planned in islice(seeds, max(0, trials.most - 1)):
        trials.progress(Step("evaluate", tried.spent + 1, trials.most, f"threshold {threshold:g}"))
        if tried.accepted([planned], threshold)[0]:
            break
    narrowest, size = pruner.at(0.0, pruner.aside)
    low, high = (n / pruner.before if pruner.before else 1.0 for n in (size, pruner.size(tried.best.twin)))
    aside = narrowest.aside
    while tried.spent < trials.most and high - low > FINE:
        cuts = min(CUTS, trials.most - tried.spent)
        shares = [high - (high - low) * cut / (cuts + 1) for cut in range(1, cuts + 1)]
        listed = ", ".join(f"{share:.1%}" for share in shares)
        trials.progress(Step("evaluate", tried.spent + 1, trials.most, listed))
        made: dict[float, Planned] = {}
        for share in shares:
            made[share], _ = pruner.at(share, aside)
            aside = made[share].aside
        accepted = dict(zip(shares, tried.accepted(list(made.values())), strict=True))
        high = min([high, *(share for share in shares if accepted[share])])
        low = max([low, *(share for share in shares if share < high and not accepted[share])])
    return replace(tried.best, aside=aside, calibrated=True, search=tried.report())


def _sizes(twin: Twin) -> tuple[tuple[int, ...], ...]:
    """What tells candidates apart."""
    return *twin.widths, *twin.ranks


class _Tried:
    """What was tried so far.

    best: the smallest twin that the criterion accepts. spent: evaluations.
    """

    def __init__(self, trials: Trials, original: Planned) -> None:
        made, criterion = trials.make(original.twin), trials.criterion
        self.best, self.spent = original, criterion.spent
        self._trials, self._smallest = trials, made.parameters
        self._candidates = [CandidateReport(made.parameters, made.macs, criterion.start, True)]
        self._known = {_sizes(original.twin): True}

    def accepted(self, planned: Sequence[Planned], threshold: float | None = None) -> list[bool]:
        """Which of these the criterion accepts; those of new widths are made and measured, all at once."""
        trials, criterion = self._trials, self._trials.criterion
        new = {_sizes(p.twin): p for p in planned if _sizes(p.twin) not in self._known}
        made = [trials.make(p.twin) for p in new.values()]
        values = spread(trials.executor, criterion.measure, [candidate.model for candidate in made])
        for (widths, one), candidate, value in zip(new.items(), made, values, strict=True):
            self.spent += 1
            self._known[widths] = fits = criterion.accepts(value)
            self._candidates.append(
                CandidateReport(candidate.parameters, candidate.macs, value, fits, False, threshold)
            )
            if fits and candidate.parameters < self._smallest:
                self.best, self._smallest = one, candidate.parameters
        return [self._known[_sizes(p.twin)] for p in planned]

    def report(self) -> SearchReport:
        """All candidates, and what was asked of them."""
        criterion, most = self._trials.criterion, self._trials.most
        front = pareto(self._candidates, criterion.kind == "score")
        return SearchReport(criterion.kind, criterion.bound, most, self.spent, front)
