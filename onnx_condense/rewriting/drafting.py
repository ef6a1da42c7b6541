"""Puts a twin's weights and the edits that its shapes ask for into a draft of the small model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from onnx_condense.arrays import Shape
from onnx_condense.merging.twin import Twin
from onnx_condense.model.held import Spill
from onnx_condense.model.rebuilt import Content, Part, Rebuilt, Sizes
from onnx_condense.operators.facts import Facts
from onnx_condense.operators.nodes import FILLED_SINCE, is_filled
from onnx_condense.rewriting.draft import Draft
from onnx_condense.rewriting.edits import Attribute, Number
from onnx_condense.rewriting.pairs import pairs_of
from onnx_condense.rewriting.rules import edits_of
from onnx_condense.rewriting.shapes import Shapes
from onnx_condense.rewriting.values import NodeInput, Sliced, stored, values_of


@dataclass(frozen=True, eq=False)
class Drafted:
    """The small model before it is a message.

    values: the weights that changed. sizes: of the axes that became smaller, for value_info, which others may state in
        another way: of a dynamic axis, an exporter may have left the size that it saw.
    """

    rebuilt: Rebuilt
    values: Mapping[NodeInput, Sliced]
    sizes: Mapping[str, Sizes]

    def message(self, provenance: Mapping[str, Any], spill: Spill | None = None) -> onnx.ModelProto:
        """The model in the form that was traced. spill: takes large weights that are new."""
        return self.rebuilt.message(self.sizes, provenance, spill)

    def parts(self, wanted: Sequence[Part]) -> onnx.ModelProto:
        """The same with the weights alone that some parts of it need."""
        return self.rebuilt.parts(self.sizes, wanted)


def drafted(twin: Twin, shapes: Shapes, factored: bool = True) -> Drafted:
    """The model with these shapes whose weights are slices of the twin's. Raises Disagreement.

    `factored`: whether pairs of factors stand for their products.
    """
    draft, values = Draft(twin.trace.facts), values_of(twin, shapes)
    for edit in values.edits:
        draft.apply(edit)
    weights = _Weights(draft, twin.trace.facts)
    pairs = pairs_of(twin, shapes, values.at) if factored and twin.factors else {}
    at = {**values.at, **{place: pair.first for place, pair in pairs.items()}}
    weights.insert(stored(twin, at))
    followed = [pair.edit() for pair in pairs.values()]
    for edit in (*followed, *_written_down(twin, at), *edits_of(shapes)):
        draft.apply(edit)
    facts, rebuilt = twin.trace.facts, draft.rebuilt()
    sizes = {name: _changes(shape, facts.shapes[name]) for name, shape in shapes.smaller.items()}
    unknown = dict.fromkeys(_of_others(rebuilt, facts), ()) if shapes.smaller else {}
    return Drafted(rebuilt, at, {**unknown, **sizes, **weights.described})


def _of_others(rebuilt: Rebuilt, facts: Facts) -> Iterator[str]:
    """The tensors among those that follow from shapes which are made of constants that are others now."""
    changed = set(rebuilt.constants)
    for node in rebuilt.nodes if facts.derived else ():
        if not changed.isdisjoint(node.input):
            made = facts.derived & set(node.output)
            changed |= made
            yield from made


def _changes(shape: Shape, before: Shape) -> Sizes:
    """The sizes of axes that are others than before."""
    return tuple(None if size == old else size for size, old in zip(shape, before, strict=True))


def is_uniform(value: Content) -> bool:
    """Whether all numbers are one."""
    numbers = np.asarray(value)
    return bool((numbers == numbers.reshape(-1)[:1]).all())


def _written_down(twin: Twin, values: Mapping[NodeInput, Content]) -> Iterator[Number]:
    """Constants that are computed from a weight that changed keep their value, and let the old weight go."""
    facts = twin.trace.facts
    originals = [(facts.nodes[index].inputs, position) for index, position in values]
    changed = {inputs[position].name for inputs, position in originals if position < len(inputs)}
    for index in twin.trace.actions:
        for position, tensor in enumerate(facts.nodes[index].inputs):
            if tensor.name not in facts.static or tensor.name in facts.initializers:
                continue
            value = facts.value(tensor)
            if value is not None and facts.upstream(tensor.name) & changed:
                yield Number(index, position, value)


class _Weights:
    """Puts weights into a draft. described: new shapes of the constants that the file describes rather than holds."""

    def __init__(self, draft: Draft, facts: Facts) -> None:
        self.described: dict[str, Shape] = {}
        self._draft, self._facts = draft, facts

    def insert(self, values: Mapping[NodeInput, Content]) -> None:
        """Puts new values at their places; a weight that others read as it was gets a private copy."""
        by_name: dict[str, list[NodeInput]] = {}
        for place in sorted(values):
            by_name.setdefault(self._draft.reads(*place), []).append(place)
        for name, places in by_name.items():
            alone = set(self._facts.consumers(name)) == set(places) and name not in self._facts.read_outside
            described = self._facts.is_generated(name) and self._facts.opset >= FILLED_SINCE
            made: list[tuple[Content, str]] = []
            for place in places:
                value = values[place]
                constant = next((known for other, known in made if _same(other, value)), None)
                if constant is None:
                    make = self._filled if described and is_uniform(value) else self._held
                    stem = name or f"{self._draft.makes(place[0])}_bias"
                    constant = make(stem, value, alone and bool(name) and not made)
                    made.append((value, constant))
                self._draft.connect(*place, constant)

    def _held(self, name: str, value: Content, alone: bool) -> str:
        """A constant that the file holds; `alone`: nothing else reads the old one."""
        if alone and name in self._facts.initializers:
            self._draft.constants[name] = value
            return name
        return self._draft.constant(f"{name}_condensed", value)

    def _filled(self, name: str, value: Content, alone: bool) -> str:
        """A constant of one number that the file goes on describing; `alone`: nothing else reads the old one."""
        number, shape = np.asarray(value).reshape(-1)[:1], np.array(value.shape, dtype=np.int64)
        maker = self._facts.maker(name)
        if maker is None or not alone or not is_filled(self._facts.model.graph.node[maker]):
            return self._draft.fill(f"{name}_condensed", shape, number)
        stated = self._draft.reads(maker, 0)
        mine = stated in self._facts.initializers and len(self._facts.consumers(stated)) == 1
        if mine:
            self._draft.constants[stated] = shape
        else:
            stated = self._draft.constant(f"{stated}_condensed", shape)
        self._draft.connect(maker, 0, stated)
        self._draft.apply(Attribute(maker, "value", number))
        self.described[name] = value.shape
        return name


def _same(one: Content, other: Content) -> bool:
    return one.shape == other.shape and np.array_equal(np.asarray(one), np.asarray(other))
