"""The rules of linear maps, of what has parameters per channel, and of readers whose own channels stay."""

from __future__ import annotations

import numpy as np

from onnx_condense.algebra.signals import Centred, Filtered, Mapped, Rows, Stated
from onnx_condense.arrays import Ints, Labels
from onnx_condense.operators.actions import Contraction, Filter, Normalization, Reader, Recurrent
from onnx_condense.operators.answers import ANYTHING, Role, with_zero
from onnx_condense.operators.queries import takes_shape
from onnx_condense.operators.reasons import Because, Reason
from onnx_condense.operators.table import read
from onnx_condense.tracing.labels import atoms_of, occurrence, pack, signals_of, varying
from onnx_condense.tracing.outcomes import Carried, Contracted, Declined, Outcome, Pinned, Stay
from onnx_condense.tracing.parameters import affine
from onnx_condense.tracing.trace import Slot
from onnx_condense.tracing.uniting import uniform
from onnx_condense.tracing.walk import Place, Walk, along


def contraction(walk: Walk, place: Place, action: Contraction) -> Outcome:
    """The data's channels end in the weight, others begin."""
    unfit = _unfit(walk, place, action)
    if unfit is not None:
        return Declined(unfit)
    if action.lookup:
        walk.pin(walk.at(place, action.data), place.because(Reason.READ_AS_ROWS))
        return _produced(walk, place, action)
    weight, axis, labels = place.inputs[action.weight].name, action.data_axis, _data(walk, place, action)
    if labels is not None and axis not in varying(labels):
        _tie(walk, place, weight, None)
        return Carried({place.output: _passed(walk, labels, action)})
    row = None if labels is None else labels.reshape(-1)
    if _tie(walk, place, weight, row) and row is not None:
        contracted = action.axis(Role.CONTRACTED)
        held = along(row, len(action.weight_axes), contracted)
        walk.hold(Slot(place.index, action.weight, Role.CONTRACTED, held, contracted, action.padded, action.groups))
    return _produced(walk, place, action)


def _unfit(walk: Walk, place: Place, action: Contraction) -> Reason | None:
    """Why a weight can be no slot."""
    weight = place.inputs[action.weight].name
    if not walk.is_finite(place):
        return Reason.WEIGHTS_NOT_FINITE
    if any(v.size == 0 for v in walk.parameters(place)):
        return Reason.WEIGHTS_EMPTY
    if any(t.name == weight for t in walk.facts.graph.outputs):
        return Reason.WEIGHTS_ARE_OUTPUT
    if weight in walk.tied and not _tied_alike(walk, weight):
        return Reason.WEIGHTS_USED_ELSEWHERE
    return None


def _data(walk: Walk, place: Place, action: Contraction) -> Labels | None:
    """The labels of the data, the same along the axes of a window; None where there are none, or they stay."""
    labels = walk.at(place, action.data)
    if labels is None:
        return None
    contracted = labels.shape[action.data_axis] > 1
    letters = enumerate(action.data_axes)
    try:
        mixed = [i for i, letter in letters if letter == "*" or (contracted and i != action.data_axis)]
        if set(varying(labels)) <= set(mixed):
            raise Stay(labels, place.because(Reason.IN_SPACE))
        return uniform(walk, place, labels, mixed)
    except Stay as stay:
        walk.conclude(place, stay.outcome)
        return None


def _tied_alike(walk: Walk, name: str) -> bool:
    """Whether every reader of a weight with several uses is the same linear map of its data."""
    facts = walk.facts
    readers = [(facts.nodes[i], position) for i, position in facts.consumers(name)]
    if any(t.name in facts.static for node, _ in readers for t in node.outputs):
        return False
    uses = [(read(node, facts).linear_map, position) for node, position in readers if not takes_shape(node)]
    linear = {(a.weight_axes, a.groups) if a is not None and a.weight == p else None for a, p in uses}
    return len(linear) == 1 and None not in linear


def _tie(walk: Walk, place: Place, name: str, row: Labels | None) -> bool:
    """A weight with several uses reads the same channels in each of them, or they all stay; False if they must."""
    if name not in walk.tied:
        return True
    because = place.because(Reason.READ_BY_TIED)
    first = walk.tied_reads.setdefault(name, row)
    if first is None or row is None:
        walk.pin(first, because)
        walk.pin(row, because)
        return first is None and row is None
    both = (first >= 0) & (row >= 0)
    walk.pin(first[~both], because)
    walk.pin(row[~both], because)
    walk.sets.unite(atoms_of(first[both]), atoms_of(row[both]))
    return True


def _passed(walk: Walk, labels: Labels, action: Contraction) -> Labels:
    """Channels on an axis that the weight does not contract, in the output."""
    kept = [letter for letter in action.output_axes if letter in action.data_axes and letter not in ("*", action.inner)]
    axes = [action.data_axes.index(letter) for letter in kept]
    moved = labels.transpose([*axes, *(axis for axis in range(labels.ndim) if axis not in axes)])
    shape = iter(moved.shape)
    moved = moved.reshape([next(shape) if letter in kept else 1 for letter in action.output_axes])
    biased = action.bias is not None
    return walk.mapped(moved, lambda child: Mapped(child, biased))


