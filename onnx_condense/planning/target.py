"""A share of the original's latency: widths by a cost table, measured in a race, the table corrected by that."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from onnx_condense.errors import InputError, VerificationError
from onnx_condense.merging.twin import Twin
from onnx_condense.model.files import Source, file_of, save
from onnx_condense.model.inputs import Feed
from onnx_condense.options import Options
from onnx_condense.planning.costing import measured_costs
from onnx_condense.planning.hardware import Hardware, Noted
from onnx_condense.planning.latencies import SetupLatency, TargetReport
from onnx_condense.planning.narrowing import ToShare, to_share, ways_of
from onnx_condense.planning.never_slower import fusions_lost
from onnx_condense.planning.planned import Multiples, Planned
from onnx_condense.planning.predicting import Seconds
from onnx_condense.planning.rivals import Rival, rivals_of
from onnx_condense.planning.run import Run
from onnx_condense.planning.thresholds import Planner
from onnx_condense.prepare import Clock, open_model
from onnx_condense.rewriting.writer import write
from onnx_condense.timing.benchmark import batch_of, latency_feeds
from onnx_condense.timing.costs import Costs

RACES = 4
"""Models that are measured at most: the first, and those that a corrected table, or another way to choose, gives."""

NEAR = 0.04
"""A result so close to the target needs no correction, as a share of it."""

SAME = 1e-3
"""Relative difference of corrections that is none."""

STRIDE = 2.0
"""Times what was asked for that a correction asks for at most: what a race says of one table holds near it."""

LEAST_GAIN = 0.2
"""What a correction may make of what a table says is saved, at least; and at most one over this."""


@dataclass(frozen=True)
class Conditions:
    """How a model runs where it is timed. threads: of onnxruntime, 0: all cores. batch: None: 1, or what it states."""

    threads: int
    batch: int | None


def costs_of(
    source: Source, options: Options, conditions: Conditions, hardware: Hardware, note: Callable[[str], None]
) -> Costs:
    """The cost table of a model on a machine; options: what it is fed.

    Raises InputError and UsageError as `condense` does.
    """
    feeds = latency_feeds(source.proto, conditions.batch, options.data, options.input_shape, options.seed)
    shapes = {name: tuple(array.shape) for name, array in feeds[0].items()}
    fed = Options(
        data=options.data,
        input_shape=shapes,
        seed=options.seed,
        input_range=options.input_range,
        fold_batchnorm=options.fold_batchnorm,
    )
    opened = open_model(source, fed, Clock(None))
    name = source.path.name if source.path is not None else "a model in memory"
    return measured_costs(opened.trace, name, conditions.threads, batch_of(feeds[0]), hardware, note)


def to_latency(run: Run, share: float, hardware: Hardware) -> ToLatency:
    """The strategy for a share of the latency. Raises InputError where a cost table is none, or another model's."""
    options, source = run.options, run.opened.source
    race = None
    if options.latency_for is not None:
        costs = Costs.load(Path(options.latency_for))
    else:
        noted = Noted(hardware, run.clock.note)
        costs = costs_of(source, options, Conditions(options.threads, options.batch), noted, run.clock.note)
        feeds = latency_feeds(source.proto, options.batch, options.data, options.input_shape, options.seed)
        race = partial(_raced, source, feeds, options.threads, noted)
    seconds = Seconds.of(costs, run.opened.trace)
    real = run.opened.calibration.chooses or options.data is not None
    rivals = rivals_of(ways_of(run, seconds, share), share, real)
    return ToLatency(source, rivals, to_share(run, rivals[0].pruner, share), seconds, costs, race)


def _raced(source: Source, feeds: Sequence[Feed], threads: int, hardware: Hardware, twin: Twin) -> SetupLatency:
    """A race of a twin's model against the original. Raises VerificationError where it does not run."""
    with tempfile.TemporaryDirectory() as folder:
        original, candidate = file_of(source, Path(folder), "original.onnx"), Path(folder) / "candidate.onnx"
        written = write(twin, {})
        save(written.model, candidate, bool(source.external))
        try:
            ratio = hardware.ratio([original, candidate], feeds, threads)
        except InputError as error:
            raise VerificationError(
                f"the rewritten model does not run ({error}): nothing is written; please report this model"
            ) from error
    return SetupLatency(threads, batch_of(feeds[0]), ratio.value, ratio.low, ratio.high)


