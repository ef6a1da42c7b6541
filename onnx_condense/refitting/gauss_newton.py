"""The way downhill for the rows of a producer: gradients over calibration inputs, and a step that follows from them.

Where the outputs a = W₁x of a producer reach a consumer y = W₂h + c alone, through functions of single elements,
h = f(a), whatever rows bring y closer to the original's are right. With the residual r of the consumer, the gradient
of E|r|²/2 along W₁ is -E[δxᵀ], δ = f'(a) ∘ W₂ᵀr, and the Gauss-Newton matrix is taken as the Kronecker product of
W₂ᵀW₂ ∘ E[f'f'ᵀ] and E[xxᵀ] (K-FAC: Martens and Grosse, 2015). f' is a difference quotient of what onnxruntime computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_condense.arrays import Array, Floats, Ints
from onnx_condense.refitting.comparison import FOLDS, Comparison
from onnx_condense.refitting.consumer import Consumer
from onnx_condense.refitting.rows import CHUNK, Channels, FeatureRows
from onnx_condense.refitting.samples import Shard
from onnx_condense.refitting.staged import Segment

ROWS = 2**13
"""About so many rows are taken for the direction of a step."""

DAMPING = 10.0
"""Added to E[xxᵀ], as a share of its mean diagonal; few samples say little of most directions."""

COUPLING = 1e-2
"""Added to the other factor, as a share of its mean diagonal."""

NEAR = 1e-2
"""Half the width of the difference quotient, as a share of what the producer makes of the sample (quadratic mean)."""


@dataclass(frozen=True, eq=False)
class Factors:
    """Sums of δxᵀ [channels, features], xxᵀ [features, features] or nothing [0], and f'f'ᵀ [channels, channels]."""

    gradient: Floats
    inputs: Floats
    derivatives: Floats

    @staticmethod
    def joined(parts: Sequence[Factors | None]) -> Factors | None:
        """Over all shards; None of nothing."""
        known = [part for part in parts if part is not None]
        if not known:
            return None
        sums = (sum(getattr(part, name) for part in known) for name in ("gradient", "inputs", "derivatives"))
        return Factors(*(np.asarray(s, dtype=np.float64) for s in sums))


Length = Callable[[Floats], float]
"""The sum of the squares by which a direction [channels, features] changes the consumer's outputs."""

Step = Callable[[Floats, Factors, Length], Floats | None]
"""From the weight [outputs, features] of a consumer to what is added to the rows of its producer."""


def gauss_newton(weight: Floats, factors: Factors, length: Length) -> Floats | None:
    """[channels, features] what to add to a producer's rows; None where there is no direction.

    Args:
        weight: [outputs, channels · taps] of the consumer.
        factors: of the producer.
        length: of a direction, for the size of the step.
    """
    if not np.isfinite(factors.gradient).all():
        return None
    columns = weight.reshape(len(weight), len(factors.derivatives), -1)
    coupled = np.einsum("tki,tli->kl", columns, columns) * factors.derivatives
    if not (np.trace(coupled) > 0 and np.trace(factors.inputs) > 0):
        return None
    outer, inner = _damped(coupled, COUPLING), _damped(factors.inputs, DAMPING)
    direction = np.linalg.solve(inner, np.linalg.solve(outer, factors.gradient).T).T
    size = length(direction)
    along = float(np.sum(factors.gradient * direction))
    return direction * (along / size) if size > 0 and np.isfinite(along / size) else None


def _damped(matrix: Floats, share: float) -> Floats:
    """[n, n] with a share of its mean diagonal added to the diagonal."""
    return np.asarray(matrix + share * float(np.trace(matrix)) / len(matrix) * np.eye(len(matrix)))


@dataclass(frozen=True, eq=False)
class Piece:
    """Some samples. x: [samples, places, features] of the producer. derivative: [samples, places, channels] f'.

    h: what the consumer reads. y: [samples, positions, alive outputs] its targets.
    """

    x: Floats
    derivative: Floats
    h: FeatureRows
    y: Floats


