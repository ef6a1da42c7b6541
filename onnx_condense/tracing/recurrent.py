"""Recurrent nodes: consumers of their data, producers of their units, and consumers of those one step later."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_condense.algebra.signals import Recurrence
from onnx_condense.arrays import Ints, Labels
from onnx_condense.operators.actions import Operation, Reader, Recurrent, Role
from onnx_condense.tracing.grouping import ONE_CHANNEL
from onnx_condense.tracing.joins import Joining, Operand
from onnx_condense.tracing.labels import pack, varying
from onnx_condense.tracing.trace import Refusal, Slot


class Recurring(Joining):
    """The part of the tracer that knows LSTM, GRU and RNN, and readers whose own channels stay."""

    def _reader(self, action: Reader) -> None:
        if not all(np.isfinite(v).all() for v in self._parameters()):
            return self._refuse("has weights that are not finite")
        self.refused.append(Refusal(self._layer(), action.reason, self._size(action)))
        self._read_data(action, f"is read by {self._me()}, which {action.reason}")

    def _size(self, action: Reader | Recurrent) -> int:
        values = [self.facts.value(self.node.inputs[i]) for i in action.weights]
        return sum(v.size for v in values if v is not None)

    def _read_data(self, action: Reader | Recurrent, elsewhere: str, others: tuple[int, ...] = ()) -> None:
        """The data's channels are contracted; but for `others`, those of other inputs are pinned, for `elsewhere`."""
        labels = self.labels.get(self.node.inputs[action.data].name)
        for position, tensor in enumerate(self.node.inputs):
            if position not in (action.data, *others):
                self._pin_tensor(tensor.name, elsewhere)
        if labels is None:
            return
        if varying(labels) != (action.data_axis,):
            return self._pin(labels, f"varies along another axis at {self._me()}")
        weight = self.node.inputs[action.weight].name
        if weight in self.shared_weights:
            return self._pin(labels, f"is read by {self._me()}, whose weight also reads something else")
        rank = len(self._shape(self.node.inputs[action.weight]))
        self._add_slot(action.weight, Role.CONTRACTED, labels.reshape(-1), rank, action.weight_axis, padded=True)

    def _recurrent(self, action: Recurrent) -> None:
        """Every direction has units of its own."""
        names = [self.node.inputs[i].name for i in action.weights]
        if not all(np.isfinite(v).all() for v in self._parameters()):
            return self._refuse("has weights that are not finite")
        if any(name in self.shared_weights for name in names):
            return self._refuse("uses its weight for something else too")
        if any(self.facts.is_generated(name) for name in names):
            return self._refuse("has weights that are computed from a shape, which slicing would have to write out")
        directions, _, units = self._shape(self.node.inputs[2])
        starts = [self.labels.get(self.node.inputs[i].name) for i in action.given]
        given = [x for x in starts if x is not None and x.shape == (directions, 1, units)]
        if units < 2 or len(given) < len(starts):
            return self._reader(Reader(0, 1, 2, 2, ONE_CHANNEL if units < 2 else action.reason, (2,)))
        self._read_data(action, f"is read by {self._me()} as something else than its data", action.given)
        atoms = self.sets.grow(directions * units).reshape(directions, units)
        self.producers.append((self.index, atoms.reshape(-1)))
        hidden = self._states(action, atoms)
        self.fixed.append((hidden[:, None], (0,)))
        for position in action.weights:
            self._add_blocks(position, Role.PRODUCED, hidden, action.gates, 3)
        if action.bias is not None:
            self._add_blocks(action.bias, Role.CARRIED, hidden, 2 * action.gates, 2)
        if action.peepholes is not None:
            self._add_blocks(action.peepholes, Role.CARRIED, hidden, 3, 2)
        for position in action.states:
            self.slots.append(Slot(self.index, position, Role.CARRIED, hidden[:, None]))
        hidden, cells = (self._started(x[:, None], given) for x in (hidden, self._states(action, atoms)))
        self.slots.append(Slot(self.index, 2, Role.CONTRACTED, hidden, 2, padded=True))
        made = hidden[None], hidden, cells
        for tensor, labels in zip(self.node.outputs, made, strict=False):
            if tensor.name:
                self._emit(labels, tensor.name)

    def _started(self, labels: Labels, given: Sequence[Labels]) -> Labels:
        """Units that start from data are the channels of that data, too: a relation holds for both or for none."""
        for start in given:
            left, right = (Operand(x, x.shape, None, -1) for x in (labels, start))
            united = self._unite(Operation.CHOOSE, left, right)
            assert united is not None
            labels = united
        return labels

    def _states(self, action: Recurrent, atoms: Ints) -> Labels:
        """[directions, units] of a function of all units; each direction has a signal of its own."""
        firsts = [
            (self._signal(Recurrence(self.index, row, i * len(row), action.kind)), row) for i, row in enumerate(atoms)
        ]
        return np.stack([pack(row, signal) for signal, row in firsts])

    def _add_blocks(self, position: int, role: Role, labels: Labels, count: int, rank: int) -> None:
        """A weight that holds `count` blocks of the units, one after the other, on its second axis."""
        tiled = np.tile(labels, count)
        shape = tiled.shape + (1,) * (rank - 2)
        blocks = tiled.reshape(shape)
        self.fixed.append((blocks, (0,)))
        self.slots.append(Slot(self.index, position, role, blocks, 1))
