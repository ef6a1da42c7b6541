"""The tracer: one forward pass from a graph to dependency groups.

Producers make atoms, data movement carries them, elementwise operators unite them, consumers contract them, and
whatever is not understood pins them. Every weight that the pass meets becomes a `Slot`: which atoms lie along its axes,
and in which role. That is all that similarity, merging and rewriting need; none of them knows an operator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_graphsurgeon as gs

from onnx_condense import movers
from onnx_condense.actions import (
    Action,
    Activation,
    Chosen,
    Contraction,
    Elementwise,
    Filter,
    Kind,
    Move,
    Normalization,
    Reader,
    Refused,
    Window,
)
from onnx_condense.channels import ONE_CHANNEL, Refusal, Role, Slot, Trace, dependency_groups, layer_name
from onnx_condense.facts import SHAPE_OPS, Facts
from onnx_condense.labels import UnionFind, aligned, atoms_of, occurrence, pack, signals_of, varying
from onnx_condense.movers import Labels
from onnx_condense.operator_rows import INTEGER_TYPES
from onnx_condense.operators import read
from onnx_condense.runtime import Array
from onnx_condense.signals import (
    Activated,
    Affine,
    Centred,
    Combined,
    Filtered,
    Floats,
    Ints,
    Mapped,
    Modulated,
    Pooled,
    Restricted,
    Rows,
    Shared,
    Signal,
)

MOST_OCCURRENCES = 64
"""How many places of one tensor may hold the same atom with different constants (as after Flatten)."""

Interval = tuple[float, float]
ANYTHING: Interval = (-np.inf, np.inf)


def trace(facts: Facts) -> Trace:
    """Finds the dependency groups of a graph."""
    return _Tracer(facts).run()


@dataclass(eq=False)
class _Tracer:
    facts: Facts
    sets: UnionFind = field(default_factory=UnionFind)
    labels: dict[str, Labels] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    signals: list[Signal] = field(default_factory=list)
    pins: list[tuple[Ints, str]] = field(default_factory=list)
    producers: list[tuple[int, Ints]] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    actions: dict[int, Action] = field(default_factory=dict)
    tied_reads: dict[str, Labels | None] = field(default_factory=dict)
    tied_atoms: dict[str, Ints] = field(default_factory=dict)

    def run(self) -> Trace:
        fixed = self.facts.static | self.facts.derived
        self.shared_weights = self._shared_weights()
        for index, node in enumerate(self.facts.nodes):
            if all(t.name in fixed for t in node.outputs if t.name):
                continue
            self.index, self.node = index, node
            action = read(node, self.facts)
            self.actions[index] = action
            self._visit(action)
        for tensor in self.facts.graph.outputs:
            self._pin_tensor(tensor.name, "is an output of the model")
            for name in self.facts.measured(tensor.name):
                self._pin_tensor(name, "has a shape that is an output of the model")
        for name in self.facts.captured():
            self._pin_tensor(name, "is read inside an If, Loop or Scan body")
        return self._finish()

    # ---- one node

    def _visit(self, action: Action) -> None:
        """Applies an action. Labels that it neither passes on, contracts nor pins are pinned: none is lost unseen."""
        known = len(self.labels), len(self.slots), len(self.pins)
        self._apply(action)
        if known == (len(self.labels), len(self.slots), len(self.pins)):
            for tensor in self.node.inputs:
                self._pin_tensor(tensor.name, f"is read by {self._me()} in a way that is not understood")

    def _apply(self, action: Action) -> None:
        self._interval(action)
        match action:
            case Contraction():
                self._contraction(action)
            case Reader():
                self._reader(action)
            case Filter():
                self._filter(action)
            case Normalization():
                self._normalization(action)
            case Activation():
                self._activation(action)
            case Elementwise():
                self._elementwise(action)
            case Window():
                self._window(action)
            case Chosen():
                self._chosen()
            case Move():
                self._move(action)
            case Refused(reason):
                self._refuse(reason)

    def _refuse(self, reason: str) -> None:
        """Pins whatever the node reads."""
        for tensor in self.node.inputs:
            self._pin_tensor(tensor.name, f"is read by {self._me()}, which {reason}")
        sizes = [self.facts.value(t) for t in self.node.inputs if t.name in self.facts.static]
        parameters = sum(v.size for v in sizes if v is not None and v.ndim > 1 and v.dtype.kind == "f")
        if parameters:
            self.refused.append(Refusal(self._layer(), reason, parameters))

    def _contraction(self, action: Contraction) -> None:
        weight = self.node.inputs[action.weight]
        if not all(np.isfinite(v).all() for v in self._parameters()):
            return self._refuse("has weights that are not finite")
        if self.facts.is_generated(weight.name):
            return self._refuse("has weights that are computed from a shape, which slicing would have to write out")
        if weight.name in self.shared_weights and not self._tied_alike(weight.name):
            return self._refuse("uses its weight for something else too")
        if action.lookup:
            self._pin_tensor(self.node.inputs[action.data].name, f"is read by {self._me()} as row numbers")
            return self._produce(action)
        windows = [i for i, letter in enumerate(action.data_axes) if letter == "*"]
        labels = self._uniform(self.labels.get(self.node.inputs[action.data].name), windows)
        axis = action.data_axes.index(action.inner)
        if labels is not None and axis not in varying(labels):
            self._tie(weight.name, None)
            return self._pass_through(action, labels, axis)
        if labels is not None and varying(labels) != (axis,):
            self._pin(labels, f"varies along two axes at {self._me()}")
            labels = None
        row = None if labels is None else labels.reshape(-1)
        if self._tie(weight.name, row) and row is not None:
            rank, contracted = len(action.weight_axes), action.weight_axes.index(action.inner)
            self._add_slot(action.weight, "contracted", row, rank, contracted, action.padded)
        self._produce(action)

    def _tied_alike(self, name: str) -> bool:
        """Whether every reader of a shared weight is the same linear map of its data."""
        readers = [(self.facts.nodes[i], position) for i, position in self.facts.consumers(name)]
        actions = {(read(node, self.facts), position) for node, position in readers if node.op not in SHAPE_OPS}
        forms = {a.weight_axes if isinstance(a, Contraction) and a.weight == p else None for a, p in actions}
        return len(forms) == 1 and None not in forms

    def _tie(self, name: str, row: Labels | None) -> bool:
        """A weight with several uses reads the same channels in each of them, or they all stay; False if they must."""
        if name not in self.shared_weights:
            return True
        reason = f"is read by {self._me()}, whose weight also reads something else"
        first = self.tied_reads.setdefault(name, row)
        if first is None or row is None:
            self._pin(first, reason)
            self._pin(row, reason)
            return first is None and row is None
        both = (first >= 0) & (row >= 0)
        self._pin(first[~both], reason)
        self._pin(row[~both], reason)
        self.sets.unite(atoms_of(first[both]), atoms_of(row[both]))
        return True

    def _pass_through(self, action: Contraction, labels: Labels, axis: int) -> None:
        """Channels on an axis that the weight does not contract are carried to the output."""
        kept = [letter for letter in action.output_axes if letter in action.data_axes and letter != action.inner]
        moved = labels.transpose([*(action.data_axes.index(letter) for letter in kept), axis])
        shape = iter(moved.shape)
        moved = moved.reshape([next(shape) if letter in kept else 1 for letter in action.output_axes])
        biased = action.bias is not None
        self._emit(self._mapped(moved, lambda child: Mapped(child, biased)))

    def _produce(self, action: Contraction) -> None:
        """The output's channels become atoms; a weight with several uses makes the same ones in each."""
        weight = self.node.inputs[action.weight]
        value = self.facts.value(weight)
        assert value is not None
        axis = action.weight_axes.index(action.outer)
        count = value.shape[axis]
        if count < 2:
            self.refused.append(Refusal(self._layer(), ONE_CHANNEL, value.size))
            return
        atoms = self.tied_atoms[weight.name] if weight.name in self.tied_atoms else self.sets.grow(count)
        if weight.name in self.shared_weights:
            self.tied_atoms[weight.name] = atoms
        self.producers.append((self.index, atoms))
        low, high = (0.0, 1.0) if action.lookup else self.intervals.get(self.node.inputs[action.data].name, ANYTHING)
        bounds = (min(low, 0.0), max(high, 0.0)) if action.padded else (low, high)
        row = pack(atoms, self._signal(Rows(self.index, atoms, *bounds)))
        self._add_slot(action.weight, "produced", row, value.ndim, axis)
        if action.bias is not None:
            bias = self.facts.value(self.node.inputs[action.bias])
            if bias is not None and bias.ndim and bias.shape[-1] == count:
                self._add_slot(action.bias, "carried", row, bias.ndim, bias.ndim - 1)
        self._emit(row.reshape([count if letter == action.outer else 1 for letter in action.output_axes]))

    def _reader(self, action: Reader) -> None:
        if not all(np.isfinite(v).all() for v in self._parameters()):
            return self._refuse("has weights that are not finite")
        weights = [v for v in self._parameters() if v.ndim > 2]
        self.refused.append(Refusal(self._layer(), action.reason, sum(v.size for v in weights)))
        labels = self.labels.get(self.node.inputs[action.data].name)
        for position, tensor in enumerate(self.node.inputs):
            if position != action.data:
                self._pin_tensor(tensor.name, f"is read by {self._me()}, which {action.reason}")
        if labels is None:
            return
        if varying(labels) != (action.data_axis,):
            return self._pin(labels, f"varies along another axis at {self._me()}")
        weight = self.node.inputs[action.weight].name
        if weight in self.shared_weights:
            return self._pin(labels, f"is read by {self._me()}, whose weight also reads something else")
        rank = len(self._shape(self.node.inputs[action.weight]))
        self._add_slot(action.weight, "contracted", labels.reshape(-1), rank, action.weight_axis, padded=True)

    def _filter(self, action: Filter) -> None:
        labels = self._uniform(
            self.labels.get(self.node.inputs[0].name), range(2, len(self.facts.shapes[self.node.outputs[0].name]))
        )
        if labels is None:
            return
        if varying(labels) != (1,):
            return self._pin(labels, f"varies along another axis at {self._me()}")
        row = labels.reshape(-1)
        atoms, sources = atoms_of(row), signals_of(row)
        result = np.full((len(row), action.multiplier), -1, dtype=np.int64)
        rank = occurrence(row)
        for key in np.unique(np.stack([sources, rank]), axis=1).T:
            mask = (sources == key[0]) & (rank == key[1]) & (atoms >= 0)
            if not mask.any():
                continue
            channels = np.flatnonzero(mask)
            for which in range(action.multiplier):
                signal = Filtered(
                    self.signals[key[0]], self.index, atoms[mask], channels * action.multiplier + which, action.padded
                )
                result[mask, which] = pack(atoms[mask], self._signal(signal))
        self._emit(result.reshape(1, -1, *[1] * (labels.ndim - 2)))
        for position in (1, 2):
            if position < len(self.node.inputs) and self.node.inputs[position].name:
                weight = self.facts.value(self.node.inputs[position])
                assert weight is not None
                self._add_slot(position, "carried", np.repeat(row, action.multiplier), weight.ndim, 0)

    def _normalization(self, action: Normalization) -> None:
        tensor = self.node.inputs[0]
        labels = self._uniform(self.labels.get(tensor.name), range(2, len(self._shape(tensor))))
        if labels is None:
            return
        positions = [i for i in (action.scale, action.shift, action.mean, action.var) if i is not None]
        if varying(labels) != (1,):
            along = "is normalized together with other channels" if action.mean is None else "varies along another axis"
            return self._pin(labels, f"{along} at {self._me()}")
        scale, shift, *statistics = (
            np.asarray(self.facts.value(self.node.inputs[i]), dtype=np.float64)[:, None] for i in positions
        )
        mean, var = statistics or (np.zeros_like(scale), None)
        if var is None:
            labels = self._mapped(labels, Centred)
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = scale if var is None else scale / np.sqrt(var + action.epsilon)
        if not np.isfinite(slope).all() or not np.isfinite(shift - mean * slope).all():
            return self._refuse("has parameters that are not finite")
        row = labels.reshape(-1)
        affine = self._affine(row, slope, shift - mean * slope, np.abs(shift) + np.abs(mean * slope))
        if affine is None:
            return self._pin(labels, f"repeats too often at {self._me()}")
        self._emit(affine.reshape(labels.shape))
        for position in positions:
            self._add_slot(position, "carried", row, 1, 0)

    def _activation(self, action: Activation) -> None:
        labels = self.labels.get(self.node.inputs[0].name)
        if labels is None:
            return
        if set(action.uniform_axes) & set(varying(labels)):
            return self._pin(labels, f"is read by {self._me()}, which {action.across}")
        if action.slope is None:
            function = self._function(self.index)
            keep = action.kind is Kind.LINEAR
            self._emit(labels if keep else self._mapped(labels, lambda child: Activated(child, action, function)))
            return
        slopes = self.facts.value(self.node.inputs[action.slope])
        assert slopes is not None
        split = self._per_position(labels, slopes)
        if split is None:
            return self._pin(labels, f"repeats too often at {self._me()}")
        values, function = split, self._function(self.index)

        def make(child: Signal, atoms: Ints, places: Ints) -> Signal:
            return Activated(child, action, function, atoms, values[places].mean(1))

        emitted = self._split_signals(labels.reshape(-1), values, make)
        if emitted is None or values.shape[1] > 1:
            return self._pin(labels, f"has slopes that vary in space at {self._me()}")
        self._emit(emitted.reshape(labels.shape))
        self._carry(action.slope, labels, slopes)

    def _window(self, action: Window) -> None:
        labels = self.labels.get(self.node.inputs[0].name)
        if labels is None:
            return
        if action.across and set(action.axes) >= set(varying(labels)):
            return self._pin(labels, f"is read by {self._me()}, which {action.across}")
        uniform = self._uniform(labels, action.axes)
        if uniform is None:
            return
        if action.before is not None:
            before = action.before
            function = _zero_stays if before.kind is Kind.ABSOLUTE else _unknown
            uniform = self._mapped(uniform, lambda child: Activated(child, before, function))
        result = self._mapped(uniform, lambda child: Pooled(child, action.linear, action.padded, action.scale_free))
        if action.dropped:
            result = result.reshape([n for axis, n in enumerate(result.shape) if axis not in action.axes])
        self._emit(result)

    def _move(self, action: Move) -> None:
        inputs = [self.labels.get(t.name) for t in self.node.inputs]
        if not any(labels is not None for labels in inputs):
            return
        if action.name in ("depth_to_space", "space_to_depth"):
            return self._blocks(action, inputs[0])
        try:
            if action.name == "concat":
                shapes = [self._shape(t) for t in self.node.inputs]
                parts = [np.full([1] * len(s), -1) if x is None else x for x, s in zip(inputs, shapes, strict=True)]
                self._emit(movers.concat(parts, shapes, action.parameters["axis"]))
                return
            labels = inputs[0]
            if labels is None:
                return self._refuse("moves data by amounts that are computed from data")
            results = movers.apply(action.name, action.parameters, labels, self._shape(self.node.inputs[0]))
        except ValueError as error:
            return self._refuse(str(error))
        for tensor, result in zip(self.node.outputs, results, strict=True):
            self._emit(result, tensor.name)

    def _blocks(self, action: Move, labels: Labels | None) -> None:
        """Places that a block of channels becomes are united; places that become a block repeat their channel."""
        labels = self._uniform(labels, (2, 3))
        if labels is None:
            return
        (moved,) = movers.apply(action.name, action.parameters, labels, self._shape(self.node.inputs[0]))
        if action.name == "depth_to_space":
            united = self._uniform(moved, (1,))
            if united is None:
                return
            moved = united[:, 0]
        self._emit(moved)

    # ---- elementwise operators between tensors

    def _elementwise(self, action: Elementwise) -> None:
        tensors = self.node.inputs
        if action.operation != "compare" and self.facts.types.get(tensors[0].name) in INTEGER_TYPES:
            return self._refuse("computes with integers")
        shape = self._shape(self.node.outputs[0])
        names = [t.name for t in tensors]
        if len(names) == 1:
            return self._single(action.operation, self.labels.get(names[0]))
        left = self._operand(tensors[0], len(shape))
        for tensor in tensors[1:]:
            right = self._operand(tensor, len(shape))
            left = self._pair(action.operation, left, right, shape)
        if left.labels is not None:
            self._emit(left.labels)

    def _chosen(self) -> None:
        """Where: a channel's relation must hold for the condition and for both choices."""
        shape = self._shape(self.node.outputs[0])
        condition, left, right = (self._operand(t, len(shape)) for t in self.node.inputs)
        choices = self._pair("choose", left, right, shape)
        result = self._pair("where", condition, choices, shape)
        if result.labels is not None:
            self._emit(result.labels)

    def _single(self, operation: str, labels: Labels | None) -> None:
        """Neg, or a Sum, Max or Min of one tensor."""
        if labels is not None and operation == "neg":
            row = labels.reshape(-1)
            minus, zero = np.full((len(row), 1), -1.0), np.zeros((len(row), 1))
            affine = self._affine(row, minus, zero, zero)
            assert affine is not None
            labels = affine.reshape(labels.shape)
        if labels is not None:
            self._emit(labels)

    def _operand(self, tensor: gs.Tensor, rank: int) -> _Operand:
        labels = self.labels.get(tensor.name)
        shape = self._shape(tensor)
        value = self.facts.value(tensor) if tensor.name in self.facts.static else None
        position = next(i for i, t in enumerate(self.node.inputs) if t is tensor)
        full = (1,) * (rank - len(shape)) + shape
        return _Operand(None if labels is None else aligned(labels, rank), full, value, position)

    def _pair(self, operation: str, left: _Operand, right: _Operand, shape: movers.Shape) -> _Operand:
        whole = np.broadcast_shapes(left.shape, right.shape)
        if left.labels is not None and right.labels is not None:
            return _Operand(self._unite(operation, left, right), whole, None, -1)
        if left.labels is None and right.labels is None:
            return _Operand(None, whole, None, -1)
        one, other = (left, right) if left.labels is not None else (right, left)
        assert one.labels is not None
        if other.value is not None:
            return _Operand(self._with_constant(operation, one.labels, other, swapped=one is right), whole, None, -1)
        if any(other.shape[axis] > 1 for axis in varying(one.labels)):
            self._pin(one.labels, f"meets a tensor at {self._me()} whose channels cannot be removed")
            return _Operand(None, whole, None, -1)
        return _Operand(self._with_shared(operation, one.labels, swapped=one is right), whole, None, -1)

    def _unite(self, operation: str, left: _Operand, right: _Operand) -> Labels | None:
        assert left.labels is not None and right.labels is not None
        if varying(left.labels) != varying(right.labels):
            for operand in (left, right):
                self._pin(operand.labels, f"meets a tensor at {self._me()} that varies along other axes")
            return None
        a, b = left.labels.reshape(-1), right.labels.reshape(-1)
        x, y = atoms_of(a), atoms_of(b)
        both = (x >= 0) & (y >= 0)
        lonely = f"meets a tensor at {self._me()} whose channels cannot be removed"
        self._pin(a[~both], lonely)
        self._pin(b[~both], lonely)
        self.sets.unite(x[both], y[both])
        result = np.full(len(a), -1, dtype=np.int64)
        pairs = np.stack([signals_of(a), signals_of(b)])
        for key in np.unique(pairs[:, both], axis=1).T:
            mask = both & (pairs == key[:, None]).all(0)
            one, other = self.signals[key[0]], self.signals[key[1]]
            if not np.array_equal(x[mask], y[mask]):
                one, other = Restricted(one, x[mask]), Restricted(other, y[mask])
            result[mask] = pack(x[mask], self._signal(Combined(operation, one, other)))
        return result.reshape(left.labels.shape)

    def _with_shared(self, operation: str, labels: Labels, swapped: bool) -> Labels:
        """The other operand is data, and the same for every channel."""
        if operation == "mul" or (operation == "div" and not swapped):
            return self._mapped(labels, Modulated)
        shared = Shared()

        def make(child: Signal) -> Signal:
            return Combined(operation, shared, child) if swapped else Combined(operation, child, shared)

        return self._mapped(labels, make)

    def _with_constant(self, operation: str, labels: Labels, other: _Operand, swapped: bool) -> Labels | None:
        assert other.value is not None
        value = np.asarray(other.value, dtype=np.float64)
        value = value.reshape((1,) * (labels.ndim - value.ndim) + value.shape)
        uniform = all(value.shape[axis] == 1 for axis in varying(labels))
        if operation in ("max", "min", "choose", "where", "compare") or (operation == "div" and swapped):
            if not uniform or value.size > 1:
                self._pin(labels, f"is read by {self._me()}, which compares or divides by channel")
                return None
            number = float(value.reshape(-1)[0])
            if operation == "choose" and number == 0:
                return self._mapped(labels, Modulated)
            action = self._comparison(operation, number)
            alone = sum(t.name not in self.facts.static for t in self.node.inputs) == 1
            function = self._function(self.index) if alone else _unknown
            return self._mapped(labels, lambda child: Activated(child, action, function))
        with np.errstate(divide="ignore", invalid="ignore"):
            scale, shift = {
                "add": (np.ones_like(value), value),
                "sub": (-np.ones_like(value), value) if swapped else (np.ones_like(value), -value),
                "mul": (value, np.zeros_like(value)),
                "div": (1 / value, np.zeros_like(value)),
            }[operation]
        scales, shifts = self._per_position(labels, scale), self._per_position(labels, shift)
        if not (np.isfinite(scales).all() and np.isfinite(shifts).all()):
            self._pin(labels, f"meets a constant at {self._me()} that is not finite")
            return None
        affine = self._affine(labels.reshape(-1), scales, shifts, np.abs(shifts))
        if affine is None:
            self._pin(labels, f"repeats too often at {self._me()}")
            return None
        self._carry(other.position, labels, other.value)
        return affine.reshape(labels.shape)

    @staticmethod
    def _comparison(operation: str, value: float) -> Activation:
        if operation not in ("max", "min"):
            return Activation(Kind.BOUNDED)
        kind = Kind.HOMOGENEOUS if value == 0 else Kind.UNBOUNDED
        flat = (value, np.inf) if operation == "max" else (-np.inf, value)
        return Activation(kind, *flat, flat)

    def _carry(self, position: int, labels: Labels, value: Array) -> None:
        """A constant with one parameter per channel: sliced where it varies along a labelled axis."""
        view = labels
        for axis in varying(labels):
            behind = axis - (labels.ndim - value.ndim)
            if behind < 0 or value.shape[behind] == 1:
                view = view.take([0], axis)
        if view.size > 1:
            kept = view.reshape(view.shape[view.ndim - value.ndim :]) if view.ndim > value.ndim else view
            self.slots.append(Slot(self.index, position, "carried", kept))

    # ---- signals

    def _signal(self, signal: Signal) -> int:
        self.signals.append(signal)
        return len(self.signals) - 1

    def _mapped(self, labels: Labels, make: Callable[[Signal], Signal]) -> Labels:
        """Labels with every distinct signal replaced by make(signal)."""
        atoms, sources = atoms_of(labels), signals_of(labels)
        result = np.full(labels.shape, -1, dtype=np.int64)
        for key in np.unique(sources[atoms >= 0]):
            mask = (sources == key) & (atoms >= 0)
            result[mask] = pack(atoms[mask], self._signal(make(self.signals[key])))
        return result

    def _per_position(self, labels: Labels, value: Array) -> Floats:
        """[places, q]: the part of a broadcast constant that meets each labelled place."""
        value = np.asarray(value, dtype=np.float64)
        value = value.reshape((1,) * (labels.ndim - value.ndim) + value.shape)
        axes = varying(labels)
        full = np.broadcast_to(value, [labels.shape[a] if a in axes else n for a, n in enumerate(value.shape)])
        others = [a for a in range(labels.ndim) if a not in axes]
        return full.transpose([*axes, *others]).reshape(labels.size, -1)

    def _affine(self, row: Labels, scale: Floats, shift: Floats, magnitude: Floats) -> Labels | None:
        def make(child: Signal, atoms: Ints, places: Ints) -> Signal:
            return Affine(child, atoms, scale[places], shift[places], magnitude[places])

        return self._split_signals(row, np.hstack([scale, shift]), make)

    def _split_signals(
        self, row: Labels, values: Floats, make: Callable[[Signal, Ints, Ints], Signal]
    ) -> Labels | None:
        """One new signal per distinct one; places of the same atom with different values get signals of their own."""
        atoms, sources, rank = atoms_of(row), signals_of(row), occurrence(row)
        if rank.max(initial=0):
            order = np.lexsort((rank, row))
            first = order[np.flatnonzero(rank[order] == 0)]
            head = first[np.cumsum(rank[order] == 0) - 1]
            if np.array_equal(values[order], values[head]):
                rank = np.zeros_like(rank)
        if rank.max(initial=0) >= MOST_OCCURRENCES:
            return None
        result = np.full(len(row), -1, dtype=np.int64)
        for key in np.unique(np.stack([sources, rank])[:, atoms >= 0], axis=1).T:
            places = np.flatnonzero((sources == key[0]) & (rank == key[1]) & (atoms >= 0))
            result[places] = pack(atoms[places], self._signal(make(self.signals[key[0]], atoms[places], places)))
        return result

    def _function(self, index: int) -> Callable[[Floats], Floats]:
        facts = self.facts

        def evaluate(values: Floats) -> Floats:
            return facts.evaluate(index, values)

        return evaluate

    # ---- small helpers

    def _parameters(self) -> list[Array]:
        """The node's constant inputs that are floats."""
        values = [self.facts.value(t) for t in self.node.inputs if t.name in self.facts.static]
        return [v for v in values if v is not None and v.dtype.kind in "fV"]

    def _me(self) -> str:
        """The node in a reason: by operator, so that reasons group."""
        return f"{'an' if self.node.op[0] in 'AEIO' else 'a'} {self.node.op}"

    def _layer(self) -> str:
        return layer_name(self.node, self.index)

    def _shape(self, tensor: gs.Tensor) -> movers.Shape:
        value = self.facts.value(tensor)
        return tuple(value.shape) if value is not None else self.facts.shapes[tensor.name]

    def _emit(self, labels: Labels, name: str | None = None) -> None:
        labels = movers.compress(labels)
        if (atoms_of(labels) < 0).all():
            return
        if labels.size == 1:
            return self._pin(labels, f"is broadcast as a single channel at {self._me()}")
        self.labels[name or self.node.outputs[0].name] = labels

    def _add_slot(self, position: int, role: Role, row: Labels, rank: int, axis: int, padded: bool = False) -> None:
        shape = [1] * rank
        shape[axis] = len(row)
        self.slots.append(Slot(self.index, position, role, row.reshape(shape), axis, padded))

    def _uniform(self, labels: Labels | None, axes: range | list[int] | tuple[int, ...]) -> Labels | None:
        """Labels with one atom along the axes that a window mixes: those that varied are united."""
        if labels is None:
            return None
        for axis in axes:
            if labels.shape[axis] == 1:
                continue
            first = np.broadcast_to(labels.take([0], axis), labels.shape)
            if not np.array_equal(signals_of(first), signals_of(labels)) or (labels < 0).any():
                self._pin(labels, f"varies in space at {self._me()}")
                return None
            self.sets.unite(atoms_of(first).reshape(-1), atoms_of(labels).reshape(-1))
            labels = labels.take([0], axis)
        return labels

    def _pin(self, labels: Labels | None, reason: str) -> None:
        if labels is None:
            return
        atoms = np.unique(atoms_of(labels))
        atoms = atoms[atoms >= 0]
        if len(atoms):
            self.pins.append((atoms, reason))

    def _pin_tensor(self, name: str, reason: str) -> None:
        self._pin(self.labels.get(name), reason)

    def _shared_weights(self) -> set[str]:
        """Names of matrices and kernels that more than one node input reads."""
        names = set()
        for name in self.facts.static:
            readers = [self.facts.nodes[index] for index, _ in self.facts.consumers(name)]
            if sum(node.op not in SHAPE_OPS for node in readers) > 1:
                value = self.facts.value_by_name(name)
                if value is not None and value.ndim >= 2:
                    names.add(name)
        return names

    def _interval(self, action: Action) -> None:
        """Bounds of every element of the node's outputs, as far as simple facts tell."""
        ends = [self.intervals.get(t.name, self._constant_interval(t)) for t in self.node.inputs if t.name]
        low, high = ends[0] if ends else ANYTHING
        result = ANYTHING
        match action:
            case Activation() if action.slope is None:
                known = action.kind is Kind.LINEAR or action.flat != ANYTHING
                low, high = (low, high) if known else ANYTHING
                result = float(np.clip(low, action.low, action.high)), float(np.clip(high, action.low, action.high))
            case Window() if action.scale_free and action.before is None:
                result = (min(low, 0.0), max(high, 0.0)) if action.padded else (low, high)
            case Move(name="concat"):
                result = min(e[0] for e in ends), max(e[1] for e in ends)
            case Move():
                result = low, high
            case Elementwise("add"):
                result = sum(e[0] for e in ends), sum(e[1] for e in ends)
            case Elementwise("mul") if all(e[0] >= 0 for e in ends):
                result = 0.0, np.inf
        if result != ANYTHING:
            self.intervals.update((t.name, result) for t in self.node.outputs)

    def _constant_interval(self, tensor: gs.Tensor) -> Interval:
        value = self.facts.value(tensor) if tensor.name in self.facts.static else None
        if value is None or value.dtype.kind not in "fiu" or not value.size:
            return ANYTHING
        return float(value.min()), float(value.max())

    # ---- the result

    def _finish(self) -> Trace:
        unit_of = self.sets.roots()
        pinned = {int(unit): reason for atoms, reason in reversed(self.pins) for unit in np.unique(unit_of[atoms])}
        names = {index: layer_name(node, index) for index, node in enumerate(self.facts.nodes)}
        groups, refused = dependency_groups(self.producers, unit_of, pinned, self.slots, self.labels, names)
        traced = Trace(
            self.facts, tuple(groups), (), tuple(self.slots), tuple(self.signals), unit_of, self.labels, self.actions
        )
        refusals = [*self.refused, *(Refusal(names[n], reason, traced.size(n)) for n, reason in refused)]
        return replace(traced, refusals=tuple(refusals))


def _unknown(values: Floats) -> Floats:
    """Stands for a function of several tensors, of which one alone says nothing."""
    return np.full(len(values), np.nan)


def _zero_stays(values: Floats) -> Floats:
    """Stands for a function of several elements, of which only zeros make a zero."""
    return np.where(values == 0, 0.0, np.nan)


@dataclass(frozen=True, eq=False)
class _Operand:
    labels: Labels | None
    shape: movers.Shape
    value: Array | None
    position: int
