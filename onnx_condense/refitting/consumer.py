"""Consumers whose weights can be refitted, and what they read.

A site is one consumer and what it reads. Its features are the elements that a row of its weight multiplies: every tap
of every channel of a convolution, or the channels alone where there are too many taps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Array, Floats, Ints
from onnx_condense.merging.twin import Twin
from onnx_condense.operators.actions import Role
from onnx_condense.refitting.windows import Windows
from onnx_condense.tracing.trace import Slot, Trace, layer_name

FEATURES = 2304
"""Most features of one consumer (256 channels of a 3x3 convolution): its normal equations take their square."""

CHUNK = 2**22
"""Numbers of one consumer's features that are taken at a time."""


@dataclass(frozen=True, eq=False)
class Site:
    """One consumer: its weight's slot, the tensor that it reads and the axis of the channels there.

    windows: set where features are taps of a convolution. outer: the weight's produced axis, None where its rows stay.
    direct: a row of the flat weight makes one output, so that the output itself can be the target.
    """

    slot: Slot
    layer: str
    data: str
    output: str
    axis: int
    output_axis: int
    outer: int | None
    taps: int
    windows: Windows | None
    alpha: float
    scattered: int
    direct: bool

    def features(self, places: Ints) -> Ints:
        """The features of these places of the weight's contracted axis."""
        return (places[:, None] * self.taps + np.arange(self.taps)).reshape(-1)

    def channels(self, data: Array) -> Floats:
        """[samples, positions, channels] of what the consumer reads."""
        return _by_sample(np.moveaxis(data, self.axis, -1))

    def targets(self, output: Array) -> Floats:
        """[samples, positions, outputs] of what the consumer makes."""
        return _by_sample(np.moveaxis(output, self.output_axis, -1))

    def flat(self, weight: Array) -> Floats:
        """[rows, features]: the weight as a matrix."""
        if self.windows is not None:
            assert self.outer is not None
            return np.moveaxis(weight, (self.outer, self.slot.axis), (0, 1)).reshape(weight.shape[self.outer], -1)
        moved = np.moveaxis(weight, self.slot.axis, -1)
        return moved.reshape(-1, moved.shape[-1])

    def shaped(self, matrix: Floats, like: Array) -> Array:
        """The inverse of `flat` for a weight like this one, with another number of channels."""
        shape = list(like.shape)
        shape[self.slot.axis] = matrix.shape[1] // self.taps
        if self.windows is not None:
            assert self.outer is not None
            ends = [shape[self.outer], shape[self.slot.axis]]
            rest = [n for a, n in enumerate(shape) if a not in (self.outer, self.slot.axis)]
            return np.moveaxis(matrix.reshape(*ends, *rest), (0, 1), (self.outer, self.slot.axis)).astype(like.dtype)
        rest = [n for a, n in enumerate(shape) if a != self.slot.axis]
        return np.moveaxis(matrix.reshape(*rest, -1), -1, self.slot.axis).astype(like.dtype)

    def kept(self, twin: Twin) -> Floats:
        """[rows, features of kept channels]: the weight that a twin holds, times alpha."""
        value = twin.weight(self.slot.node, self.slot.input)
        places = self.features(np.flatnonzero(twin.reads(self.slot)))
        return self.flat(value).astype(np.float64)[:, places] * self.alpha

    def whole(self, twin: Twin) -> Floats:
        """[rows, features]: the weight of the original, times alpha."""
        return self.flat(original_weight(twin, self)).astype(np.float64) * self.alpha

    def bias(self, constant: Floats, like: Array) -> Floats:
        """[produced]: what constants of the flat rows add to the bias."""
        if self.outer is None:
            return np.zeros(0)
        if self.windows is not None:
            return constant
        rest = [n for a, n in enumerate(like.shape) if a != self.slot.axis]
        axis = self.outer if self.outer < self.slot.axis else self.outer - 1
        lines: Floats = np.moveaxis(constant.reshape(rest), axis, 0).reshape(rest[axis], -1).sum(1)
        return lines / max(1, self.scattered)

    def spread(self, shift: Floats, like: Array) -> Floats:
        """Constants of the flat rows that `bias` brings to this shift, all rows of an output alike; zeros for none."""
        rest = [n for a, n in enumerate(like.shape) if a != self.slot.axis]
        if self.outer is None or not shift.size:
            return np.zeros(int(np.prod(rest)))
        axis = self.outer if self.outer < self.slot.axis else self.outer - 1
        each = shift * (max(1, self.scattered) * len(shift) / np.prod(rest))
        line = each.reshape([-1 if a == axis else 1 for a in range(len(rest))])
        return np.broadcast_to(line, rest).reshape(-1)


def _by_sample(values: Array) -> Floats:
    """[samples, positions, channels]; what has no axis of samples is one."""
    if values.ndim < 2:
        return values.reshape(1, 1, -1)
    return values.reshape(len(values), -1, values.shape[-1])


