"""Producers refitted for the sake of the one consumer that reads them: steps on their rows, as long as they pay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx

from onnx_condense.arrays import Floats
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.twin import Twin
from onnx_condense.refitting.comparison import Comparison, relinked
from onnx_condense.refitting.consumer import TwinConsumer, consumer_of
from onnx_condense.refitting.gauss_newton import Change, Factors, Gradient, Pieces, Step, gauss_newton
from onnx_condense.refitting.moments import Sums
from onnx_condense.refitting.samples import Calibration
from onnx_condense.refitting.staged import between
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Trace

STEPS = 4
"""Most steps."""

PAYS = 0.99
"""A step that leaves more than this share of the loss on held-back samples is the last."""

Total = Callable[[Comparison], list[Sums] | None]
"""Sums over all samples; None where there are none that are finite."""


@dataclass(frozen=True)
class Descent:
    """How the rows of a producer go downhill: by which step, and at most how often."""

    step: Step = gauss_newton
    most: int = STEPS


def producer_of(consumer: TwinConsumer) -> TwinConsumer | None:
    """The linear map whose outputs reach a consumer alone, through functions of single elements; None of others."""
    twin, reads, slot = consumer.twin, consumer.fixed.reads, consumer.fixed.slot
    path = layer_behind(twin.trace, reads.tensor)
    if path is None or consumer.fixed.makes is None or reads.axis == 0 or not _is_private(twin, *path, slot.node):
        return None
    action = twin.trace.linear_map(path[0])
    read = twin.trace.reading(path[0], action.weight) if action is not None else None
    found = None if read is None else consumer_of(twin.trace, read)
    if found is None or found.makes is None or found.reads.axis == 0 or found.makes.axis != reads.axis:
        return None
    producer = TwinConsumer(found, twin)
    if found.layout.dtype not in (np.float32, np.float64):
        return None
    return producer if np.array_equal(producer.made, atoms_of(slot.labels.reshape(-1))) else None


def _is_private(twin: Twin, node: int, inner: set[int], reader: int) -> bool:
    """Whether what a node and those behind it make is of one shape, and reaches one reader alone."""
    facts = twin.trace.facts
    names = {t.name for index in (node, *inner) for t in facts.nodes[index].outputs if t.name}
    readers = {index for name in names for index, _ in facts.consumers(name)}
    shapes = {facts.shapes.get(name) for name in names}
    return readers == inner | {reader} and not names & facts.read_outside and len(shapes) == 1


def layer_behind(trace: Trace, name: str) -> tuple[int, set[int]] | None:
    """The one linear map that makes a tensor, and the nodes between: functions of single elements."""
    facts, actions = trace.facts, trace.actions
    makers, inner, waiting = set[int | None](), set[int](), [name]
    while waiting:
        index = facts.maker(waiting.pop())
        if index is None or index not in actions or not actions[index].pointwise:
            makers.add(index)
        elif index not in inner:
            inner.add(index)
            waiting += [t.name for t in facts.nodes[index].inputs if t.name and t.name not in facts.static]
    first = makers.pop()
    if first is None or makers or trace.linear_map(first) is None:
        return None
    return first, inner


@dataclass(frozen=True, eq=False)
class Learned:
    """What a consumer learns from all folds but the last, and the loss on that one.

    weight, constant: [alive outputs, features] and [alive outputs].
    """

    weight: Floats
    constant: Floats
    loss: float

    @staticmethod
    def of(parts: Sequence[Sums], prior: Floats, strength: float) -> Learned:
        """From sums by fold; prior: [alive outputs, features] of the consumer. strength: of its ridge."""
        known, other = (s.moments() for s in (Sums.joined(parts[:-1]), parts[-1]))
        weight = known.ridge(prior, strength)
        constant = known.constant(weight)
        missed = other.constant(weight) - constant
        return Learned(weight, constant, other.loss(weight) + float(missed @ missed))


@dataclass(frozen=True, eq=False)
class Slope:
    """A producer, and the consumer that alone reads it, on calibration inputs."""

    consumer: TwinConsumer
    producer: TwinConsumer
    calibration: Calibration

    def pieces(self, job: Comparison) -> Pieces:
        """What the two see, on the same samples as a comparison."""
        made = self.producer.fixed.makes
        assert job.link is not None and made is not None
        middle = between(onnx.ModelProto.FromString(job.link.model), made.tensor, (job.consumer.reads.tensor,))
        return Pieces(job, self.producer.fixed, made, middle, self.calibration.samples)

    def factors(self, pieces: Pieces, learned: Learned, inputs: bool) -> Factors | None:
        """Those of the producer, for what the consumer has learned; None of nothing. inputs: whether with xxᵀ."""
        gradient = Gradient(pieces, learned.weight, learned.constant, inputs)
        return Factors.joined(list(self.calibration.each(gradient)))

    def length(self, pieces: Pieces, learned: Learned, direction: Floats) -> float:
        """The sum of the squares by which a direction [channels, features] changes the consumer's outputs."""
        return sum(self.calibration.each(Change(pieces, learned.weight, direction)))

    def go(self, step: Floats) -> None:
        """Adds a step [alive, features] to the rows of the channels that the producer still makes."""
        rows = self.producer.matrix()
        rows[self.producer.alive] += step
        self.producer.refit(rows, None, Evidence.CALIBRATION)


@dataclass(frozen=True, eq=False)
class Summed:
    """What is summed for a consumer, and the sums by fold."""

    job: Comparison
    parts: list[Sums]


def refine(slope: Slope, summed: Summed, strength: float, total: Total, descent: Descent) -> Summed:
    """Gives a producer rows with which its consumer loses less: what is to be summed with them, and the sums.

    Each step must lose less on the last fold of the samples, from which neither it nor the consumer has learned.

    Args:
        slope: the producer and its consumer.
        summed: what is summed for the consumer as the producer is, and the sums by `total`.
        strength: of the consumer's least squares.
        total: sums over all samples.
        descent: the steps.
    """
    if not all(part.count for part in summed.parts):
        return summed
    consumer, twin = slope.consumer, slope.consumer.twin
    learn = partial(Learned.of, prior=consumer.matrix()[consumer.alive], strength=strength)
    best, inputs = learn(summed.parts), None
    for _ in range(descent.most):
        pieces = slope.pieces(summed.job)
        factors = slope.factors(pieces, best, inputs is None)
        if factors is None:
            break
        inputs = factors.inputs if inputs is None else inputs
        step = descent.step(best.weight, replace(factors, inputs=inputs), partial(slope.length, pieces, best))
        if step is None:
            break
        saved = twin.folds()
        slope.go(step)
        assert summed.job.link is not None
        trial = replace(summed.job, link=relinked(summed.job.link, slope.producer, consumer.fixed))
        sums = total(trial)
        after = None if sums is None else learn(sums)
        if sums is None or after is None or not after.loss < best.loss:
            twin.refold(saved)
            break
        paid, summed, best = after.loss < PAYS * best.loss, Summed(trial, sums), after
        if not paid:
            break
    return summed
