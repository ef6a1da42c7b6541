"""Numbers that each channel has alone, refitted on calibration inputs: depthwise kernels, scales of normalizations.

Every channel is a least squares of its own: what its kernel reads in the condensed model, and what it made in the
original one. A constant goes into the bias, or into the mean of the BatchNormalization that alone reads it. Scale and
shift of a normalization multiply, and are added to, what it makes; one that follows a layer of its own needs none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Array, Bools, Floats
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.plan import Refit
from onnx_condense.merging.twin import Twin
from onnx_condense.refitting.apart import Each, chosen, stated
from onnx_condense.refitting.comparison import FOLDS, SideBySide
from onnx_condense.refitting.producers import layer_behind
from onnx_condense.refitting.rows import CHUNK, Channels, FeatureRows
from onnx_condense.refitting.samples import Calibration, Shard
from onnx_condense.refitting.staged import Chain, Segment, between
from onnx_condense.refitting.windows import Windows
from onnx_condense.rewriting.writer import traced
from onnx_condense.tracing.trace import Trace, layer_name

ROWS = 2**12
"""About so many rows of each channel are summed: more than 128 for each of 26 numbers, of 5x5 taps and a constant."""


@dataclass(frozen=True, eq=False)
class Filter:
    """What multiplies each channel alone: a depthwise convolution, or the scale of a normalization.

    Attributes:
        node: its index. layer: its name, for people. data: the tensor that it reads.
        reads: what is multiplied: the data, or what a normalization makes. makes: what it makes.
        weight: the input that multiplies.
        shift: (node, input) of what takes a constant, and with which sign; None where nothing does.
        windows: which places the taps of a convolution multiply.
    """

    node: int
    layer: str
    data: str
    reads: Channels
    makes: Channels
    weight: int
    shift: tuple[int, int, float] | None
    windows: Windows | None


@dataclass(frozen=True, eq=False)
class TwinFilter:
    """The same in a twin."""

    fixed: Filter
    twin: Twin

    @property
    def node(self) -> int:
        """The index of the node."""
        return self.fixed.node

    @property
    def alive(self) -> Bools:
        """[outputs] which of them are still there."""
        return self.twin.alive_at(self.node, self.fixed.weight)

    def weight(self) -> Array:
        """[alive outputs, ...] its weight."""
        return self.twin.unturned(self.node, self.fixed.weight)[self.alive]

    def kernels(self) -> Floats:
        """[alive outputs, taps] what it multiplies with; ones for a normalization, whose result is multiplied."""
        weight = self.weight().astype(np.float64)
        return np.ones((len(weight), 1)) if self.fixed.windows is None else weight.reshape(len(weight), -1)

    def constant(self) -> Floats | None:
        """[alive outputs] what is added to its products; None where nothing can take a constant."""
        if self.fixed.shift is None:
            return None
        node, position, _ = self.fixed.shift
        own = node == self.node and self.fixed.windows is not None
        added = self.twin.unturned(node, position)[self.alive].astype(np.float64)
        return added if own else np.zeros_like(added)

    def give(self, found: Floats) -> None:
        """Gives it kernels and constants [alive outputs, taps + 1], where they are finite."""
        fixed, constant = self.fixed, self.constant()
        weight, factors = self.weight(), found[:, :-1]
        kernels = factors.reshape(weight.shape) * (weight if fixed.windows is None else 1)
        if fixed.shift is not None and constant is not None:
            node, position, sign = fixed.shift
            added = self.twin.unturned(node, position)[self.alive]
            before = added * (factors[:, 0] if fixed.windows is None else 1)
            self._restate(node, position, (before + sign * (found[:, -1] - constant)).astype(added.dtype))
        self._restate(fixed.node, fixed.weight, kernels.astype(weight.dtype))

    def _restate(self, node: int, position: int, numbers: Array) -> None:
        layer = layer_name(self.twin.trace.facts.nodes[node], node)
        self.twin.refit(Refit(node, position, layer, Evidence.CALIBRATION, numbers, np.zeros(0)))


def filters(twin: Twin) -> list[TwinFilter]:
    """What multiplies each channel alone, with floats of its own, in graph order."""
    trace = twin.trace
    found = (_filter(trace, node) or _scale(trace, node) for node in sorted(trace.actions))
    return [TwinFilter(each, twin) for each in found if each is not None]


def _filter(trace: Trace, node: int) -> Filter | None:
    facts, inputs = trace.facts, trace.facts.nodes[node].inputs
    weight = _own(trace, node, 1) if trace.actions[node].is_filter else None
    if weight is None:
        return None
    data, made = inputs[0].name, facts.nodes[node].outputs[0].name
    windows = Windows(facts.model, node, weight.shape[2:])
    ends = Channels(data, 1), Channels(made, 1)
    return Filter(node, layer_name(facts.nodes[node], node), data, *ends, 1, _shift(trace, node), windows)


def _scale(trace: Trace, node: int) -> Filter | None:
    """A normalization with a scale of its own, behind something else than a layer that it alone reads."""
    facts, affine = trace.facts, trace.actions[node].affine
    if affine is None or _follows(trace, node):
        return None
    axis, scale, shift = affine
    weight, added = _own(trace, node, scale), None if shift is None else _own(trace, node, shift)
    data, made = facts.nodes[node].inputs[0].name, facts.nodes[node].outputs[0].name
    if weight is None or axis < 1 or weight.shape != facts.shapes.get(made, ())[axis : axis + 1]:
        return None
    takes = None if shift is None or added is None or added.shape != weight.shape else (node, shift, 1.0)
    if shift is not None and takes is None:
        return None
    ends = Channels(made, axis), Channels(made, axis)
    return Filter(node, layer_name(facts.nodes[node], node), data, *ends, scale, takes, None)


def _follows(trace: Trace, node: int) -> bool:
    """Whether it reads a layer, directly or through functions of single elements, which is refitted itself."""
    data = trace.facts.nodes[node].inputs[0].name
    maker = trace.facts.maker(data)
    action = None if maker is None else trace.actions.get(maker)
    return (action is not None and action.is_filter) or layer_behind(trace, data) is not None


def _own(trace: Trace, node: int, position: int) -> Array | None:
    """Floats of the file that a node alone reads; None of others."""
    facts, inputs = trace.facts, trace.facts.nodes[node].inputs
    if position >= len(inputs) or not inputs[position].name or facts.is_inside(facts.nodes[node].outputs[0].name):
        return None
    name, value = inputs[position].name, facts.value(inputs[position])
    if value is None or value.dtype not in (np.float32, np.float64) or len(facts.consumers(name)) > 1:
        return None
    return None if facts.stored(name) is not None or facts.is_generated(name) or name in facts.read_outside else value


def _shift(trace: Trace, node: int) -> tuple[int, int, float] | None:
    """The bias of a convolution, or the mean of the BatchNormalization that alone reads it."""
    if _own(trace, node, 2) is not None:
        return node, 2, 1.0
    facts = trace.facts
    name = facts.nodes[node].outputs[0].name
    uses = facts.consumers(name)
    if len(uses) != 1 or name in facts.read_outside or uses[0][0] not in trace.actions:
        return None
    normalization = trace.actions[uses[0][0]].normalization
    if normalization is None or normalization.mean is None or _own(trace, uses[0][0], normalization.mean) is None:
        return None
    return uses[0][0], normalization.mean, -1.0


@dataclass(frozen=True, eq=False)
class Summing:
    """Sums, over a shard, of what is multiplied in the condensed model, and of what it made in the original one.

    link: from the data to what a normalization makes. alive: [outputs]. most: positions that are taken per sample.
    """

    fixed: Filter
    before: Chain
    after: Chain
    link: Segment | None
    alive: Bools
    most: int
    seed: int

    def __call__(self, shard: Shard) -> list[Each] | None:
        """Sums per fold of the samples, none of no samples; None where positions do not fit."""
        fixed, first, active = self.fixed, shard.first, None
        feeds, parts = shard.feeds(), list[Each]()
        for before, after in zip(self.before(first, feeds), self.after(first, feeds), strict=True):
            known = after
            if self.link is not None:
                active = active or self.link.open(after)
                known = self.link.run(active, after)
            data, y = known[fixed.reads.tensor], fixed.makes.of(before[fixed.makes.tensor])[..., self.alive]
            taps = None if fixed.windows is None else fixed.windows.places(data.shape[2:])
            x = FeatureRows.through(fixed.reads.of(data), taps)
            if (x.samples, x.positions) != y.shape[:2]:
                return None
            numbers = np.arange(first, first + len(y))
            first += len(y)
            found = [self._sums(x, y, np.flatnonzero(numbers % FOLDS == fold)) for fold in range(FOLDS)]
            parts = [Each.joined(pair) for pair in zip(parts, found, strict=True)] if parts else found
        return parts

    def _sums(self, x: FeatureRows, y: Floats, mine: Array) -> Each:
        """Of some samples of a feed."""
        positions, outputs = min(self.most, x.positions), y.shape[2]
        taps = 1 if x.taps is None else x.taps.shape[1]
        drawn = np.sort(np.random.default_rng([self.seed, x.positions]).choice(x.positions, positions, replace=False))
        samples, places = np.repeat(mine, positions), np.tile(drawn, len(mine))
        result, step = np.zeros((outputs, taps + 2, taps + 2)), max(1, CHUNK // (outputs * (taps + 2)))
        room = np.ones((outputs, taps + 2, min(step, len(samples))))
        for start in range(0, len(samples), step):
            rows = samples[start : start + step], places[start : start + step]
            lines, both = x.at(*rows).reshape(len(rows[0]), -1, taps), room[:, :, : len(rows[0])]
            times = outputs // lines.shape[1]
            both[:, :taps] = (lines if times == 1 else np.repeat(lines, times, axis=1)).transpose(1, 2, 0)
            both[:, -1] = y[rows].T
            result += both @ both.swapaxes(1, 2)
        return Each(len(samples), result)


def refit_filter(filter_: TwinFilter, sides: SideBySide, calibration: Calibration, seed: int, exact: float) -> bool:
    """Gives each channel the kernel and the constant that held-back samples choose for it.

    Whether it stays because it loses at most the share `exact` of the variance.
    """
    fixed, alive = filter_.fixed, filter_.alive
    before, after = sides.reach([fixed.makes.tensor], [fixed.data])
    link = None
    if fixed.windows is None:  # the node itself changes
        model = traced(filter_.twin, ((fixed.reads.tensor,), {fixed.data}))
        link = between(model, fixed.data, (fixed.reads.tensor,))
    most = max(1, ROWS // calibration.samples)
    total: list[Each] = []
    for parts in calibration.each(Summing(fixed, before, after, link, alive, most, seed)):
        if parts is None:
            return False
        pairs = zip(total, parts, strict=True) if total and parts else ()
        total = [Each.joined(pair) for pair in pairs] or total or parts
    filled = [part for part in total if part.count]
    if len(filled) < 2 or not all(np.isfinite(part.products).all() for part in filled):
        return False
    whole, kernels, constant = Each.joined(filled), filter_.kernels(), filter_.constant()
    if whole.loss(stated(kernels, constant)).sum() <= exact * whole.variance().sum():
        return True
    found = chosen(filled, kernels, constant)
    if np.isfinite(found).all():
        filter_.give(found)
    return False
