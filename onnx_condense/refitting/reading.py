"""What a consumer reads of some channels, whatever its weight is: enough to say how they vary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from onnx_condense.arrays import Array, Ints
from onnx_condense.refitting.consumer import Consumer, Key, read_by
from onnx_condense.refitting.rows import Channels, FeatureRows
from onnx_condense.tracing.trace import Slot, Trace


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


Source: TypeAlias = Consumer | Reading
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
