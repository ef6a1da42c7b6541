"""Moments of what consumers read, without data or from what sums them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from onnx_condense.arrays import Bools, Floats, Ints
from onnx_condense.merging.evidence import Evidence
from onnx_condense.model.inputs import Feed
from onnx_condense.refitting.consumer import Consumer, Key
from onnx_condense.refitting.moments import Moments, Sums
from onnx_condense.refitting.noise import Noise
from onnx_condense.refitting.reading import Source
from onnx_condense.refitting.summing import Summing
from onnx_condense.refitting.synthetic import Span
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Trace

STRENGTH = 1e-3
"""Ridge strength, as a share of the mean variance, where nothing is in doubt."""

STRONGEST = 1.0
"""The same, where as much as can be is."""

DOUBT = 0.25
"""Ridge strength on real images for each channel, as a share of what rows of one image being alike costs."""


class Estimate:
    """Moments of what consumers read: of noise through a model whose statistics are kept (see `Noise`).

    `real`: what sums the model's own tensors on real inputs instead (see `measured`). Covariances of few rows take in
    those of `prior` as if it had seen as many rows as there are channels; where both have seen fewer, as behind pooled
    large images, these vary apart, too: the few directions that it fills say nothing of real inputs.
    """

    def __init__(
        self,
        trace: Trace,
        feed: Feed,
        seed: int,
        real: Summing | None = None,
        prior: Estimate | None = None,
        span: Span | None = None,
    ) -> None:
        self.trace = trace
        self.real = real
        self._noise = Noise(trace, feed, seed, span)
        self._prior = prior
        self._narrow = False
        self._known: dict[Key, Moments | None] = {}
        self._crossed: dict[Key, Floats] = {}
        self._doubts: dict[Key, float] = {}
        self._unseen: dict[Key, float] = {}

    @staticmethod
    def beside_real(trace: Trace, feed: Feed, seed: int, span: Span | None = None) -> Estimate:
        """Without data, in less memory and time: for covariances that take it in where real ones are of few rows."""
        made = Estimate(trace, feed, seed, span=span)
        made._noise.repeats, made._narrow = False, True
        return made

    def evidence(self, consumer: Source) -> Evidence:
        """What the moments of what a consumer reads follow from."""
        if self.real is not None:
            return Evidence.CALIBRATION
        unstated = self._unstated[self._units(consumer)].any()
        return Evidence.WEIGHTS if unstated else Evidence.BATCH_NORMALIZATION

    @cached_property
    def _unstated(self) -> Bools:
        """[units] the channels that a linear map makes which no BatchNormalization follows."""
        result = np.zeros(len(self.trace.unit_of), dtype=bool)
        for slot in self.trace.made.values():
            if slot.node in self._noise.unstated:
                result[self.trace.units_in(slot.labels)] = True
        return result

    def _units(self, consumer: Source) -> Ints:
        """The channels that a consumer reads, each once."""
        atoms = atoms_of(consumer.slot.labels.reshape(-1))
        return np.unique(self.trace.unit_of[atoms[atoms >= 0]])

    def moments(self, consumers: Sequence[Source]) -> list[Moments | None]:
        """The moments of all features of each consumer; None where synthetic inputs make none that are finite."""
        wanted = [c for c in consumers if c.key not in self._known]
        if wanted:
            self._known.update(self._measured(wanted))
        return [self._known[c.key] for c in consumers]

    def strength(self, consumers: Iterable[Source]) -> float:
        """How strong a ridge is, as a share of the mean variance: that of the consumer of which least is known.

        What few samples hold seldom looks idle, and what varies little looks like a sum of others.
        """
        return min(STRONGEST, max([STRENGTH, *(self._doubts.get(consumer.key, 0.0) for consumer in consumers)]))

    def crossed(self, consumer: Consumer, weight: Floats) -> Floats:
        """[u, features] the weight [u, features] of a consumer times its covariances; it is asked once."""
        if consumer.key not in self._crossed:
            (moments,) = self.moments([consumer])
            assert moments is not None
            self._crossed[consumer.key] = weight @ moments.xx
        return self._crossed[consumer.key]

    def _measured(self, consumers: Sequence[Source]) -> dict[Key, Moments | None]:
        summing = self._noise if self.real is None else self.real
        others = [None] * len(consumers) if self._prior is None else self._prior.moments(consumers)
        return {
            consumer.key: None if sums is None else self._known_from(consumer, sums, other)
            for consumer, sums, other in zip(consumers, summing(consumers), others, strict=True)
        }

    def _known_from(self, consumer: Source, sums: Sums, other: Moments | None) -> Moments:
        known = sums.moments(self.evidence(consumer) is not Evidence.WEIGHTS)
        channels = len(self._units(consumer)) or consumer.features
        if self.real is not None:
            self._doubts[consumer.key] = DOUBT * channels * _alike(sums)
        self._unseen[consumer.key] = max(0.0, 1 - sums.count / channels)
        known = known.narrow() if self._narrow else known
        if other is None or self._prior is None:
            return known
        if sums.count < channels:
            other = other.apart(self._prior._unseen[consumer.key])
        return known.shrunk(other, channels / (channels + sums.count))


def _alike(sums: Sums) -> float:
    """How much less rows tell because those of one image are alike: as if only their root were others."""
    return float((sums.count * sums.samples) ** -0.5 - 1 / sums.count) if 0 < sums.samples < sums.count else 0.0