@dataclass(frozen=True)
class Tried:
    """A twin.

    Attributes:
        rival: the way in which its widths were chosen. wanted: the share of the seconds that was asked of it.
        planned, lost: what it made, and what that loses.
        gain: of the table that it is from. predicted: its share by that.
        measured: where there was a race.
    """

    rival: Rival
    wanted: float
    planned: Planned
    lost: float
    gain: float
    predicted: float
    measured: SetupLatency | None = None

    @property
    def said(self) -> float:
        """The share that the table, uncorrected, says is saved."""
        return (1 - self.predicted) / self.gain

    def off(self, share: float) -> float:
        """How far from a share it was measured, as a factor's logarithm."""
        return abs(math.log(max(self.measured.ratio, 1e-9) / share)) if self.measured is not None else 0.0

    def same(self, other: Tried) -> bool:
        """Whether it was chosen in the same way, for the same time."""
        return self.rival is other.rival and math.isclose(self.gain, other.gain, rel_tol=SAME)


@dataclass(frozen=True, eq=False)
class ToLatency:
    """A share of the original's latency.

    Attributes:
        source: the original.
        rivals: ways to choose widths.
        sharing: refits what was chosen as a budget does.
        seconds: what the table says.
        costs: the table.
        race: measures a twin against the original; None where the table is another machine's.
    """

    source: Source
    rivals: Sequence[Rival]
    sharing: ToShare
    seconds: Seconds
    costs: Costs
    race: Callable[[Twin], SetupLatency] | None

    @property
    def planner(self) -> Planner:
        """What makes twins."""
        return self.sharing.planner

    @property
    def share(self) -> float:
        """Of the original's latency."""
        return self.sharing.share

    def twin(self) -> Planned:
        """The twin that loses least of those near the target, or the nearest.

        Raises VerificationError where the table has none so fast.
        """
        tried: list[Tried] = []
        short = False
        while len(tried) < RACES:
            made = self._made(tried)
            if made is None and not tried:
                raise self._unreachable(self.costs.gain)
            if made is None or any(made.same(one) for one in tried):
                short = made is None
                break
            if self.race is not None and made.planned.twin.plans:
                made = replace(made, measured=self.race(made.planned.twin))
            tried.append(made)
            if made.off(self.share) <= NEAR:
                break
        best = min(tried, key=lambda one: (max(one.off(self.share), NEAR), one.lost))
        planned = replace(self.sharing, pruner=best.rival.pruner, share=best.wanted).twin()
        races = sum(one.measured is not None for one in tried)
        costs = self.costs.corrected(best.gain)
        report = TargetReport(
            share=self.share,
            predicted=best.predicted,
            measured=best.measured,
            races=races,
            short=short,
            fixed=self._fixed,
            threads=costs.threads,
            batch=costs.batch,
            table=costs.model,
            machine=costs.machine,
            gain=costs.gain,
            fusions=fusions_lost(self.source, planned.twin) if races else (),
        )
        return replace(planned, target=report, costs=costs)

    def again(self, planned: Planned, multiples: Multiples) -> Planned:
        """What was measured stands."""
        return planned

    @property
    def _fixed(self) -> float:
        """Share of the original's time in what no width changes."""
        return max(0.0, self.seconds.rest) / self.seconds.before

    def _made(self, tried: Sequence[Tried]) -> Tried | None:
        """The twin that loses least of those that are as fast as wanted, by what races said; None where none is."""
        found: list[tuple[float, Rival, float, float, float]] = []
        for rival in self.rivals:
            gain = self._corrected([one for one in tried if one.rival is rival] or tried[-1:])
            wanted = 1 - (1 - self.share) / gain
            judged = rival.judged(wanted)
            if judged is not None:
                found.append((judged[1], rival, wanted, gain, 1 - gain * (1 - judged[0])))
        if not found:
            return None
        lost, rival, wanted, gain, predicted = min(found, key=lambda one: one[0])
        return Tried(rival, wanted, rival.at(wanted), lost, gain, predicted)

    def _corrected(self, tried: Sequence[Tried]) -> float:
        """The gain by which the table says what was measured: in proportion between races; its own where none was."""
        known = sorted((one.said, 1 - one.measured.ratio) for one in tried if one.measured is not None)
        if not known:
            return self.costs.gain
        wanted, low = 1 - self.share, (0.0, 0.0)
        for said, saved in known:
            if saved >= wanted > low[1]:
                said = low[0] + (said - low[0]) * (wanted - low[1]) / (saved - low[1])
                return _gain(wanted, said)
            low = said, max(saved, low[1])
        said, saved = known[-1]
        return max(_gain(saved, said), _gain(wanted, STRIDE * said))

    def _unreachable(self, gain: float) -> VerificationError:
        pruner = self.rivals[0].pruner
        narrowest = pruner.at(0.0, pruner.aside)[1] / pruner.before
        return VerificationError(
            f"--budget cannot be met: the fastest that can be reached is {1 - gain * (1 - narrowest):.3f} of the "
            f"latency ({self._fixed:.0%} of it depends on no width); nothing is written; ask for more"
        )


def _gain(saved: float, said: float) -> float:
    """What was saved over what a table said."""
    found = saved / said if said > 0 else 1.0
    return float(f"{min(max(found, LEAST_GAIN), 1 / LEAST_GAIN):.4g}")
