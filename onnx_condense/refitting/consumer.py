"""Consumers whose weights can be refitted: what they read and make, and what a twin holds of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd, prod

import numpy as np

from onnx_condense.arrays import Array, Bools, Floats, Ints
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.factors import Factor
from onnx_condense.merging.plan import Refit
from onnx_condense.merging.twin import Twin
from onnx_condense.merging.weights import TwinWeights
from onnx_condense.operators.actions import Contraction
from onnx_condense.operators.answers import Role
from onnx_condense.refitting.layout import Layout
from onnx_condense.refitting.moments import Moments
from onnx_condense.refitting.rows import Channels, FeatureRows
from onnx_condense.refitting.windows import Windows
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Slot, Trace, layer_name

Key = tuple[int, int, int]
"""Node and input of a weight, and the first of the channels."""

FEATURES = 2304
"""Most features of one consumer (256 channels of a 3x3 convolution): its normal equations take their square."""


@dataclass(frozen=True, eq=False)
class Consumer:
    """One consumer in the graph, whatever twin it is in; workers get it.

    Attributes:
        slot: of its weight. layer: its name, for people.
        reads: the channels that its weight contracts.
        makes: its outputs, each of them made by a row of its matrix; None where rows make parts of outputs.
        layout: its weight as a matrix [rows, features].
        windows: set where features are taps of a convolution.
    """

    slot: Slot
    layer: str
    reads: Channels
    makes: Channels | None
    layout: Layout
    windows: Windows | None = None

    @property
    def features(self) -> int:
        """How many elements a row of the original matrix multiplies."""
        return self.channels * self.layout.taps

    @property
    def channels(self) -> int:
        """How many it reads, of which places may lie in lines (see `Channels`)."""
        return self.layout.channels

    @property
    def key(self) -> Key:
        """What its moments are known by."""
        return self.slot.node, self.slot.input, 0

    def seconds(self, known: Moments) -> Floats:
        """[n, n] second moments of what it reads; where channels lie in lines, of each number alone [n]."""
        if self.layout.lines == (1, 1):
            return known.xx + np.outer(known.x, known.x)
        each = known.xx.diagonal() + known.x**2
        return np.asarray(each[self.layout.channel_of(np.arange(self.layout.shape[self.layout.contracted]))])

    def rows(self, data: Array) -> FeatureRows:
        """The rows of features of what it reads, [samples, ...] with channels on their axis."""
        return FeatureRows.through(self.reads.of(data), self._taps(data))

    def positions(self, data: Array) -> int:
        """Rows of each sample of what it reads, [samples, ...] with channels on their axis."""
        taps = self._taps(data)
        return int(self.reads.of(data).shape[1]) if taps is None else len(taps)

    def _taps(self, data: Array) -> Ints | None:
        return None if self.windows is None else self.windows.places(data.shape[2:])


@dataclass(frozen=True, eq=False)
class TwinConsumer:
    """A consumer in a twin: the matrix that it had and has there, and the way to give it another.

    fixed: what the graph alone says of it.
    """

    fixed: Consumer
    twin: Twin

    @property
    def node(self) -> int:
        """The index of the node."""
        return self.fixed.slot.node

    @cached_property
    def kept(self) -> Ints:
        """[k] the features of the channels that are still there."""
        before, behind = self.fixed.layout.lines
        reads = self.twin.reads(self.fixed.slot).reshape(before, -1, behind)
        return self.fixed.layout.features(np.flatnonzero(reads[0, :, 0]))

    @cached_property
    def made(self) -> Ints:
        """[outputs] the atoms of its outputs, -1 of what is no channel."""
        slot, layout = self.fixed.slot, self.fixed.layout
        made = self.twin.trace.made.get((slot.node, slot.input))
        if made is not None:
            return atoms_of(made.labels.reshape(-1))
        assert layout.produced is not None
        return np.full(layout.shape[layout.produced], -1)

    @cached_property
    def alive(self) -> Bools:
        """[outputs] which of its outputs are still there."""
        return np.asarray((self.made < 0) | self.twin.alive[self.twin.trace.unit_of[self.made]])

    @cached_property
    def targets(self) -> Bools:
        """[rows]: which rows count; all where they make parts of outputs."""
        return self.alive if self.fixed.makes is not None else np.ones(1, dtype=bool)

    def original(self) -> Floats:
        """[rows, features]: the matrix of the model as it was."""
        facts, slot = self.twin.trace.facts, self.fixed.slot
        value = facts.value(facts.nodes[slot.node].inputs[slot.input])
        assert value is not None
        return self.fixed.layout.matrix(value)

    def exact(self) -> tuple[Floats, Floats]:
        """[rows, features], [rows]: a matrix that makes of what is left of exact merges what the original makes of all.

        And what its constants are more than those of the original.
        """
        slot = self.fixed.slot
        other = replace(self, twin=self.twin.exactly(slot.node, slot.input))
        matrix = self.fixed.layout.matrix(other.twin.unturned(slot.node, slot.input))
        return matrix, other.constants() - other.original_constants()

    def matrix(self) -> Floats:
        """[rows, k]: the matrix of the kept features that the twin holds now."""
        slot = self.fixed.slot
        return self.fixed.layout.columns(self.twin.unturned(slot.node, slot.input), self.kept)

    @property
    def factor(self) -> Factor | None:
        """Set where it is a pair of factors, whose rows are outputs."""
        found = self.twin.factors.get((self.node, self.fixed.slot.input))
        return found if self.fixed.makes is not None else None

    @property
    def is_own(self) -> bool:
        """Whether it is another because of channels, or a rank, that it lost itself."""
        return self.factor is not None or not self.twin.reads(self.fixed.slot).all()

    def turn(self, matrix: Floats, evidence: Evidence) -> None:
        """Gives its pair of factors the basis of a matrix [rows, k] of its rank."""
        factor = self.factor
        assert factor is not None
        vectors = np.linalg.svd(matrix, full_matrices=False)[0][:, : factor.rank]
        basis = vectors.astype(factor.basis.dtype)
        self.twin.factors[factor.node, factor.input] = replace(factor, source=evidence, basis=basis)

    def unfactored(self) -> Floats:
        """[rows, k]: the matrix that a pair of factors stands for; that of the original where that is not known."""
        given = self.twin.refits.get((self.node, self.fixed.slot.input))
        if given is None or given.weight.shape[self.fixed.slot.axis] * self.fixed.layout.taps != len(self.kept):
            return self.original()[:, self.kept]
        return self.fixed.layout.matrix(np.asarray(given.weight))

    def constants(self) -> Floats:
        """[rows]: the constant of each row that the twin holds now."""
        node = self.fixed.slot.node
        if self.fixed.makes is not None:
            return TwinWeights(self.twin, turned=False).row_bias(node)
        return self.fixed.layout.constants(np.asarray(self.twin.shift.get(node, np.zeros(0))))

    def original_constants(self) -> Floats:
        """[rows]: those of the model as it was; [1], zero, where rows make parts of outputs."""
        return (
            np.zeros(1)
            if self.fixed.makes is None
            else TwinWeights(Twin(self.twin.trace)).row_bias(self.fixed.slot.node)
        )

    def refit(self, matrix: Floats, added: Floats | None, evidence: Evidence) -> None:
        """Gives it another matrix [rows, k] in the twin, where that is finite.

        Args:
            matrix: of the kept features.
            added: [rows] what its constants are more than those of the original; None leaves its bias as it is.
            evidence: what the matrix follows from.
        """
        slot, layout = self.fixed.slot, self.fixed.layout
        shift = np.asarray(self.twin.shift.get(slot.node, np.zeros(0))) if added is None else layout.bias(added)
        weight = layout.weight(matrix)
        if np.isfinite(weight).all() and np.isfinite(shift).all():
            self.twin.refit(Refit(slot.node, slot.input, self.fixed.layer, evidence, weight, shift))


def consumer_of(trace: Trace, slot: Slot) -> Consumer | None:
    """The consumer behind a contracted slot, None where its weight cannot be refitted."""
    weight = _free_weight(trace, slot)
    if weight is None:
        return None
    node = trace.facts.nodes[slot.node]
    layer = layer_name(node, slot.node)
    action = trace.linear_map(slot.node)
    lines, reads = (1, 1), read_by(trace, slot)
    width = weight.shape[slot.axis]
    if reads is not None and width > FEATURES and reads.axis:
        lines = repeats(slot.labels.reshape(-1))
        reads = replace(reads, lines=lines)
    if reads is None or width > FEATURES * prod(lines):
        return None
    if action is None:
        return Consumer(slot, layer, reads, None, Layout(weight.shape, weight.dtype, slot.axis, None, lines=lines))
    produced = action.axis(Role.PRODUCED)
    taps = weight.size // max(1, weight.shape[produced] * width)
    kernels = taps * width <= FEATURES and _has_windows(trace, slot.node, action, taps)
    makes = Channels(node.outputs[0].name, action.output_axis) if kernels or taps * prod(lines) == 1 else None
    return Consumer(
        slot,
        layer,
        reads,
        makes,
        Layout(weight.shape, weight.dtype, slot.axis, produced, kernels, action.alpha, action.scattered, lines),
        Windows(trace.facts.model, slot.node, weight.shape[2:]) if kernels else None,
    )


def read_by(trace: Trace, slot: Slot) -> Channels | None:
    """The data that a contracted slot multiplies, with the axis of its channels; None where that is not one tensor."""
    node, recurrent = trace.facts.nodes[slot.node], trace.actions[slot.node].recurrent
    if recurrent is not None and slot.input != recurrent.weight:  # the states of one step earlier
        name = node.outputs[0].name
        return Channels(name, len(trace.facts.shapes[name]) - 1) if name else None
    map_ = recurrent or trace.actions[slot.node].reader or trace.linear_map(slot.node)
    return None if map_ is None else Channels(node.inputs[map_.data].name, map_.data_axis)


def repeats(row: Ints) -> tuple[int, int]:
    """(before, behind) of labels [before · channels · behind] that hold each channel as often, on the fewest channels.

    As behind a Flatten: of images with channels first, places lie behind them, else before.
    """
    behind = gcd(len(row), *(np.flatnonzero(np.diff(row)) + 1).tolist())
    line = row[::behind]
    periods = (n for n in range(1, len(line) + 1) if len(line) % n == 0)
    period = next(n for n in periods if (line.reshape(-1, n) == line[:n]).all())
    return len(line) // period, behind


def _free_weight(trace: Trace, slot: Slot) -> Array | None:
    """A weight of floats in the file that nothing else reads, contracted as a whole; None of another."""
    facts, node = trace.facts, trace.facts.nodes[slot.node]
    tensor = node.inputs[slot.input]
    weight = facts.value(tensor)
    if weight is None or weight.dtype.kind != "f" or len(facts.consumers(tensor.name)) > 1:
        return None
    if facts.stored(tensor.name) is not None or facts.is_generated(tensor.name):
        return None
    if facts.is_inside(node.outputs[0].name) or slot.axes != (slot.axis,) or slot.groups > 1:
        return None
    return weight


def _has_windows(trace: Trace, index: int, action: Contraction, taps: int) -> bool:
    """Whether it is a convolution that multiplies several places at a time, or not every place."""
    node, shapes = trace.facts.nodes[index], trace.facts.shapes
    moved = shapes[node.inputs[action.data].name][2:] != shapes[node.outputs[0].name][2:]
    return (taps > 1 or moved) and "." in action.weight_axes and not action.scattered


def reading_fewer(twin: Twin) -> list[TwinConsumer]:
    """The consumers that lost channels, in graph order; recurrent nodes are others (see `recurrent`)."""
    slots = [s for s in twin.trace.slots_with(np.flatnonzero(~twin.alive)) if s.role is Role.CONTRACTED]
    slots = [s for s in slots if twin.trace.actions[s.node].recurrent is None]
    found = (consumer_of(twin.trace, slot) for slot in sorted(slots, key=lambda s: (s.node, s.input)))
    return [TwinConsumer(consumer, twin) for consumer in found if consumer is not None]


def others(twin: Twin) -> list[TwinConsumer]:
    """The linear maps that lost no channels, of which each row makes an output, in graph order."""
    found = list[TwinConsumer]()
    for node in sorted(twin.trace.actions):
        action = twin.trace.linear_map(node)
        slot = None if action is None or action.lookup else twin.trace.reading(node, action.weight)
        if slot is None or not twin.reads(slot).all():
            continue
        consumer = consumer_of(twin.trace, slot) if slot.labels.size <= FEATURES else None
        if consumer is not None and consumer.makes is not None:
            found.append(TwinConsumer(consumer, twin))
    return found
