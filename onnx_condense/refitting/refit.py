"""Consumers that lost channels get the weights that lose least: `moments`, without data."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from onnx_condense.arrays import Floats
from onnx_condense.merging.plan import Refit
from onnx_condense.merging.twin import Twin
from onnx_condense.refitting.consumer import Site, lost, original_weight
from onnx_condense.refitting.estimate import UNSTATED, Estimate, Source

STRENGTH = 1e-3
"""Ridge strength without data, as a share of the mean variance."""

EXACT = 1e-9
"""A consumer that loses at most this share of the variance of its output is left alone."""

_log = logging.getLogger(__name__)


def refit_where_better(twin: Twin, estimate: Estimate, error: Callable[[Twin], float]) -> None:
    """As `refit_by_moments`; where nothing states the statistics, only if it makes the model's error smaller.

    A folded file lost the means and deviations of its channels: what is assumed of them is far off for some models.
    """
    refit_by_moments(twin, estimate, lambda source: source != UNSTATED)
    before, saved = error(twin), twin.folds()
    if refit_by_moments(twin, estimate, lambda source: source == UNSTATED) and not error(twin) <= before:
        twin.refold(saved)


def refit_by_moments(twin: Twin, estimate: Estimate, chosen: Callable[[Source], bool] = lambda source: True) -> int:
    """Refits consumers of a twin that lost channels, without data, and says how many. `chosen`: by source."""
    sites = [site for site in lost(twin) if chosen(estimate.source(site))]
    refitted = 0
    for site, known in zip(sites, estimate.moments(sites), strict=True):
        if known is None:
            continue
        whole = site.whole(twin)
        kept = site.features(np.flatnonzero(twin.reads(site.slot)))
        moments = known.of(kept).through(whole)
        prior = min((site.kept(twin), whole[:, kept]), key=moments.loss)
        if moments.loss(prior) <= EXACT * float(np.trace(moments.yy)):
            continue
        weight = moments.ridge(prior, STRENGTH)
        source = estimate.source(site)
        constant = None if source == UNSTATED or site.outer is None else moments.constant(weight)
        apply_refit(twin, site, weight, constant, source)
        refitted += 1
    return refitted


def apply_refit(twin: Twin, site: Site, weight: Floats, constant: Floats | None, source: Source) -> None:
    """Gives a consumer new weights in a twin, where they are finite.

    `weight`: flat, of the kept features, times alpha. `constant`: per flat row; None leaves the bias."""
    like = original_weight(twin, site)
    shift = np.asarray(twin.shift.get(site.slot.node, np.zeros(0)))
    if constant is not None:
        shift = site.bias(constant, like)
    shaped = site.shaped(weight / site.alpha, like)
    if np.isfinite(shaped).all() and np.isfinite(shift).all():
        twin.refit(Refit(site.slot.node, site.slot.input, site.layer, source, shaped, shift))
