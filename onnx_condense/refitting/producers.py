"""Producers refitted for the sake of the one consumer that reads them: Gauss-Newton steps on their rows.

Where the outputs a = W₁x of a producer reach a consumer y = W₂h + c alone, through functions of single elements,
h = f(a), whatever rows bring y closer to the original's are right. With the residual r of the consumer, the gradient
of E|r|²/2 along W₁ is -E[δxᵀ], δ = f'(a) ∘ W₂ᵀr, and the Gauss-Newton matrix is taken as the Kronecker product of
W₂ᵀW₂ ∘ E[f'f'ᵀ] and E[xxᵀ] (K-FAC: Martens and Grosse, 2015). f' is a difference quotient of what onnxruntime computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnx_condense.arrays import Array, Bools, Floats
from onnx_condense.merging.twin import Twin
from onnx_condense.model.parts import Model, prefix
from onnx_condense.model.runtime import to_bytes
from onnx_condense.refitting.comparison import FOLDS, Comparison, alive_rows, made_by
from onnx_condense.refitting.consumer import CHUNK, Rows, Site, original_weight, site_of
from onnx_condense.refitting.moments import Moments, Sums
from onnx_condense.refitting.refit import apply_refit
from onnx_condense.refitting.samples import Calibration, Shard
from onnx_condense.refitting.staged import Part
from onnx_condense.rewriting.writer import write
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Trace

STEPS = 4
"""Most Gauss-Newton steps."""

PAYS = 0.99
"""A step that leaves more than this share of the loss on held-back samples is the last."""

ROWS = 2**14
"""About so many rows are taken for the direction of a step."""

DAMPING = 10.0
"""Added to E[xxᵀ], as a share of its mean diagonal; few samples say little of most directions."""

COUPLING = 1e-2
"""Added to the other factor, as a share of its mean diagonal."""

NEAR = 1e-2
"""Half the width of the difference quotient, as a share of what the producer makes of the sample (quadratic mean)."""

Total = Callable[[Comparison], list[Sums] | None]
"""Sums over all samples; None where there are none that are finite."""


def producer_of(twin: Twin, site: Site) -> Site | None:
    """The linear map whose outputs reach a consumer alone, through functions of single elements; None of others."""
    trace, facts = twin.trace, twin.trace.facts
    path = _path(twin, site.data)
    if path is None or not site.direct or site.axis == 0:
        return None
    node, inner = path
    names = {t.name for index in (node, *inner) for t in facts.nodes[index].outputs if t.name}
    readers = {index for name in names for index, _ in facts.consumers(name)}
    shapes = {facts.shapes.get(name) for name in names}
    if readers != inner | {site.slot.node} or names & facts.read_outside or len(shapes) > 1:
        return None
    action = trace.linear_map(node)
    slot = trace.reading(node, action.weight) if action is not None else None
    found = None if slot is None else site_of(trace, slot)
    if found is None or not found.direct or found.axis == 0 or found.output_axis != site.axis:
        return None
    if original_weight(twin, found).dtype not in (np.float32, np.float64):
        return None
    return found if np.array_equal(made_by(twin, found), atoms_of(site.slot.labels.reshape(-1))) else None


def _path(twin: Twin, name: str) -> tuple[int, set[int]] | None:
    """The one linear map that makes a tensor, and the nodes between: functions of single elements."""
    facts = twin.trace.facts
    makers, inner, waiting = set[int | None](), set[int](), [name]
    while waiting:
        index = facts.maker(waiting.pop())
        if index is None or not _is_pointwise(twin.trace, index):
            makers.add(index)
        elif index not in inner:
            inner.add(index)
            waiting += [t.name for t in facts.nodes[index].inputs if t.name and t.name not in facts.static]
    first = makers.pop()
    if first is None or makers or twin.trace.linear_map(first) is None:
        return None
    return first, inner


def _is_pointwise(trace: Trace, index: int) -> bool:
    return index in trace.actions and trace.actions[index].pointwise


def link(model: Model, producer: Site, site: Site) -> Part:
    """What is between what a producer reads, what it makes and what the consumer reads."""
    return _part(model, producer.data, (producer.output, site.data))


def _part(model: Model, reads: str, names: Sequence[str]) -> Part:
    makes = tuple(dict.fromkeys(name for name in names if name != reads))
    return Part(to_bytes(prefix(model, makes, {reads})) if makes else b"", (reads,), makes, tuple(names))


@dataclass(frozen=True, eq=False)
class _Held:
    """What a consumer learns from all folds but the last, and the loss on that one. weight: [alive outputs, f]."""

    weight: Floats
    constant: Floats
    loss: float

    @staticmethod
    def of(parts: Sequence[Sums], prior: Floats, strength: float, alive: Bools) -> _Held:
        known, other = (_alive(s.moments(), alive) for s in (Sums.joined(parts[:-1]), parts[-1]))
        weight = known.ridge(prior[alive], strength)
        constant = known.constant(weight)
        missed = other.constant(weight) - constant
        return _Held(weight, constant, other.loss(weight) + float(missed @ missed))


def _alive(moments: Moments, alive: Bools) -> Moments:
    return replace(moments, y=moments.y[alive], yx=moments.yx[alive], yy=moments.yy[np.ix_(alive, alive)])


def refine(
    twin: Twin,
    producer: Site,
    job: Comparison,
    parts: list[Sums],
    strength: float,
    calibration: Calibration,
    total: Total,
) -> tuple[Comparison, list[Sums]]:
    """Gives a producer rows with which its consumer loses less: what is to be summed with them, and the sums.

    Each step must lose less on the last fold of the samples, from which neither it nor the consumer has learned.

    Args:
        job, parts: what is summed for the consumer, and the sums by `total`. strength: of the consumer's least squares.
    """
    if not all(part.count for part in parts):
        return job, parts
    site, alive, prior = job.site, alive_rows(twin, job.site), job.site.kept(twin)
    assert job.link is not None
    middle = _part(Model.FromString(job.link.model), producer.output, (site.data,))
    inputs = None
    best = _Held.of(parts, prior, strength, alive)
    for _ in range(STEPS):
        pieces = _Pieces(job, producer, middle, calibration.samples)
        factors = _factors(pieces, best, alive, inputs is None, calibration)
        inputs = factors.inputs if inputs is None and factors is not None else inputs
        step = None if factors is None or inputs is None else _step(pieces, best, factors, inputs, calibration)
        if step is None:
            break
        rows, saved = producer.kept(twin), twin.folds()
        rows[alive_rows(twin, producer)] += step
        apply_refit(twin, producer, rows, None, "calibration")
        trial = replace(job, link=link(write(twin, {}).traced, producer, site))
        sums = total(trial)
        after = None if sums is None else _Held.of(sums, prior, strength, alive)
        if sums is None or after is None or not after.loss < best.loss:
            twin.refold(saved)
            break
        paid, job, parts, best = after.loss < PAYS * best.loss, trial, sums, after
        if not paid:
            break
    return job, parts


def _factors(pieces: _Pieces, fit: _Held, alive: Bools, inputs: bool, calibration: Calibration) -> _Factors | None:
    return _Factors.joined(list(calibration.each(_Gradient(pieces, fit.weight, fit.constant, alive, inputs))))


def _step(pieces: _Pieces, fit: _Held, factors: _Factors, inputs: Floats, calibration: Calibration) -> Floats | None:
    """[channels, features] what to add to the producer's rows; None where there is no direction."""
    if not np.isfinite(factors.gradient).all():
        return None
    columns = fit.weight.reshape(len(fit.weight), len(factors.derivatives), -1)
    coupled = np.einsum("tki,tli->kl", columns, columns) * factors.derivatives
    if not (np.trace(coupled) > 0 and np.trace(inputs) > 0):
        return None
    outer, inner = _damped(coupled, COUPLING), _damped(inputs, DAMPING)
    direction = np.linalg.solve(inner, np.linalg.solve(outer, factors.gradient).T).T
    length = sum(calibration.each(_Length(pieces, fit.weight, direction)))
    along = float(np.sum(factors.gradient * direction))
    return direction * (along / length) if length > 0 and np.isfinite(along / length) else None


