"""Weights of the small model that are pairs of factors: the layer makes fewer numbers, a linear map behind it all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_condense.arrays import Array, Shape
from onnx_condense.merging.factors import Factor
from onnx_condense.merging.twin import Twin
from onnx_condense.operators.actions import Contraction
from onnx_condense.operators.answers import Role
from onnx_condense.rewriting.edits import Followed, Further
from onnx_condense.rewriting.shapes import Shapes
from onnx_condense.rewriting.values import NodeInput, Sliced


@dataclass(frozen=True, eq=False)
class First:
    """What a layer of a pair holds of a weight, whose produced axis is given; made when its numbers are asked for."""

    factor: Factor
    weight: Array
    axis: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its numbers."""
        return self.weight.dtype

    @property
    def shape(self) -> Shape:
        """Sizes of its axes."""
        return tuple(
            self.factor.first_rank if axis == self.axis else size for axis, size in enumerate(self.weight.shape)
        )

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> Array:
        return self.factor.first(self.weight, self.axis)


@dataclass(frozen=True, eq=False)
class Pair:
    """A pair of factors as the small model holds it.

    first: the layer's weight. second: [outputs that are there, rank] what multiplies what it makes. further: what
    frequent rows of a table hold beyond it.
    """

    action: Contraction
    node: int
    first: Sliced
    second: Array
    further: Further | None

    def edit(self) -> Followed:
        """The linear map behind the layer."""
        convolves, matrix = self.action.is_kernel, self.second
        behind = len(self.action.output_axes) - 1 - self.action.output_axis
        if convolves:
            matrix = matrix.reshape(*matrix.shape, *[1] * (len(self.action.weight_axes) - 2))
        matrix = matrix if convolves or behind else matrix.T
        return Followed(self.node, matrix, convolves, left=behind > 0, further=self.further)


def pair_of(twin: Twin, shapes: Shapes, factor: Factor, sliced: Sliced | None) -> Pair:
    """The pair that a factor makes of a weight. sliced: what is alive of its product, None where that is all."""
    action = twin.trace.linear_map(factor.node)
    assert action is not None
    weight = twin.weight(factor.node, factor.input)
    cuts = () if sliced is None else tuple(cut for cut in sliced.cuts if cut[0].role is not Role.PRODUCED)
    first = Sliced(First(factor, weight, action.axis(Role.PRODUCED)), cuts)
    made = twin.trace.made.get((factor.node, factor.input))
    kept = None if made is None else shapes.of_slot(made)
    basis = factor.basis.astype(weight.dtype)
    if kept is not None:
        assert kept.line is not None
        basis = basis[kept.line]
    more = factor.further(weight)
    further = None if more is None else Further(*more, action.data, action.output_axis)
    return Pair(action, factor.node, first, basis, further)


def pairs_of(twin: Twin, shapes: Shapes, values: Mapping[NodeInput, Sliced]) -> dict[NodeInput, Pair]:
    """The pairs of a twin in the small model. values: its weights, as shapes slice them."""
    return {place: pair_of(twin, shapes, factor, values.get(place)) for place, factor in sorted(twin.factors.items())}
