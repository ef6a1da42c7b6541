"""What may follow sizes of the inputs that could not be varied: all that is not proved to be the same at every size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx

from onnx_condense.arrays import Array, Shape
from onnx_condense.errors import InputError
from onnx_condense.model.inference import constant_sizes
from onnx_condense.operators.shapes import Stuck
from onnx_condense.operators.static import Static

PROBES: tuple[Callable[[int], int], ...] = (lambda size: 1, lambda size: size + 1, lambda size: 2 * size + 1)
"""Sizes that an axis is thought to have, to see which numbers that are computed from shapes follow it."""


@dataclass(frozen=True, eq=False)
class Unknown:
    """What may follow the axes `stuck`.

    static: what no data reaches. shapes: of data, on the feed. values: of derived tensors, on the feed.
    inside: what names of tensors in copies of bodies begin with; what such a body takes is unknown, too.
    implied: the sizes of a tensor's axes that the weights of its readers allow.
    """

    static: Static
    shapes: Mapping[str, Shape]
    values: Mapping[str, Array]
    stuck: Stuck
    inside: tuple[str, ...]
    implied: Callable[[str], Mapping[int, int]]

    def axes(self, name: str) -> Collection[int]:
        """The axes of a tensor of data whose sizes may follow."""
        return self._axes.get(name, ())

    def follows(self, name: str) -> bool:
        """Whether a derived value may."""
        value = self.values.get(name)
        return any(probe is None or value is None or not np.array_equal(probe, value) for probe in self._probes(name))

    def changing(self, name: str) -> Array:
        """Which elements may, in the shape of a derived value."""
        value = self.values[name]
        found = np.zeros(value.shape, dtype=bool)
        for probe in self._probes(name):
            found |= True if probe is None or probe.shape != value.shape else probe != value
        return found

    def _probes(self, name: str) -> Iterator[Array | None]:
        """A derived value where the sizes are others, None where those fit nothing."""
        if self._axes and name in self._reached:
            yield from (values.get(name) for values in self._elsewhere)

    @cached_property
    def _elsewhere(self) -> list[Mapping[str, Array]]:
        found: list[Mapping[str, Array]] = []
        for change in PROBES:
            shapes = {
                name: tuple(change(size) if axis in self.axes(name) else size for axis, size in enumerate(shape))
                for name, shape in self.shapes.items()
            }
            try:
                found.append(self.static.derived_values(shapes))
            except InputError:
                found.append({})
        return found

    @cached_property
    def _inputs(self) -> dict[str, list[int]]:
        """The axes of inputs, formal ones too, that are unknown."""
        found: dict[str, list[int]] = {}
        for name, axis in self.stuck:
            found.setdefault(name, []).append(axis)
        formal = [v.name for v in self.static.model.graph.input if self.inside and v.name.startswith(self.inside)]
        return found | ({name: list(range(len(self.shapes[name]))) for name in formal} if found else {})

    @cached_property
    def _reached(self) -> set[str]:
        """Names of all tensors that follow from such inputs."""
        reached = set(self._inputs)
        for node in self.static.model.graph.node:
            holds = any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute)
            if holds or reached.intersection(node.input):
                reached.update(node.output)
        return reached if self._inputs else set()

    @cached_property
    def _axes(self) -> dict[str, frozenset[int]]:
        if not self._inputs:
            return {}
        inputs = {
            value.name: [n if a not in self._inputs.get(value.name, ()) else None for a, n in enumerate(shape)]
            for value in self.static.model.graph.input
            if (shape := self.shapes.get(value.name)) is not None
        }
        known = constant_sizes(self.static.model, inputs)
        found = {}
        for name in self._reached & self.shapes.keys():
            shape = self.shapes[name]
            sizes = known.get(name, [])
            sizes = sizes if len(sizes) == len(shape) else [None] * len(shape)
            implied = {axis % len(shape) for axis in self.implied(name)}
            found[name] = frozenset(a for a, size in enumerate(sizes) if size != shape[a] and a not in implied)
        return {name: axes for name, axes in found.items() if axes}
