"""Consumers that lost channels get the weights that lose least: `moments`, without data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnx_condense.errors import left_alone
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.twin import Twin
from onnx_condense.refitting.consumer import TwinConsumer, reading_fewer
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.moments import Moments
from onnx_condense.refitting.pairs import refit_pairs

EXACT = 1e-9
"""A consumer that loses at most this share of the variance of its output is left alone."""


def refit_where_better(twin: Twin, estimate: Estimate, error: Callable[[Twin], float]) -> None:
    """As `refit_by_moments`; where nothing states the statistics, only if it makes the model's error smaller.

    A folded file lost the means and deviations of its channels: what is assumed of them is far off for some models.
    """
    consumers = reading_fewer(twin)
    guessed = [c for c in consumers if estimate.evidence(c.fixed) is Evidence.WEIGHTS]
    _refit_all([c for c in consumers if c not in guessed], estimate)
    refit_pairs(twin, estimate, lambda evidence: evidence is not Evidence.WEIGHTS)
    paired = any(twin.trace.pairs_of(group) for group in twin.trace.groups if group.index in twin.plans)
    if not guessed and not paired:
        return
    before, saved = error(twin), twin.folds()
    refitted = _refit_all(guessed, estimate)
    refitted += refit_pairs(twin, estimate, lambda evidence: evidence is Evidence.WEIGHTS)
    if refitted and not error(twin) <= before:
        twin.refold(saved)


def refit_by_moments(twin: Twin, estimate: Estimate) -> None:
    """Refits consumers of a twin that lost channels, without data."""
    _refit_all(reading_fewer(twin), estimate)


def refit_by(twin: Twin, estimate: Estimate) -> None:
    """The same, and products of data."""
    refit_by_moments(twin, estimate)
    refit_pairs(twin, estimate)


def _refit_all(consumers: Sequence[TwinConsumer], estimate: Estimate) -> int:
    """Refits consumers, and says how many."""
    refitted = 0
    for consumer, known in zip(consumers, estimate.moments([c.fixed for c in consumers]), strict=True):
        with left_alone(consumer.fixed.layer):
            refitted += known is not None and _refit(consumer, known, estimate)
    return refitted


def _refit(consumer: TwinConsumer, known: Moments, estimate: Estimate) -> bool:
    """Whether a consumer lost something, and was refitted."""
    whole, shift = consumer.exact()
    moments = known.of(consumer.kept, whole, estimate.crossed(consumer.fixed, whole))
    priors = consumer.matrix(), whole[:, consumer.kept]
    losses = [moments.loss(prior) for prior in priors]
    prior = priors[int(np.argmin(losses))]
    if min(losses) <= EXACT * float(np.trace(moments.yy)):
        return False
    matrix, evidence = moments.ridge(prior, estimate.strength([consumer.fixed])), estimate.evidence(consumer.fixed)
    stated = evidence is not Evidence.WEIGHTS and consumer.fixed.layout.produced is not None
    consumer.refit(matrix, moments.constant(matrix) + shift if stated else None, evidence)
    return True
