"""What multiplies each channel alone: in the graph, and in a twin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Array, Bools, Floats
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.plan import Refit
from onnx_condense.merging.twin import Twin
from onnx_condense.refitting.rows import Channels, FeatureRows
from onnx_condense.refitting.windows import Windows
from onnx_condense.tracing.trace import Trace, layer_name


@dataclass(frozen=True, eq=False)
class Kernels:
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

    def rows(self, data: Array) -> FeatureRows:
        """The taps of every channel of what is multiplied, [samples, ...] with channels on their axis."""
        taps = None if self.windows is None else self.windows.places(data.shape[2:])
        return FeatureRows.through(self.reads.of(data), taps)


@dataclass(frozen=True, eq=False)
class TwinFilter:
    """The same in a twin."""

    fixed: Kernels
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

    def add(self, step: Floats) -> None:
        """Adds a step [alive outputs, taps] to the kernels of a convolution."""
        weight = self.weight()
        numbers = (weight + step.reshape(weight.shape)).astype(weight.dtype)
        if np.isfinite(numbers).all():
            self._restate(self.fixed.node, self.fixed.weight, numbers)

    def _restate(self, node: int, position: int, numbers: Array) -> None:
        layer = layer_name(self.twin.trace.facts.nodes[node], node)
        self.twin.refit(Refit(node, position, layer, Evidence.CALIBRATION, numbers, np.zeros(0)))


def filter_of(trace: Trace, node: int) -> Kernels | None:
    """The depthwise convolution that a node is, with kernels of its own; None of another."""
    facts, inputs = trace.facts, trace.facts.nodes[node].inputs
    weight = own(trace, node, 1) if trace.actions[node].is_filter else None
    if weight is None:
        return None
    data, made = inputs[0].name, facts.nodes[node].outputs[0].name
    windows = Windows(facts.model, node, weight.shape[2:])
    ends = Channels(data, 1), Channels(made, 1)
    return Kernels(node, layer_name(facts.nodes[node], node), data, *ends, 1, _shift(trace, node), windows)


def own(trace: Trace, node: int, position: int) -> Array | None:
    """Floats of the file, of any shape, that a node alone reads; None of others."""
    facts, inputs = trace.facts, trace.facts.nodes[node].inputs
    if position >= len(inputs) or not inputs[position].name or facts.is_inside(facts.nodes[node].outputs[0].name):
        return None
    name, value = inputs[position].name, facts.value(inputs[position])
    if value is None or value.dtype not in (np.float32, np.float64) or len(facts.consumers(name)) > 1:
        return None
    return None if facts.stored(name) is not None or facts.is_generated(name) or name in facts.read_outside else value


def _shift(trace: Trace, node: int) -> tuple[int, int, float] | None:
    """The bias of a convolution, or the mean of the BatchNormalization that alone reads it."""
    if own(trace, node, 2) is not None:
        return node, 2, 1.0
    facts = trace.facts
    name = facts.nodes[node].outputs[0].name
    uses = facts.consumers(name)
    if len(uses) != 1 or name in facts.read_outside or uses[0][0] not in trace.actions:
        return None
    normalization = trace.actions[uses[0][0]].normalization
    if normalization is None or normalization.mean is None or own(trace, uses[0][0], normalization.mean) is None:
        return None
    return uses[0][0], normalization.mean, -1.0
