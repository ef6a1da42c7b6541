"""The only mutator: from a twin (the twin's weights and which channels are alive) to a model.

`write(twin, expanded=True)` gives the expanded twin, in the original shapes; `write(twin)` gives the small model,
whose weights are slices of the twin's. Its shapes, and what states them, are the business of reshaping.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_condense.arrays import Array, Floats
from onnx_condense.merging.paths import by_channel, from_channels
from onnx_condense.merging.twin import Twin
from onnx_condense.model.storage import Quantized
from onnx_condense.model.surgeon import export_graph
from onnx_condense.operators.actions import Elementwise, Operation, Role
from onnx_condense.rewriting.kept import Disagreement, Enlarged, Kept
from onnx_condense.rewriting.shapes import Reshaping
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Slot


@dataclass(frozen=True)
class Written:
    """A model that was written from a twin.

    traced: the model in the form in which it was traced: copies of bodies in it, operators on integers opened.
    macs: multiply-accumulates of its convolutions, recurrent nodes and matrix products with weights, on the traced
        shapes; those of every body once.
    alive: tensor name -> what of the original's tensor it holds, where it lost something.
    """

    model: onnx.ModelProto
    traced: onnx.ModelProto
    macs: int
    alive: Mapping[str, Kept]


def write(twin: Twin, provenance: Mapping[str, Any], expanded: bool = False) -> Written:
    """The model that a twin describes. Raises Disagreement where the small model has no shape."""
    return _Writer(twin, expanded).write(provenance)


def count_macs(twin: Twin) -> int:
    """Multiply-accumulates of the original model, as in `Written.macs`."""
    return _Writer(twin, expanded=True).macs()


def check_shapes(twin: Twin) -> None:
    """Raises Disagreement where `write` would."""
    _check_tied(twin)
    writer = _Writer(twin, False)
    writer.check_scales()
    writer.move()


def check_size(twin: Twin) -> None:
    """Raises Enlarged where weights that the file only describes (ConstantOfShape) would make it larger."""
    facts = twin.trace.facts
    described = {(s.node, s.input) for s in twin.trace.slots if facts.is_generated(_name(twin, s))}
    if not described:
        return
    writer = _Writer(twin, False)
    excess = writer.write({}).traced.ByteSize() - facts.model.ByteSize()
    written = {key: v.nbytes for key, v in writer.values.items() if key in described and not _is_uniform(v)}
    largest = sorted(written, key=lambda key: (-written[key], key))
    ends = np.cumsum([written[key] for key in largest])
    chosen = set(largest[: int(np.searchsorted(ends, excess)) + 1]) if excess > 0 else set()
    slots = [s for s in twin.trace.slots if (s.node, s.input) in chosen]
    if slots:
        atoms = np.concatenate([atoms_of(s.labels).reshape(-1) for s in slots])
        others = f" and {len(chosen) - 1} others" if len(chosen) > 1 else ""
        raise Enlarged(np.unique(twin.trace.unit_of[atoms[atoms >= 0]]), _name(twin, slots[0]) + others)


def _name(twin: Twin, slot: Slot) -> str:
    name: str = twin.trace.facts.nodes[slot.node].inputs[slot.input].name
    return name


def _is_uniform(value: Array) -> bool:
    return bool((value == value.reshape(-1)[:1]).all())


def _check_tied(twin: Twin) -> None:
    """Raises Disagreement where the uses of one weight want different columns after merging."""
    first: dict[str, Array] = {}
    for slot in twin.trace.slots:
        if slot.role is not Role.CONTRACTED:
            continue
        name = _name(twin, slot)
        value = twin.weight(slot.node, slot.input)
        if not np.array_equal(first.setdefault(name, value), value):
            atoms = atoms_of(slot.labels)
            raise Disagreement(np.unique(twin.trace.unit_of[atoms[atoms >= 0]]), name)


def _alive_of(value: Array, slot: Slot, kept: Kept) -> Array:
    """What is alive of a weight, or of numbers that are broadcast with it."""
    value = value.reshape((1,) * (slot.labels.ndim - value.ndim) + value.shape)
    if kept.line is None:
        return kept.of(np.broadcast_to(value, np.broadcast_shapes(value.shape, kept.mask.shape)))
    if slot.groups > 1 and slot.axes == (1,):
        if value.shape[1] == 1:
            return value
        slices = by_channel(value, slot.axes, slot.groups)[kept.line]
        return from_channels(slices, slot.axes, value.shape, slot.groups)
    return kept.of(value) if value.shape[kept.axis] > 1 else value


class _Writer(Reshaping):
    """described: new shapes of the constants that the file describes rather than holds."""

    def __init__(self, twin: Twin, expanded: bool) -> None:
        super().__init__(twin, expanded)
        self.described: dict[str, tuple[int, ...]] = {}

    def check_scales(self) -> None:
        """Raises Disagreement where integers of one scale would lose different channels."""
        for slot in self.trace.slots:
            name = _name(self.twin, slot)
            stored = self.facts.stored(name)
            if not isinstance(stored, Quantized) or stored.axis is None:
                continue
            kept = self._kept(slot.labels, name)
            grouped = slot.groups > 1 and slot.axes == (1,) and stored.axis == 1
            if kept is not None and (kept.line is None or grouped):
                raise Disagreement(np.unique(self.trace.unit_of[atoms_of(slot.labels)]), name)

    def write(self, provenance: Mapping[str, Any]) -> Written:
        origin = {id(node): index for index, node in enumerate(self.nodes)}
        for (index, position), value in self.twin.folded.items():
            self.values[index, position] = value
        for index, shift in self.twin.shift.items():
            self._shift(index, shift)
        for slot in self.trace.slots:
            self._slice(slot)
        self._insert_values(self._stored())
        self._write_down()
        self.move()
        macs = self.macs()
        shapes = self._changed() | self.described
        traced = export_graph(self.graph, self.facts.model, origin, self.edited, shapes, provenance)
        kept = {name: self._kept(self.trace.labels[name], name) for name in self._changed()}
        alive = {name: of for name, of in kept.items() if of is not None}
        return Written(self.trace.leave(traced, self.facts.model), traced, macs, alive)

    def macs(self) -> int:
        """Output elements times the weights that each of them multiplies."""
        total = 0
        for index, action in self.trace.actions.items():
            node = self.facts.nodes[index]
            for position in action.weights:
                inputs = [self._shape(tensor) if tensor.name else () for tensor in node.inputs]
                output = next(self.shapes[tensor.name] for tensor in node.outputs if tensor.name)
                times = action.multiplications(position, inputs, output)
                total += times * self._value(index, position).size
        return total

    def _value(self, index: int, position: int) -> Array:
        return self.values.get((index, position), self.twin.weight(index, position))

    def _slice(self, slot: Slot) -> None:
        kept = self._kept(slot.labels, self.facts.nodes[slot.node].inputs[slot.input].name)
        if kept is None:
            return
        place = slot.node, slot.input
        value = _alive_of(self._value(*place), slot, kept)
        self.cuts.setdefault(place, []).append((slot, kept))
        self.values[place] = np.ascontiguousarray(value).reshape(value.shape)

    def _shift(self, index: int, shift: Floats) -> None:
        """Adds constants of removed channels to a consumer's bias, in original shape."""
        action = self.trace.linear_map(index)
        assert action is not None
        kind = self.twin.weight(index, action.weight).dtype
        if action.beta == 0:  # the bias that was there counted for nothing
            self.nodes[index].attrs["beta"] = 1.0
            self._set_bias(index, shift.astype(kind))
        elif action.bias is not None:
            bias = self.twin.wide(index, action.bias) + shift / action.beta
            floats = self.twin.stored(index, action.bias) is None
            self._set_bias(index, bias.astype(self._value(index, action.bias).dtype) if floats else bias)
        elif self.nodes[index].op in ("Conv", "Gemm", "ConvTranspose"):
            self._set_bias(index, (shift / action.beta).astype(kind))
        elif not self._shift_next(index, shift):
            self._insert_add(index, self._produced(index, shift.astype(kind)))

    def _set_bias(self, index: int, value: Array) -> None:
        """A new bias in original shape; where the old one had one number for all, it is sliced here."""
        sliced_later = any(s.node == index and s.input == 2 for s in self.trace.slots)
        while len(self.nodes[index].inputs) < 3:
            self.nodes[index].inputs.append(gs.Variable.empty())
        self.values[index, 2] = value if sliced_later else self._produced(index, value.reshape(-1))

    def _produced(self, index: int, values: Array) -> Array:
        """The part of a vector over a producer's rows that is alive."""
        row = next(
            (s.labels.reshape(-1) for s in self.trace.slots if s.node == index and s.role is Role.PRODUCED), None
        )
        return values if row is None else values[self.alive[self.trace.unit_of[atoms_of(row)]]]

    def _shift_next(self, index: int, shift: Floats) -> bool:
        """MatMul has no bias: uses the constant of the Add that follows, where only that reads the product."""
        name = self.facts.nodes[index].outputs[0].name
        uses = self.facts.consumers(name)
        outputs = {t.name for t in self.facts.graph.outputs}
        if len(uses) != 1 or name in outputs or self.trace.actions.get(uses[0][0]) != Elementwise(Operation.ADD):
            return False
        following, position = uses[0][0], 1 - uses[0][1]
        tensors = self.facts.nodes[following].inputs
        if len(tensors) != 2 or tensors[position].name not in self.facts.static:
            return False
        if isinstance(self.twin.stored(following, position), Quantized):
            return False
        value = self._value(following, position)
        if not value.ndim or value.shape[-1] != len(shift) or self._produced_axis_is_last(index) is False:
            return False
        self.values[following, position] = (value.astype(np.float64) + shift).astype(value.dtype)
        return True

    def _produced_axis_is_last(self, index: int) -> bool:
        action = self.trace.linear_map(index)
        assert action is not None
        return action.output_axes[-1] in action.weight_axes

    def _insert_add(self, index: int, shift: Array) -> None:
        node = self.nodes[index]
        output = node.outputs[0]
        action = self.trace.linear_map(index)
        assert action is not None
        shift = shift.reshape(-1, *[1] * (len(action.output_axes) - 1 - action.output_axes.index(action.outer)))
        inner = gs.Variable(self._fresh(f"{output.name}_unbiased"), dtype=output.dtype)
        node.outputs = [inner]
        bias = gs.Constant(self._fresh(f"{output.name}_bias"), shift)
        added = gs.Node("Add", name=f"{node.name or output.name}_bias", inputs=[inner, bias], outputs=[output])
        self.graph.nodes.insert(next(i for i, n in enumerate(self.graph.nodes) if n is node) + 1, added)
        self.edited.add(id(node))

    def _stored(self) -> dict[tuple[int, int], Array]:
        """Where the new values go: what is stored as integers or narrower floats stays that, before the same node."""
        found: dict[tuple[int, int], Array] = {}
        for (index, position), value in self.values.items():
            inputs = self.facts.nodes[index].inputs
            stored = self.facts.stored(inputs[position].name) if position < len(inputs) else None
            if stored is None:
                found[index, position] = value
                continue
            for slot, kept in self.cuts.get((index, position), ()):
                stored = stored.sliced(partial(_alive_of, slot=slot, kept=kept))
            found |= stored.inputs(value)
        return found

    def _insert_values(self, values: Mapping[tuple[int, int], Array]) -> None:
        """Puts new values into the graph; a weight that others read as it was gets a private copy."""
        by_name: dict[str, list[tuple[int, int]]] = {}
        for index, position in sorted(values):
            by_name.setdefault(self.nodes[index].inputs[position].name, []).append((index, position))
        for name, places in by_name.items():
            uses = set(self.facts.consumers(name))
            alone = uses == set(places) and name not in self.facts.read_outside
            whole = alone and bool(name) and name in self.facts.initializers
            made: list[tuple[Array, gs.Tensor]] = []
            described = self.facts.is_generated(name) and self.facts.opset >= 9
            for index, position in places:
                value = values[index, position]
                constant = next((c for v, c in made if v.shape == value.shape and np.array_equal(v, value)), None)
                if constant is None and described and _is_uniform(value):
                    constant = self._filled(name, value, alone and not made)
                    made.append((value, constant))
                elif constant is None:
                    stem = name or f"{self.nodes[index].outputs[0].name}_bias"
                    constant = gs.Constant(name if whole and not made else self._fresh(f"{stem}_condensed"), value)
                    made.append((value, constant))
                self.nodes[index].inputs[position] = constant
                self.edited.add(id(self.nodes[index]))

    def _filled(self, name: str, value: Array, alone: bool) -> gs.Tensor:
        """A constant of one number that the file goes on describing; `alone`: nothing else reads the old one."""
        number, shape = gs.Constant("", value.reshape(-1)[:1]), np.array(value.shape, dtype=np.int64)
        maker = next(n for n in self.nodes if any(t.name == name for t in n.outputs))
        if alone and maker.op == "ConstantOfShape":
            stated = maker.inputs[0].name
            mine = stated in self.facts.initializers and len(self.facts.consumers(stated)) == 1
            maker.inputs[0] = gs.Constant(stated if mine else self._fresh(f"{stated}_condensed"), shape)
            maker.attrs["value"] = number
            self.edited.add(id(maker))
            self.described[name] = tuple(value.shape)
            return maker.outputs[0]
        stem = self._fresh(f"{name}_condensed")
        made = gs.Variable(stem, dtype=value.dtype)
        given = gs.Constant(self._fresh(f"{stem}_shape"), shape)
        self.graph.nodes.insert(0, gs.Node("ConstantOfShape", attrs={"value": number}, inputs=[given], outputs=[made]))
        return made

    def _write_down(self) -> None:
        """Constants that are computed from a weight that changed keep their value, and let the old weight go."""
        originals = [(self.facts.nodes[i].inputs, p) for i, p in self.values]
        changed = {inputs[p].name for inputs, p in originals if p < len(inputs)}
        for index in self.trace.actions:
            for position, tensor in enumerate(self.facts.nodes[index].inputs):
                if tensor.name not in self.facts.static or tensor.name in self.facts.initializers:
                    continue
                untouched = self.nodes[index].inputs[position].name == tensor.name
                value = self.facts.value(tensor)
                if untouched and value is not None and self.facts.upstream(tensor.name) & changed:
                    self._set_input(index, position, value)
