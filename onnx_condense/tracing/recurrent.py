"""The rule of recurrent nodes: consumers of data, producers of units, and consumers of those one step later."""

from __future__ import annotations

from functools import partial, reduce

import numpy as np

from onnx_condense.algebra.signals import Recurrence
from onnx_condense.arrays import Ints, Labels
from onnx_condense.operators.actions import Reader, Recurrent
from onnx_condense.operators.answers import Role
from onnx_condense.operators.between import Operation
from onnx_condense.operators.reasons import Reason
from onnx_condense.tracing.joins import Join, united
from onnx_condense.tracing.labels import pack
from onnx_condense.tracing.linear import read_data, reader
from onnx_condense.tracing.outcomes import Contracted, Declined, Outcome
from onnx_condense.tracing.trace import Slot
from onnx_condense.tracing.walk import Place, Walk


def recurrent(walk: Walk, place: Place, action: Recurrent) -> Outcome:
    """LSTM, GRU, RNN. Every direction has units of its own."""
    unfit = _unfit(walk, place, action)
    if unfit is not None:
        return Declined(unfit)
    directions, _, units = walk.shape(place.inputs[2])
    starts = [walk.at(place, i) for i in action.given]
    given = [x for x in starts if x is not None and x.shape == (directions, 1, units)]
    if units < 2 or len(given) < len(starts):
        return reader(walk, place, Reader(0, 1, 2, 2, Reason.ONE_CHANNEL if units < 2 else action.reason, (2,)))
    read_data(walk, place, action, place.because(Reason.READ_AS_OTHER), action.given)
    atoms = walk.sets.grow(directions * units).reshape(directions, units)
    walk.producers.append((place.index, atoms.reshape(-1)))
    hidden = _states(walk, place, action, atoms)
    walk.fixed.append((hidden[:, None], (0,)))
    _hold_weights(walk, place, action, hidden)
    join, cells = Join(walk, place, Operation.CHOOSE), _states(walk, place, action, atoms)
    # units that start from data are its channels, too: a relation holds for both or for none
    hidden, cells = (reduce(partial(united, join), given, labels[:, None]) for labels in (hidden, cells))
    walk.hold(Slot(place.index, 2, Role.CONTRACTED, hidden, 2, padded=True))
    made = zip(place.outputs, (hidden[None], hidden, cells), strict=False)
    return Contracted({tensor.name: labels for tensor, labels in made if tensor.name})


def _unfit(walk: Walk, place: Place, action: Recurrent) -> Reason | None:
    """Why the weights can be no slots."""
    names = [place.inputs[i].name for i in action.weights]
    if not walk.is_finite(place):
        return Reason.WEIGHTS_NOT_FINITE
    if any(name in walk.tied for name in names):
        return Reason.WEIGHTS_USED_ELSEWHERE
    if any(walk.facts.is_generated(name) for name in names):
        return Reason.WEIGHTS_FROM_SHAPE
    return None


def _states(walk: Walk, place: Place, action: Recurrent, atoms: Ints) -> Labels:
    """[directions, units] of a function of all units; each direction has a signal of its own."""
    signals = [Recurrence(place.index, row, i * len(row), action.kind) for i, row in enumerate(atoms)]
    return np.stack([pack(row, walk.signal(signal)) for row, signal in zip(atoms, signals, strict=True)])


def _hold_weights(walk: Walk, place: Place, action: Recurrent, units: Labels) -> None:
    """The weights that make units or hold numbers of theirs; units: [directions, units]."""
    for position in action.weights:
        _hold_blocks(walk, Slot(place.index, position, Role.PRODUCED, np.tile(units, action.gates)[:, :, None], 1))
    if action.bias is not None:
        _hold_blocks(walk, Slot(place.index, action.bias, Role.CARRIED, np.tile(units, 2 * action.gates), 1))
    if action.peepholes is not None:
        _hold_blocks(walk, Slot(place.index, action.peepholes, Role.CARRIED, np.tile(units, 3), 1))
    for position in action.states:
        walk.hold(Slot(place.index, position, Role.CARRIED, units[:, None]))


def _hold_blocks(walk: Walk, slot: Slot) -> None:
    """A weight that holds blocks of the units, one after the other, on its second axis: directions do not shrink."""
    walk.fixed.append((slot.labels, (0,)))
    walk.hold(slot)
