"""Never slower: what a condensed model gains is measured, and what makes it slower is undone."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx_condense.errors import InputError, UsageError, VerificationError
from onnx_condense.merging.twin import Twin
from onnx_condense.model.files import Source, file_of, save
from onnx_condense.model.inputs import Feed
from onnx_condense.options import Options
from onnx_condense.planning.hardware import Hardware
from onnx_condense.planning.latencies import LatencyReport, SetupLatency
from onnx_condense.planning.planned import Planned
from onnx_condense.planning.strategies import Strategy
from onnx_condense.planning.thresholds import STAYS
from onnx_condense.prepare import Opened
from onnx_condense.rewriting.writer import write
from onnx_condense.timing.benchmark import batch_of, latency_feeds
from onnx_condense.timing.fusions import Fusion, lost, optimized
from onnx_condense.timing.race import MARGIN

BATCHES = (1, 8)
"""Batch sizes measured where the batch axis is symbolic."""

MOST = 40
"""Candidates measured at most; then the best one so far is kept."""

Choice = Mapping[int, int]
"""Group index -> rung: 0 as planned, then wider, at last as it was."""


def ensure_faster(
    opened: Opened, strategy: Strategy, planned: Planned, hardware: Hardware
) -> tuple[Planned, LatencyReport]:
    """The twin with the most merges found that is not shown to be slower than the original, and what was measured.

    Args:
        opened: the original.
        strategy: makes twins with other multiples for the widths of groups.
        planned: what it decided.
        hardware: the machine that measures.

    Raises VerificationError where a candidate does not run.
    """
    planner = strategy.planner
    rungs = (planner.align, math.lcm(planner.align, hardware.block_width()), STAYS)

    def build(choice: Choice) -> Planned:
        return strategy.again(planned, {index: rungs[rung] for index, rung in choice.items()})

    with tempfile.TemporaryDirectory() as folder:
        setups = _setups(opened.source, opened.feeds, opened.options, hardware.cores)
        candidates = _Candidates(opened.source, Path(folder), setups, hardware)
        shrunk = sorted(build({}).twin.plans)
        choice = settle(shrunk, len(rungs), lambda tried: candidates.passes(build(tried).twin))
        if any(choice.values()) and not candidates.confirms(build(choice).twin):
            choice = dict.fromkeys(shrunk, len(rungs) - 1)
        found = build(choice)
    names = {group.index: group.layers[0] for group in planner.groups}
    raised = [index for index, rung in choice.items() if rung]
    widened = tuple(names[index] for index in raised if index in found.twin.plans)
    rolled_back = tuple(names[index] for index in raised if index not in found.twin.plans)
    measured = candidates.known.get(found.twin.widths, ())
    return found, LatencyReport(
        measured, widened, rolled_back, candidates.count, fusions_lost(opened.source, found.twin)
    )


def fusions_lost(source: Source, twin: Twin) -> tuple[Fusion, ...]:
    """The operators that onnxruntime makes of a model and of its twin, where it fuses less."""
    if not twin.changed:
        return ()
    written = write(twin, {})
    return lost(optimized(source.path or source.proto), optimized(written.model))


def settle(groups: Sequence[int], rungs: int, passes: Callable[[Choice], bool]) -> dict[int, int]:
    """The lowest rung found for every group at which the whole passes.

    All groups climb together until the whole passes; then halves, and halves of halves, go back down where it still
    does. The highest rung of all is the original, which passes by itself.
    """
    if passes({}):
        return dict.fromkeys(groups, 0)
    top = next(rung for rung in range(1, rungs) if rung == rungs - 1 or passes(dict.fromkeys(groups, rung)))
    choice = dict.fromkeys(groups, top)

    def lower(members: Sequence[int], rung: int, refused: bool) -> bool:
        """Moves members down to a rung, as many as pass; whether all did. refused: all at once is known to fail."""
        tried = choice | dict.fromkeys(members, rung)
        if not refused and passes(tried):
            choice.update(tried)
            return True
        if len(members) > 1:
            half = len(members) // 2
            whole = lower(members[:half], rung, False)
            lower(members[half:], rung, whole)
        return False

    for rung in reversed(range(top)):
        members = [index for index in groups if choice[index] == rung + 1]
        if members:
            lower(members, rung, len(members) == len(groups))
    return choice


@dataclass(frozen=True)
class _Setup:
    threads: int
    feeds: Sequence[Feed]


def _setups(source: Source, feeds: Sequence[Feed], options: Options, cores: int) -> list[_Setup]:
    """One thread and all cores, at every batch size that the original runs at; else on the feeds given."""
    found: dict[int, Sequence[Feed]] = {}
    for batch in BATCHES:
        try:
            made = latency_feeds(source.proto, batch, options.data, options.input_shape, options.seed)
        except (InputError, UsageError):  # a fixed batch, or too few samples
            continue
        found[batch] = made
    counts = (1, 0) if cores > 1 else (1,)
    return [_Setup(count, made) for made in found.values() or [feeds] for count in counts]


class _Candidates:
    """Candidates that were measured.

    known: by widths of the groups, the ratios to the original in every setup tried. bar: by setup, the ratio of the
    last candidate that passed, 1 at most: what makes that one slower is undone too.
    """

    def __init__(self, source: Source, folder: Path, setups: list[_Setup], hardware: Hardware) -> None:
        self.original = file_of(source, folder, "original.onnx")
        self.external = bool(source.external)
        self.candidate = folder / "candidate.onnx"
        self.setups = setups
        self.hardware = hardware
        self.count = 0
        self.known: dict[tuple[tuple[int, int], ...], tuple[SetupLatency, ...]] = {}
        self.bar: dict[tuple[int, int], float] = {}

    def passes(self, twin: Twin) -> bool:
        """Whether a candidate is not shown to be slower, in any setup, than the bar."""
        if not twin.plans:
            return True
        key = twin.widths
        if key not in self.known:
            if self.count >= MOST:
                return False
            self.known[key] = self._measure(twin)
        found = self.known[key]
        if len(found) < len(self.setups) or any(map(self._slower, found)):
            return False
        self.bar = {(s.threads, s.batch): min(1.0, s.ratio) for s in found}
        return True

    def confirms(self, twin: Twin) -> bool:
        """Measures once more whether a candidate is not slower than the original: it may have passed by luck."""
        self.known.pop(twin.widths, None)
        self.bar, self.count = {}, min(self.count, MOST - 1)
        return self.passes(twin)

    def _slower(self, found: SetupLatency) -> bool:
        return found.low > (1 + MARGIN) * self.bar.get((found.threads, found.batch), 1.0)

    def _measure(self, twin: Twin) -> tuple[SetupLatency, ...]:
        """Ratios, up to the first setup in which the candidate is slower; that one is tried first from then on."""
        self.count += 1
        written = write(twin, {})
        save(written.model, self.candidate, self.external)
        found = []
        for setup in self.setups:
            pair = [self.original, self.candidate]
            try:
                ratio = self.hardware.ratio(pair, setup.feeds, setup.threads)
            except InputError as error:
                raise VerificationError(
                    f"the rewritten model does not run ({error}): nothing is written; please report this model"
                ) from error
            batch = batch_of(setup.feeds[0])
            found.append(SetupLatency(setup.threads, batch, ratio.value, ratio.low, ratio.high))
            if self._slower(found[-1]):
                self.setups = [setup, *(other for other in self.setups if other is not setup)]
                break
        return tuple(found)
