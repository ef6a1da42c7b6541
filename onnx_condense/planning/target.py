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
from onnx_condense.planning.budget import Pruner, keep_share
from onnx_condense.planning.costing import measured_costs
from onnx_condense.planning.hardware import Hardware, Noted
from onnx_condense.planning.latencies import SetupLatency, TargetReport
from onnx_condense.planning.narrowing import calibrated_where_better, pruner_of
from onnx_condense.planning.never_slower import fusions_lost
from onnx_condense.planning.planned import Multiples, Planned
from onnx_condense.planning.predicting import Seconds
from onnx_condense.planning.run import Run
from onnx_condense.planning.thresholds import Planner
from onnx_condense.prepare import Clock, open_model
from onnx_condense.rewriting.writer import write
from onnx_condense.timing.benchmark import batch_of, latency_feeds
from onnx_condense.timing.costs import Costs

RACES = 3
"""Models that are measured at most: the first, and two with a table that was corrected."""

NEAR = 0.04
"""A result so close to the target needs no correction, as a share of it."""

SAME = 1e-3
"""Relative difference of corrections that is none."""

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
    pruner = pruner_of(run, seconds, share)
    return ToLatency(source, run.planner, pruner, seconds, costs, share, partial(calibrated_where_better, run), race)


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
    """A twin. gain: of the table that it is from. predicted: its share by that. measured: where there was a race."""

    planned: Planned
    gain: float
    predicted: float
    measured: SetupLatency | None

    @property
    def said(self) -> float:
        """The share that the table, uncorrected, says is saved."""
        return (1 - self.predicted) / self.gain

    def off(self, share: float) -> float:
        """How far from a share it was measured, as a factor's logarithm."""
        return abs(math.log(max(self.measured.ratio, 1e-9) / share)) if self.measured is not None else 0.0


@dataclass(frozen=True, eq=False)
class ToLatency:
    """A share of the original's latency.

    Attributes:
        source: the original.
        planner, pruner: make the twins.
        seconds: what the table says.
        costs: the table.
        share: of the original's latency.
        finish: completes a twin before it is measured.
        race: measures a twin against the original; None where the table is another machine's.
    """

    source: Source
    planner: Planner
    pruner: Pruner
    seconds: Seconds
    costs: Costs
    share: float
    finish: Callable[[Twin], float | None]
    race: Callable[[Twin], SetupLatency] | None

    def twin(self) -> Planned:
        """The twin that is nearest to the target. Raises VerificationError where the table has none so fast."""
        tried: list[Tried] = []
        gain, short = self.costs.gain, False
        while len(tried) < RACES:
            try:
                tried.append(self._try(gain))
            except VerificationError:
                if not tried:
                    raise
                short = True
                break
            found = tried[-1].measured
            if found is None or tried[-1].off(self.share) <= NEAR:
                break
            gain = self._corrected(tried)
            if any(math.isclose(gain, one.gain, rel_tol=SAME) for one in tried):
                break
        best = min(tried, key=lambda one: one.off(self.share))
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
            fusions=fusions_lost(self.source, best.planned.twin) if races else (),
        )
        return replace(best.planned, target=report, costs=costs)

    def again(self, planned: Planned, multiples: Multiples) -> Planned:
        """What was measured stands."""
        return planned

    @property
    def _fixed(self) -> float:
        """Share of the original's time in what no width changes."""
        return max(0.0, self.seconds.rest) / self.seconds.before

    def _try(self, gain: float) -> Tried:
        wanted = 1 - (1 - self.share) / gain
        if wanted <= 0 or self.pruner.at(wanted, self.pruner.aside)[1] > wanted * self.pruner.before:
            raise self._unreachable(gain)
        planned = keep_share(self.pruner, wanted, self.finish)
        predicted = 1 - gain * (1 - self.pruner.size(planned.twin) / self.pruner.before)
        found = self.race(planned.twin) if self.race is not None and planned.twin.plans else None
        return Tried(planned, gain, predicted, found)

    def _corrected(self, tried: Sequence[Tried]) -> float:
        """The gain by which the table says what was measured: in proportion between the races there were."""
        known = sorted((one.said, 1 - one.measured.ratio) for one in tried if one.measured is not None)
        wanted, low = 1 - self.share, (0.0, 0.0)
        for said, saved in known:
            if saved >= wanted > low[1]:
                said = low[0] + (said - low[0]) * (wanted - low[1]) / (saved - low[1])
                return _gain(wanted, said)
            low = said, max(saved, low[1])
        said, saved = known[-1]
        return _gain(saved, said)

    def _unreachable(self, gain: float) -> VerificationError:
        narrowest = self.pruner.at(0.0, self.pruner.aside)[1] / self.pruner.before
        return VerificationError(
            f"--budget cannot be met: the fastest that can be reached is {1 - gain * (1 - narrowest):.3f} of the "
            f"latency ({self._fixed:.0%} of it depends on no width); nothing is written; ask for more"
        )


def _gain(saved: float, said: float) -> float:
    """What was saved over what a table said."""
    found = saved / said if said > 0 else 1.0
    return float(f"{min(max(found, LEAST_GAIN), 1 / LEAST_GAIN):.4g}")
