"""Streams of channels in another basis: what writes to them and what reads them is turned, the function stays.

Where every way from writers to readers is linear and mixes no places, channels are one basis of many. With z = A y for
an invertible A [n, n], writers make z, readers multiply with their weights times A⁻¹. A BatchNormalization behind a
writer goes into its weights, and states the statistics of z from then on. Of a product of data, Σ q k = Σ (A q)(A⁻ᵀ k),
one side is among what is added, the other one among readers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx
from onnx import numpy_helper

from onnx_condense.arrays import Array, Floats
from onnx_condense.forms.stack import Form, for_good
from onnx_condense.model.held import numbers


@dataclass(frozen=True)
class Normalized:
    """The names of a BatchNormalization's numbers."""

    scale: str
    shift: str
    mean: str
    var: str
    epsilon: float

    def gain(self, values: Mapping[str, Floats]) -> Floats:
        """[n] what it multiplies each channel with."""
        return np.asarray(values[self.scale] / np.sqrt(values[self.var] + self.epsilon))


@dataclass(frozen=True)
class Writer:
    """A layer that makes a stream's channels: names of its weight and its bias, and the axis of its outputs."""

    weight: str
    axis: int
    bias: str = ""
    normalized: Normalized | None = None


@dataclass(frozen=True)
class Along:
    """The name of a constant, and the axis along which the channels lie: a weight that reads them, or what is added."""

    name: str
    axis: int


@dataclass(frozen=True, eq=False)
class Rotation:
    """A stream in another basis.

    Attributes:
        layer: the first that writes to it, for people.
        writers, readers: all layers that do. added: constants that are.
        into, back: [n, n] A and its inverse.
        rank: channels of z that are left; the others are never written to, or never read.
        idle: of those that are left, places of which the same is true.
    """

    layer: str
    writers: tuple[Writer, ...]
    readers: tuple[Along, ...]
    added: tuple[Along, ...]
    into: Floats = field(repr=False)
    back: Floats = field(repr=False)
    rank: int
    idle: tuple[int, ...] = ()

    @property
    def names(self) -> list[str]:
        """Of all constants that are others then."""
        found = [one.name for one in (*self.readers, *self.added)]
        for writer in self.writers:
            found += [writer.weight, *([writer.bias] if writer.bias else [])]
            if writer.normalized is not None:
                norm = writer.normalized
                found += [norm.scale, norm.shift, norm.mean, norm.var]
        return found

    def turned(self, values: Mapping[str, Floats]) -> dict[str, Floats]:
        """The new numbers of those constants, of their shapes. Raises ValueError where they do not fit."""
        result: dict[str, Floats] = {}
        first, back = self.into.copy(), self.back.copy()
        gone = [*self.idle, *range(self.rank, len(first))]
        first[gone], back[:, gone] = 0, 0
        for writer in self.writers:
            into = first
            if writer.normalized is not None:
                into = first * writer.normalized.gain(values)
                result |= _restated(writer.normalized, first, into, values)
            result[writer.weight] = _times(into, values[writer.weight], writer.axis)
            if writer.bias:
                result[writer.bias] = _times(into, values[writer.bias], -1)
        for matrix, places in ((back.T, self.readers), (first, self.added)):
            result |= {one.name: _times(matrix, values[one.name], one.axis) for one in places}
        return result


def _restated(norm: Normalized, into: Floats, gained: Floats, values: Mapping[str, Floats]) -> dict[str, Floats]:
    """A BatchNormalization [n] that changes nothing but constants; deviations as if channels did not vary together."""
    var, mean, shift = gained**2 @ values[norm.var], gained @ values[norm.mean], into @ values[norm.shift]
    return {norm.scale: np.sqrt(var + norm.epsilon), norm.shift: shift, norm.mean: mean, norm.var: var}


def _times(matrix: Floats, value: Floats, axis: int) -> Floats:
    """A matrix [n, n] times a value of any shape along an axis. Raises ValueError where they do not fit."""
    if not -value.ndim <= axis < value.ndim:
        raise ValueError("a weight has fewer axes")
    return np.moveaxis(np.tensordot(matrix, value, (1, axis)), 0, axis % value.ndim)


def rotated(rotations: Sequence[Rotation], model: onnx.ModelProto) -> onnx.ModelProto:
    """A model whose streams are in other bases. Raises ValueError where they are not the model's."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    places = {tensor.name: place for place, tensor in enumerate(result.graph.initializer)}
    for rotation in rotations:
        missing = [name for name in rotation.names if name not in places]
        if missing:
            raise ValueError(f"there is no weight {missing[0]}")
        held: dict[str, Array] = {name: numbers(result.graph.initializer[places[name]]) for name in rotation.names}
        for name, value in _turned(rotation, held).items():
            changed = numpy_helper.from_array(np.ascontiguousarray(value), name)
            result.graph.initializer[places[name]].CopyFrom(changed)
    return result


def _turned(rotation: Rotation, held: Mapping[str, Array]) -> dict[str, Array]:
    """The new numbers of a stream's constants, of their shapes and types. Raises ValueError where they do not fit."""
    wide = {name: value.astype(np.float64) for name, value in held.items()}
    try:
        with np.errstate(over="raise", invalid="raise"):
            return {name: value.astype(held[name].dtype) for name, value in rotation.turned(wide).items()}
    except FloatingPointError as error:
        raise ValueError(f"a basis of {rotation.layer} gives weights beyond all numbers") from error


def form(rotations: Sequence[Rotation]) -> Form:
    """The form of a model in which streams are in these bases."""
    return for_good(partial(rotated, rotations))