def _produced(walk: Walk, place: Place, action: Contraction) -> Outcome:
    """The output's channels become atoms; a weight with several uses makes the same ones in each."""
    value = walk.facts.value(place.inputs[action.weight])
    assert value is not None
    axis = action.axis(Role.PRODUCED)
    count = value.shape[axis] * (action.groups if axis else 1)
    if count < 2:
        walk.refuse(place, Reason.ONE_CHANNEL, value.size)
        return Contracted()
    atoms = _atoms(walk, place.inputs[action.weight].name, count)
    walk.producers.append((place.index, atoms))
    bounds = (0.0, 1.0) if action.lookup else walk.intervals.get(place.inputs[action.data].name, ANYTHING)
    bounds = with_zero(bounds) if action.padded else bounds
    row = pack(atoms, walk.signal(Rows(place.index, atoms, *bounds)))
    made = along(row, value.ndim, axis)
    walk.hold(Slot(place.index, action.weight, Role.PRODUCED, made, axis, groups=action.groups))
    bias = None if action.bias is None else walk.facts.value(place.inputs[action.bias])
    if action.bias is not None and bias is not None and bias.ndim and bias.shape[-1] == count:
        last = bias.ndim - 1
        walk.hold(Slot(place.index, action.bias, Role.CARRIED, along(row, bias.ndim, last), last))
    return Contracted({place.output: along(row, len(action.output_axes), action.output_axis)})


def _atoms(walk: Walk, weight: str, count: int) -> Ints:
    """[count] those that a weight makes."""
    if weight not in walk.tied:
        return walk.sets.grow(count)
    if weight not in walk.tied_atoms:
        walk.tied_atoms[weight] = walk.sets.grow(count)
    return walk.tied_atoms[weight]


def filtered(walk: Walk, place: Place, action: Filter) -> Outcome:
    """A depthwise Conv: every channel becomes `multiplier` channels that live and die with it."""
    labels = walk.at(place, 0)
    if labels is None:
        return Carried()
    labels = uniform(walk, place, labels, range(2, len(walk.facts.shapes[place.output])))
    if varying(labels) != (1,):
        return Pinned(labels, place.because(Reason.ALONG_ANOTHER))
    row = labels.reshape(-1)
    atoms, sources = atoms_of(row), signals_of(row)
    result = np.full((len(row), action.multiplier), -1, dtype=np.int64)
    rank = occurrence(row)
    for key in np.unique(np.stack([sources, rank]), axis=1).T:
        channels = np.flatnonzero((sources == key[0]) & (rank == key[1]) & (atoms >= 0))
        if not len(channels):
            continue
        inner = atoms[channels]
        for which in range(action.multiplier):
            rows = channels * action.multiplier + which
            signal = Filtered(walk.signals[key[0]], place.index, inner, rows, action.padded)
            result[channels, which] = pack(inner, walk.signal(signal))
    for position, tensor in list(enumerate(place.inputs))[1:3]:
        if tensor.name:
            held = along(np.repeat(row, action.multiplier), len(walk.shape(tensor)), 0)
            walk.hold(Slot(place.index, position, Role.CARRIED, held))
    return Carried({place.output: along(result.reshape(-1), labels.ndim, 1)})


def normalization(walk: Walk, place: Place, action: Normalization) -> Outcome:
    """Channels on axis 1 keep their relations as a scale and a shift of each lets them."""
    labels = walk.at(place, 0)
    if labels is None:
        return Carried()
    labels = uniform(walk, place, labels, range(2, len(walk.shape(place.inputs[0]))))
    if varying(labels) != (1,):
        together = action.mean is None
        return Pinned(labels, place.because(Reason.NORMALIZED_TOGETHER if together else Reason.ALONG_ANOTHER))
    positions = [i for i in (action.scale, action.shift, action.mean, action.var) if i is not None]
    scale, shift, *statistics = (
        np.asarray(walk.facts.value(place.inputs[i]), dtype=np.float64)[:, None] for i in positions
    )
    mean, var = statistics or (np.zeros_like(scale), None)
    if var is None:
        labels = walk.mapped(labels, Centred)
    with np.errstate(invalid="ignore", divide="ignore"):
        gain = scale if var is None else action.gain(scale, var)
    if not np.isfinite(gain).all() or not np.isfinite(shift - mean * gain).all():
        return Declined(Reason.PARAMETERS_NOT_FINITE)
    stated = None if var is None else Stated(shift.reshape(-1), np.abs(scale).reshape(-1))
    made = affine(walk, place, labels, gain, shift - mean * gain, stated)
    for position in positions:
        walk.hold(Slot(place.index, position, Role.CARRIED, labels.reshape(-1)))
    return Carried({place.output: made})


def reader(walk: Walk, place: Place, action: Reader) -> Outcome:
    """The data's channels end in the weight; its own stay."""
    if not walk.is_finite(place):
        return Declined(Reason.WEIGHTS_NOT_FINITE)
    sizes = [v.size for v in (walk.facts.value(place.inputs[i]) for i in action.weights) if v is not None]
    walk.refuse(place, action.reason, sum(sizes))
    read_data(walk, place, action, place.because(Reason.READ, action.reason))
    return Contracted()


def read_data(
    walk: Walk, place: Place, action: Reader | Recurrent, elsewhere: Because, others: tuple[int, ...] = ()
) -> None:
    """The data's channels are contracted; but for `others`, those of other inputs stay, because of `elsewhere`."""
    labels, weight = walk.at(place, action.data), place.inputs[action.weight]
    for position in range(len(place.inputs)):
        if position not in (action.data, *others):
            walk.pin(walk.at(place, position), elsewhere)
    if labels is None:
        return
    if varying(labels) != (action.data_axis,):
        return walk.pin(labels, place.because(Reason.ALONG_ANOTHER))
    if weight.name in walk.tied:
        return walk.pin(labels, place.because(Reason.READ_BY_TIED))
    held = along(labels.reshape(-1), len(walk.shape(weight)), action.weight_axis)
    walk.hold(Slot(place.index, action.weight, Role.CONTRACTED, held, action.weight_axis, padded=True))
