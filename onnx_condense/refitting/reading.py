"""What a consumer reads of some channels, whatever its weight is: enough to say how they vary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from onnx_condense.arrays import Array, Ints
from onnx_condense.operators.answers import Role
from onnx_condense.refitting.consumer import Consumer, Key, read_by
from onnx_condense.refitting.rows import Channels, FeatureRows
from onnx_condense.tracing.trace import Pairing, Slot, Trace


@dataclass(frozen=True, eq=False)
class Reading:
    """Channels that a slot contracts, as many times as each has places there; sums of them are all that is asked for.

    places: [times, channels] on the axis of channels.
    """

    slot: Slot
    reads: Channels
    places: Ints

    @property
    def features(self) -> int:
        """How many channels they are."""
        return int(self.places.shape[1])

    @property
    def channels(self) -> int:
        """The same."""
        return self.features

    @property
    def key(self) -> Key:
        """What its moments are known by."""
        return self.slot.node, self.slot.input, 1 + int(self.places[0, 0])

    def rows(self, data: Array) -> FeatureRows:
        """[samples, positions · times, channels]: a row of channels for each position and time."""
        lines = self.reads.of(data)[:, :, self.places]
        return FeatureRows(lines.reshape(len(lines), -1, self.features), None)


@dataclass(frozen=True, eq=False)
class Side:
    """One side of a product of data: the channels that it multiplies with those of the other; only sums are asked for.

    slot: their labels at that input of the product. pairing: which places they are.
    """

    slot: Slot
    reads: Channels
    pairing: Pairing

    @property
    def features(self) -> int:
        """How many places they are."""
        return len(self.pairing.lines)

    @property
    def channels(self) -> int:
        """The same."""
        return self.features

    @property
    def key(self) -> Key:
        """What its moments are known by."""
        return self.slot.node, self.slot.input, -1

    def rows(self, data: Array) -> FeatureRows:
        """[samples, positions, places]: a row for each position of what is not added up."""
        axes, sizes = self.pairing.axes[self.slot.input], self.pairing.sizes[self.slot.input]
        there = [axis for axis in axes if axis >= 0]
        moved = np.moveaxis(data, there, range(-len(there), 0))
        lengths = [1 if axis < 0 else size for axis, size in zip(axes, sizes, strict=True)]
        first = [1] if 0 in there else [len(data)]
        lines = moved.reshape(*first, -1, *lengths)
        whole = np.broadcast_to(lines, (*lines.shape[:2], *sizes)).reshape(*lines.shape[:2], -1)
        return FeatureRows(whole[..., self.pairing.places[self.slot.input]], None)


def both_sides(trace: Trace, pairing: Pairing) -> tuple[Side, Side]:
    """Both sides of a product."""
    inputs = trace.facts.nodes[pairing.node].inputs
    left, right = (
        Side(
            Slot(pairing.node, side, Role.PAIRED, row, side=side),
            Channels(inputs[side].name, max(pairing.axes[side])),
            pairing,
        )
        for side, row in enumerate((pairing.left, pairing.right))
    )
    return left, right


Source: TypeAlias = Consumer | Reading | Side
"""What says how channels vary."""


def reading_of(trace: Trace, slot: Slot, places: Ints) -> Reading | None:
    """The reading of channels at these places [times, channels] of a slot; None where no tensor has them."""
    facts = trace.facts
    reads, outputs = read_by(trace, slot), facts.nodes[slot.node].outputs
    if reads is None or slot.axes != (slot.axis,) or facts.is_inside(outputs[0].name):
        return None
    shape = facts.shapes.get(reads.tensor, ())
    known = reads.tensor not in facts.static and len(shape) > reads.axis and shape[reads.axis] == slot.labels.size
    return Reading(slot, reads, places) if known else None