def _damped(matrix: Floats, share: float) -> Floats:
    return np.asarray(matrix + share * float(np.trace(matrix)) / len(matrix) * np.eye(len(matrix)))


@dataclass(frozen=True, eq=False)
class _Piece:
    """Some samples. x: [samples, places, features] of the producer. derivative: [samples, places, channels] f'.

    h: what the consumer reads. y: [samples, positions, outputs] its targets.
    """

    x: Floats
    derivative: Floats
    h: Rows
    y: Floats


@dataclass(frozen=True, eq=False)
class _Pieces:
    """What a producer and its consumer see of a shard: some of the samples, and none of the last fold.

    middle: what is between the two. samples: of the whole calibration.
    """

    job: Comparison
    producer: Site
    middle: Part
    samples: int

    def __call__(self, shard: Shard) -> Iterator[_Piece]:
        """A few samples at a time; none where places or positions do not fit."""
        site, active = self.job.site, None
        for view in self.job.views(shard):
            made, read = view.known[self.producer.output], view.known[site.data]
            active = active or self.middle.open(view.known)
            derivative = self._derivative(active, made)
            x, h, y = Rows.of(self.producer, view.known[self.producer.data]), Rows.of(site, read), view.targets
            if (x.samples, x.positions) != derivative.shape[:2] or (h.samples, h.positions) != y.shape[:2]:
                return
            every = FOLDS * max(1, self.samples * x.positions // ROWS)
            mine = np.flatnonzero((view.numbers % FOLDS < FOLDS - 1) & (view.numbers % every < FOLDS))
            step = max(1, CHUNK // max(x.positions * x.features, h.positions * h.features))
            for start in range(0, len(mine), step):
                few = mine[start : start + step]
                yield _Piece(x.of_samples(few).whole(), derivative[few], h.of_samples(few), y[few])

    @np.errstate(divide="ignore", invalid="ignore", over="ignore")  # there is no step along what is not finite
    def _derivative(self, active: Any, made: Array) -> Floats:
        """[samples, places, channels] f' at what the producer made."""
        site = self.job.site
        size = np.sqrt(np.mean(np.square(self.producer.targets(made)), axis=(1, 2)))
        near = NEAR * np.where(size > 0, size, 1.0).astype(made.dtype).reshape(-1, *[1] * (made.ndim - 1))
        ends = (made + near.astype(made.dtype), made - near.astype(made.dtype))
        high, low = (self.middle.run(active, {self.producer.output: end})[site.data] for end in ends)
        apart = self.producer.targets(ends[0] - ends[1])
        return (site.channels(high) - site.channels(low)) / apart


@dataclass(frozen=True, eq=False)
class _Factors:
    """Sums of δxᵀ [channels, features], f'f'ᵀ, and xxᵀ where that was asked for."""

    gradient: Floats
    inputs: Floats
    derivatives: Floats

    @staticmethod
    def joined(parts: Sequence[_Factors | None]) -> _Factors | None:
        """Over all shards; None of nothing."""
        known = [part for part in parts if part is not None]
        if not known:
            return None
        sums = (sum(getattr(part, name) for part in known) for name in ("gradient", "inputs", "derivatives"))
        return _Factors(*(np.asarray(s, dtype=np.float64) for s in sums))


@dataclass(frozen=True, eq=False)
class _Gradient:
    """Sums, over a shard, for the direction of a step. weight, constant: of the consumer's alive outputs.

    inputs: whether xxᵀ is asked for, too; it is the same for every step.
    """

    pieces: _Pieces
    weight: Floats
    constant: Floats
    alive: Bools
    inputs: bool

    def __call__(self, shard: Shard) -> _Factors | None:
        result = None
        for piece in self.pieces(shard):
            h, weight = piece.h.whole(), self.weight.astype(piece.x.dtype)
            rest = piece.y[..., self.alive] - h @ weight.T - self.constant.astype(h.dtype)
            delta = _flat(piece.h.adjoint(rest @ weight) * piece.derivative)
            x, derivative = _flat(piece.x), _flat(piece.derivative)
            found = _Factors(delta.T @ x, x.T @ x if self.inputs else np.zeros(0), derivative.T @ derivative)
            result = found if result is None else _Factors.joined([result, found])
        return result


@dataclass(frozen=True, eq=False)
class _Length:
    """The sum, over a shard, of the squares by which a direction changes the consumer's outputs."""

    pieces: _Pieces
    weight: Floats
    direction: Floats

    def __call__(self, shard: Shard) -> float:
        result = 0.0
        for piece in self.pieces(shard):
            direction, weight = (part.astype(piece.x.dtype) for part in (self.direction, self.weight))
            change = piece.h.other(piece.x @ direction.T * piece.derivative).whole() @ weight.T
            result += float(np.sum(change.astype(np.float64) ** 2))
        return result


def _flat(values: Floats) -> Floats:
    return values.reshape(-1, values.shape[-1])
