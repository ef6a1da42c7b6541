"""The numbers that signals are evaluated on, as a twin's weights are by now."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_condense.algebra.numbers import Weights
from onnx_condense.arrays import Array, Floats
from onnx_condense.merging.paths import by_channel
from onnx_condense.merging.twin import Twin
from onnx_condense.operators.actions import Contraction
from onnx_condense.operators.answers import Role


@dataclass(frozen=True, eq=False)
class TwinWeights(Weights):
    """The rows, biases, kernels and gates of a twin. turned: as products of data have changed them."""

    twin: Twin
    turned: bool = True

    def rows(self, node: int) -> Floats:
        """[produced, p] the rows of a linear map, times alpha."""
        action = self._contraction(node)
        rows = self._rows(action, node)
        rows = rows.reshape(len(rows), -1)
        wide: Floats = rows.astype(np.float32) if rows.dtype.itemsize < 4 else rows.view()
        return wide if action.alpha == 1 else wide * action.alpha

    def _rows(self, action: Contraction, node: int) -> Array:
        """[produced, ...] what a linear map makes each output with."""
        return by_channel(self.twin.weight(node, action.weight), (action.axis(Role.PRODUCED),), action.groups)

    def row_bias(self, node: int) -> Floats:
        """[produced] the bias of a linear map."""
        action = self._contraction(node)
        bias = np.zeros(len(self._rows(action, node)))
        if action.bias is not None:
            held = self.twin.weight if self.turned else self.twin.unturned
            bias = bias + action.beta * held(node, action.bias).astype(np.float64).reshape(-1)
        shift = self.twin.added(node) if self.turned else self.twin.shift.get(node)
        return bias if shift is None else bias + shift

    def convolves(self, node: int) -> bool:
        """Whether a linear map is a convolution."""
        return self._contraction(node).convolves

    def taps(self, node: int) -> Floats:
        """[outputs, p] the kernels of a depthwise convolution."""
        weight = self.twin.weight(node, 1)
        return weight.reshape(len(weight), -1).astype(np.float64)

    def tap_bias(self, node: int) -> Floats:
        """[outputs] the bias of a depthwise convolution."""
        inputs = self.twin.trace.facts.nodes[node].inputs
        if len(inputs) > 2 and inputs[2].name:
            return self.twin.weight(node, 2).astype(np.float64)
        return np.zeros(len(self.twin.weight(node, 1)))

    def recurrence(self, node: int) -> tuple[Floats, Floats]:
        """[directions · units, p] of the gates that must be equal and [directions · units, q] of the candidate."""
        action = self.twin.trace.actions[node].recurrent
        assert action is not None
        directions, _, units = self.twin.weight(node, 2).shape
        blocks = [self._units(node, i, (directions, action.gates, units, -1)) for i in action.weights]
        if action.bias is not None:
            bias = self._units(node, action.bias, (directions, 2, action.gates, units))
            blocks.append(bias.sum(1)[..., None])
        gates = np.concatenate(blocks, -1)
        others = np.moveaxis(np.delete(gates, action.candidate, 1), 1, 2)
        candidate = [gates[:, action.candidate]]
        if action.bias is not None and action.apart:
            candidate.append(bias[:, 0, action.candidate, :, None])
        if action.peepholes is not None:
            peepholes = self._units(node, action.peepholes, (directions, 3, units))
            candidate.append(peepholes.swapaxes(1, 2))
        for position in action.states:
            candidate.append(self.twin.weight(node, position).astype(np.float64).swapaxes(1, 2))
        count = directions * units
        return others.reshape(count, -1), np.concatenate(candidate, -1).reshape(count, -1)

    def _units(self, node: int, position: int, shape: tuple[int, ...]) -> Floats:
        return self.twin.weight(node, position).astype(np.float64).reshape(shape)

    def _contraction(self, node: int) -> Contraction:
        action = self.twin.trace.linear_map(node)
        assert action is not None
        return action