@dataclass(frozen=True, eq=False)
class Pieces:
    """What a producer and its consumer see of a shard: some of the samples, and none of the last fold.

    made: what the producer makes. middle: what is between the two. samples: of the whole calibration.
    """

    job: Comparison
    producer: Consumer
    made: Channels
    middle: Segment
    samples: int

    def __call__(self, shard: Shard) -> Iterator[Piece]:
        """A few samples at a time; none where places or positions do not fit."""
        consumer, active = self.job.consumer, None
        for view in self.job.views(shard, self._wanted):
            active = active or self.middle.open(view.known)
            derivative = self._derivative(active, view.known[self.made.tensor])
            x, h = (each.rows(view.known[each.reads.tensor]) for each in (self.producer, consumer))
            if (x.samples, x.positions) != derivative.shape[:2] or (h.samples, h.positions) != view.made.shape[:2]:
                return
            step = max(1, CHUNK // max(x.positions * x.features, h.positions * h.features))
            for start in range(0, x.samples, step):
                few = np.arange(start, min(start + step, x.samples))
                yield Piece(x.of_samples(few).whole(), derivative[few], h.of_samples(few), view.targets(few))

    def _wanted(self, numbers: Ints, known: Mapping[str, Array]) -> Ints:
        """[k] samples of all folds but the last, as many as make about `ROWS` rows."""
        every = FOLDS * max(1, self.samples * self.producer.positions(known[self.producer.reads.tensor]) // ROWS)
        return np.flatnonzero((numbers % FOLDS < FOLDS - 1) & (numbers % every < FOLDS))

    @np.errstate(divide="ignore", invalid="ignore", over="ignore")  # there is no step along what is not finite
    def _derivative(self, active: Any, made: Array) -> Floats:
        """[samples, places, channels] f' at what the producer made."""
        reads = self.job.consumer.reads
        size = np.sqrt(np.mean(np.square(self.made.of(made)), axis=(1, 2)))
        near = NEAR * np.where(size > 0, size, 1.0).astype(made.dtype).reshape(-1, *[1] * (made.ndim - 1))
        ends = (made + near.astype(made.dtype), made - near.astype(made.dtype))
        high, low = (self.middle.run(active, {self.made.tensor: end})[reads.tensor] for end in ends)
        apart = self.made.of(ends[0] - ends[1])
        return (reads.of(high) - reads.of(low)) / apart


@dataclass(frozen=True, eq=False)
class Gradient:
    """Sums, over a shard, for the direction of a step.

    weight, constant: [alive outputs, features] and [alive outputs] of the consumer.
    inputs: whether xxᵀ is asked for, too; it is the same for every step.
    """

    pieces: Pieces
    weight: Floats
    constant: Floats
    inputs: bool

    def __call__(self, shard: Shard) -> Factors | None:
        """None where there are no samples of it."""
        result = None
        for piece in self.pieces(shard):
            h, weight = piece.h.whole(), self.weight.astype(piece.x.dtype)
            rest = piece.y - h @ weight.T - self.constant.astype(h.dtype)
            delta = _flat(piece.h.adjoint(rest @ weight) * piece.derivative)
            x, derivative = _flat(piece.x), _flat(piece.derivative)
            found = Factors(delta.T @ x, x.T @ x if self.inputs else np.zeros(0), derivative.T @ derivative)
            result = found if result is None else Factors.joined([result, found])
        return result


@dataclass(frozen=True, eq=False)
class Change:
    """The sum, over a shard, of the squares by which a direction changes the consumer's alive outputs.

    weight: [alive outputs, features] of the consumer. direction: [channels, features] of the producer.
    """

    pieces: Pieces
    weight: Floats
    direction: Floats

    def __call__(self, shard: Shard) -> float:
        """Zero where there are no samples of it."""
        result = 0.0
        for piece in self.pieces(shard):
            direction, weight = (part.astype(piece.x.dtype) for part in (self.direction, self.weight))
            change = piece.h.other(piece.x @ direction.T * piece.derivative).whole() @ weight.T
            result += float(np.sum(change.astype(np.float64) ** 2))
        return result


def _flat(values: Floats) -> Floats:
    """[samples, places, n] as [samples · places, n]."""
    return values.reshape(-1, values.shape[-1])