@dataclass(frozen=True, eq=False)
class Rows:
    """What a consumer reads, by sample and position of its output: a row of features each.

    lines: [samples, places, channels], with a place of zeros behind the others where there are windows.
    taps: [positions, taps] places of each window; without windows, positions are those of its input.
    """

    lines: Floats
    taps: Ints | None

    @staticmethod
    def of(site: Site, data: Array) -> Rows:
        lines = site.channels(data)
        if site.windows is None:
            return Rows(lines, None)
        return Rows(_bordered(lines), site.windows.places(data.shape[2:]))

    @property
    def samples(self) -> int:
        return len(self.lines)

    @property
    def positions(self) -> int:
        return int(self.lines.shape[1]) if self.taps is None else len(self.taps)

    @property
    def features(self) -> int:
        return int(self.lines.shape[2]) * (1 if self.taps is None else self.taps.shape[1])

    def at(self, samples: Ints, positions: Ints) -> Floats:
        """[rows, features] of pairs of a sample and a position."""
        if self.taps is None:
            return self.lines[samples, positions]
        taps = self.lines[samples[:, None], self.taps[positions]]
        return taps.swapaxes(1, 2).reshape(len(taps), -1)

    def whole(self) -> Floats:
        """[samples, positions, features]: every row."""
        if self.taps is None:
            return self.lines
        taps = self.lines[:, self.taps]
        return taps.swapaxes(2, 3).reshape(*taps.shape[:2], -1)

    def of_samples(self, chosen: Ints) -> Rows:
        """The rows of some samples."""
        return Rows(self.lines[chosen], self.taps)

    def other(self, lines: Floats) -> Rows:
        """Rows of the same windows over other lines, given without the place of zeros."""
        return Rows(lines if self.taps is None else _bordered(lines), self.taps)

    def adjoint(self, rows: Floats) -> Floats:
        """[samples, places, channels]: of `whole`, sums of what rows have for each place."""
        if self.taps is None:
            return rows
        result = np.zeros((len(rows), *self.lines.shape[1:]), dtype=rows.dtype)
        each = rows.reshape(*rows.shape[:2], self.lines.shape[2], -1)
        for tap, places in enumerate(self.taps.T):  # places of one tap differ, but for the border
            result[:, places] += each[..., tap]
        return result[:, :-1]


def _bordered(lines: Floats) -> Floats:
    return np.pad(lines, ((0, 0), (0, 1), (0, 0)))


def site_of(trace: Trace, slot: Slot) -> Site | None:
    """The consumer behind a contracted slot, None where its weight cannot be refitted."""
    facts = trace.facts
    node = facts.nodes[slot.node]
    tensor = node.inputs[slot.input]
    weight = facts.value(tensor)
    if weight is None or weight.dtype.kind != "f" or len(facts.consumers(tensor.name)) > 1:
        return None
    if (
        facts.stored(tensor.name) is not None
        or facts.is_generated(tensor.name)
        or facts.is_inside(node.outputs[0].name)
    ):
        return None
    if slot.axes != (slot.axis,) or slot.groups > 1:
        return None
    layer = layer_name(node, slot.node)
    reader, action = trace.actions[slot.node].reader, trace.linear_map(slot.node)
    if reader is not None and weight.shape[slot.axis] <= FEATURES:
        data = node.inputs[reader.data].name
        return Site(slot, layer, data, "", reader.data_axis, 0, None, 1, None, 1.0, 0, False)
    if action is None:
        return None
    outer, axis = action.axis(Role.PRODUCED), action.data_axis
    taps = weight.size // max(1, weight.shape[outer] * weight.shape[slot.axis])
    windows = None
    data, output = node.inputs[action.data].name, node.outputs[0].name
    moved = facts.shapes[data][2:] != facts.shapes[output][2:]
    if (
        (taps > 1 or moved)
        and "." in action.weight_axes
        and not action.scattered
        and taps * weight.shape[slot.axis] <= FEATURES
    ):
        windows = Windows(facts.model, slot.node, weight.shape[2:])
    elif weight.shape[slot.axis] > FEATURES:
        return None
    return Site(
        slot,
        layer,
        data,
        output,
        axis,
        action.output_axis,
        outer,
        taps if windows else 1,
        windows,
        action.alpha,
        action.scattered,
        windows is not None or taps == 1,
    )


def lost(twin: Twin) -> list[Site]:
    """The consumers that lost channels, in graph order."""
    slots = [s for s in twin.trace.slots if s.role is Role.CONTRACTED and not twin.reads(s).all()]
    sites = (site_of(twin.trace, slot) for slot in sorted(slots, key=lambda s: (s.node, s.input)))
    return [site for site in sites if site is not None]


def original_weight(twin: Twin, site: Site) -> Array:
    """The weight of the model as it was."""
    value = twin.trace.facts.value(twin.trace.facts.nodes[site.slot.node].inputs[site.slot.input])
    assert value is not None
    return value
