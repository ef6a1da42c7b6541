"""Consumers refitted on calibration inputs: one after the other, each on what the condensed layers before it give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnx_condense.arrays import Floats
from onnx_condense.merging.twin import Twin
from onnx_condense.merging.weights import TwinWeights
from onnx_condense.model.parts import Probe
from onnx_condense.refitting.comparison import Comparison, beside
from onnx_condense.refitting.consumer import Site, lost, original_weight
from onnx_condense.refitting.estimate import NOISE_ROWS, Measure, sums_of
from onnx_condense.refitting.moments import Fit, Sums, fit
from onnx_condense.refitting.producers import link, producer_of, refine
from onnx_condense.refitting.refit import EXACT, apply_refit
from onnx_condense.refitting.samples import Calibration, Shard
from onnx_condense.refitting.staged import Cutter
from onnx_condense.rewriting.writer import write
from onnx_condense.tracing.trace import Trace

ROWS = 2**16
"""Most rows that are summed per consumer; positions are drawn beyond it."""

WORK = 3 * 2**31
"""Most multiplications for the sums by which a producer's step is judged; positions are drawn beyond it."""

Progress = Callable[[str], None]


def measured(trace: Trace, calibration: Calibration, seed: int) -> Measure:
    """What sums the original model's own tensors on calibration inputs."""

    def measure(sites: Sequence[Site]) -> list[Sums | None]:
        probe = Probe.of(trace.facts.model, [site.data for site in sites])
        total: list[Sums | None] = []
        for parts in calibration.each(_Reading(probe, tuple(sites), NOISE_ROWS / calibration.samples, seed)):
            pairs = zip(total or parts, parts, strict=True)
            total = [a and b and Sums.joined([a, b]) for a, b in pairs] if total else parts
        return total

    return measure


@dataclass(frozen=True, eq=False)
class _Reading:
    """Sums, over a shard, of what sites read in the original model: `each` rows per sample."""

    probe: Probe
    sites: tuple[Site, ...]
    each: float
    seed: int

    def __call__(self, shard: Shard) -> list[Sums | None]:
        feeds = shard.feeds()
        most = max(1, round(self.each * shard.kept / max(1, len(feeds))))
        return sums_of(self.probe(feeds), self.sites, most, [self.seed, shard.first])


def calibrate(twin: Twin, calibration: Calibration, seed: int, progress: Progress) -> None:
    """Refits every consumer of a twin that lost channels, and the producer that it alone reads.

    Inputs come from the condensed prefix, targets from the original model: the whole kernel and bias, drawn toward
    what the twin holds (the solution without data), as strongly as held-back samples ask for. Where the output is
    added to another tensor (a residual connection), what that tensor has lost is part of the target.
    """
    sites, facts = lost(twin), twin.trace.facts
    kept = (facts.shapes.keys() | facts.derived) - facts.static
    with Cutter(facts.model, kept) as original, Cutter(facts.model, kept) as condensed:
        for number, site in enumerate(sites, 1):
            stage = f"calibrate {number}/{len(sites)}: {site.layer}"
            progress(stage)
            producer = producer_of(twin, site)
            most = max(1, ROWS // calibration.samples)
            few = max(1, WORK // site.kept(twin).shape[1] ** 2 // calibration.samples) if producer else most
            job = _comparison(twin, site, producer, original, condensed, min(few, most), seed)
            total = partial(_sums, calibration=calibration, progress=progress, stage=stage)
            first = parts = total(job)
            if first is None:
                continue
            found = _fitted(twin, site, first)
            if producer is not None and np.isfinite(found.strength):
                job, parts = refine(twin, producer, job, first, found.strength, calibration, total)
            if few < most and sum(part.count for part in first) >= few * calibration.samples:
                parts = total(replace(job, most=most))  # there are more positions
            if parts is not None:
                _apply(twin, site, found if parts is first else _fitted(twin, site, parts))


def _fitted(twin: Twin, site: Site, parts: Sequence[Sums]) -> Fit:
    """The weights that held-back parts of the samples choose for a consumer."""
    prior, constant = _prior(twin, site)
    return fit(parts, prior, constant, site.outer is not None, None if site.direct else site.whole(twin), EXACT)


def _apply(twin: Twin, site: Site, found: Fit) -> None:
    if found.prior:
        return
    known = _bias(twin, site) if site.direct else np.zeros(1)
    apply_refit(twin, site, found.weight, found.constant - known if site.outer is not None else None, "calibration")


def _bias(twin: Twin, site: Site) -> Floats:
    """[produced] the bias of the original."""
    return TwinWeights(Twin(twin.trace)).row_bias(site.slot.node)


def _prior(twin: Twin, site: Site) -> tuple[Floats, Floats]:
    """The flat weight of the kept features and the constant per flat row that the twin has now."""
    if site.direct:
        return site.kept(twin), TwinWeights(twin).row_bias(site.slot.node)
    like = original_weight(twin, site)
    return site.kept(twin), site.spread(np.asarray(twin.shift.get(site.slot.node, np.zeros(0))), like)


def _comparison(
    twin: Twin, site: Site, producer: Site | None, original: Cutter, condensed: Cutter, most: int, seed: int
) -> Comparison:
    """What is to be summed for a consumer, on chains that reach as far as it, or as far as its producer."""
    other = beside(twin, site)
    target = site.output if site.direct else site.data
    others = [] if other is None else [other.name]
    before = original.reach(twin.trace.facts.model, [target, *others])
    traced = write(twin, {}).traced
    after = condensed.reach(traced, [(producer or site).data, *others])
    between = None if producer is None else link(traced, producer, site)
    return Comparison(site, before, after, between, target, other, most, seed)


def _sums(job: Comparison, calibration: Calibration, progress: Progress, stage: str) -> list[Sums] | None:
    """Sums over each fold of the samples; None where there are none, or none that are finite."""
    total: list[Sums] = []
    for number, parts in enumerate(calibration.each(job), 1):
        if parts is None:
            return None
        total = [Sums.joined(pair) for pair in zip(total, parts, strict=True)] if total and parts else total or parts
        if len(calibration.shards) > 1:
            progress(f"{stage}, shard {number}/{len(calibration.shards)}")
    return total if total and all(np.isfinite(part.products).all() for part in total) else None
