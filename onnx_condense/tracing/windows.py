"""The rules of functions of single elements, of windows and of padding."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from onnx_condense.algebra.signals import Activated, Modulated, Pooled, Signal
from onnx_condense.arrays import Floats, Ints, Labels
from onnx_condense.operators.actions import Activation, Padding, Window
from onnx_condense.operators.answers import Kind
from onnx_condense.operators.queries import normalizes
from onnx_condense.operators.reasons import Reason
from onnx_condense.tracing.labels import varying
from onnx_condense.tracing.outcomes import Carried, Contracted, Outcome, Pinned
from onnx_condense.tracing.parameters import carry, constant_channels, per_position, split_signals
from onnx_condense.tracing.uniting import uniform
from onnx_condense.tracing.walk import Place, Walk, unknown


def activation(walk: Walk, place: Place, action: Activation) -> Outcome:
    """A function of each element, or of all elements along axes on which channels may not lie."""
    labels = walk.at(place, 0)
    if labels is None:
        return Carried()
    mixed = [axis for axis in varying(labels) if axis in action.uniform_axes]
    if mixed and len(mixed) == len(varying(labels)):
        if walk.through_norms and normalizes(action):
            return _normalized(walk, place, action, labels)
        return Pinned(labels, place.because(Reason.READ, action.across))
    labels = uniform(walk, place, labels, mixed)
    if action.slope is not None:
        return _with_slopes(walk, place, action, action.slope, labels)
    if action.kind is not Kind.LINEAR:
        function = walk.function(place)
        labels = walk.mapped(labels, lambda child: Activated(child, action, function))
    return Carried({place.output: labels})


def _normalized(walk: Walk, place: Place, action: Activation, labels: Labels) -> Outcome:
    """All channels of a place together, as if that changed none."""
    assert action.affine is not None
    for position in action.affine[1:]:
        value = None if position is None else walk.facts.value(place.inputs[position])
        if position is not None and value is not None:
            carry(walk, place, position, labels, value)
    return Carried({place.output: walk.mapped(labels, Modulated)})


def _with_slopes(walk: Walk, place: Place, action: Activation, position: int, labels: Labels) -> Outcome:
    """A function with one parameter per channel, the constant at that input."""
    slopes, function = walk.facts.value(place.inputs[position]), walk.function(place)
    assert slopes is not None
    values = per_position(labels, slopes)

    def make(child: Signal, atoms: Ints, places: Ints) -> Signal:
        return Activated(child, action, function, atoms, values[places].mean(1))

    made = split_signals(walk, labels.reshape(-1), values, make) if values.shape[1] == 1 else None
    if made is None:
        return Pinned(labels, place.because(Reason.SLOPES_IN_SPACE))
    carry(walk, place, position, labels, slopes)
    return Carried({place.output: made.reshape(labels.shape)})


def window(walk: Walk, place: Place, action: Window) -> Outcome:
    """Places along some axes are mixed, channel by channel."""
    labels = walk.at(place, 0)
    if labels is None:
        return Carried()
    if action.across is not None and set(action.axes) >= set(varying(labels)):
        if walk.through_norms and normalizes(action):
            return Contracted()
        return Pinned(labels, place.because(Reason.READ, action.across))
    made = _windowed(walk, place, action, labels)
    if action.dropped:
        made = made.reshape([n for axis, n in enumerate(made.shape) if axis not in action.axes])
    return Carried({place.output: made})


def _windowed(walk: Walk, place: Place, action: Window, labels: Labels) -> Labels:
    """Labels behind a window. Raises Stay."""
    labels = uniform(walk, place, labels, action.axes)
    before = action.before
    if before is not None:
        function = _zero_stays if before.kind is Kind.ABSOLUTE else unknown
        labels = walk.mapped(labels, lambda child: Activated(child, before, function))
    return walk.mapped(labels, lambda child: Pooled(child, action.linear, action.padded, action.scale_free))


def padding(walk: Walk, place: Place, action: Padding) -> Outcome:
    """Zeros along an axis of channels are channels too, which a branch that they are added to may remove."""
    labels = walk.at(place, 0)
    if labels is None:
        return Carried()
    channels = [axis for axis in action.window.axes if labels.shape[axis] > 1]
    places = tuple(axis for axis in action.window.axes if axis not in channels)
    padded = _windowed(walk, place, replace(action.window, axes=places), labels) if places else labels
    for axis in channels:
        ends = [_zeros(walk, padded, axis, amounts[axis]) for amounts in (action.before, action.after)]
        padded = np.concatenate([ends[0], padded, ends[1]], axis)
    return Carried({place.output: padded})


def _zeros(walk: Walk, labels: Labels, axis: int, amount: int) -> Labels:
    """Channels of zeros, as many along an axis, as long as these labels along the others."""
    shape = [*labels.shape[:axis], amount, *labels.shape[axis + 1 :]]
    return constant_channels(walk, np.zeros((prod(shape), 1))).reshape(shape)


def _zero_stays(values: Floats) -> Floats:
    """Stands for a function of several elements, of which only zeros make a zero."""
    return np.where(values == 0, 0.0, np.nan)
