"""The tracer: one forward pass from a graph to dependency groups.

Producers make atoms, data movement carries them, elementwise operators unite them, consumers contract them, and
whatever is not understood pins them. Every weight that the pass meets becomes a `Slot`: which atoms lie along its axes,
and in which role. That is all that similarity, merging and rewriting need; none of them knows an operator.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from onnx_condense.algebra.signals import Activated, Centred, Filtered, Mapped, Pooled, Rows, Signal
from onnx_condense.arrays import Floats, Ints, Labels
from onnx_condense.operators.actions import (
    ANYTHING,
    Action,
    Activation,
    Chosen,
    Contraction,
    Elementwise,
    Filter,
    Interval,
    Kind,
    Move,
    Normalization,
    Padding,
    Product,
    Reader,
    Recurrent,
    Refused,
    Role,
    Window,
)
from onnx_condense.operators.facts import Facts
from onnx_condense.operators.moves import Concat, DepthToSpace, SpaceToDepth
from onnx_condense.operators.shapes import SHAPE_OPS
from onnx_condense.operators.table import read
from onnx_condense.tracing.balance import balance
from onnx_condense.tracing.grouping import ONE_CHANNEL, dependency_groups
from onnx_condense.tracing.labels import atoms_of, occurrence, pack, signals_of, varying
from onnx_condense.tracing.recurrent import Recurring
from onnx_condense.tracing.trace import Refusal, Trace, layer_name
from onnx_condense.tracing.walk import unknown


def trace(facts: Facts) -> Trace:
    """Finds the dependency groups of a graph."""
    return _Tracer(facts).run()


class _Tracer(Recurring):
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
            inside = self.facts.is_inside(tensor.name)
            self._pin_tensor(tensor.name, f"is an output of {'an If, Loop or Scan body' if inside else 'the model'}")
            if tensor.name in self.facts.static:
                self.refused.append(Refusal(tensor.name, "is computed from constants alone", 0))
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
            case Product():
                self._product(action)
            case Reader():
                self._reader(action)
            case Recurrent():
                self._recurrent(action)
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
            case Padding():
                self._padding(action)
            case Chosen():
                self._chosen()
            case Move():
                self._move(action)
            case Refused(reason):
                self._refuse(reason)

    def _contraction(self, action: Contraction) -> None:
        weight = self.node.inputs[action.weight]
        if not all(np.isfinite(v).all() for v in self._parameters()):
            return self._refuse("has weights that are not finite")
        if any(v.size == 0 for v in self._parameters()):
            return self._refuse("has weights without numbers")
        if any(t.name == weight.name for t in self.facts.graph.outputs):
            return self._refuse("has weights that are an output of the model")
        if weight.name in self.shared_weights and not self._tied_alike(weight.name):
            return self._refuse("uses its weight for something else too")
        if action.lookup:
            self._pin_tensor(self.node.inputs[action.data].name, f"is read by {self._me()} as row numbers")
            return self._produce(action)
        axis = action.data_axis
        labels = self.labels.get(self.node.inputs[action.data].name)
        contracted = labels is not None and labels.shape[axis] > 1
        mixed = [i for i, letter in enumerate(action.data_axes) if letter == "*" or (contracted and i != axis)]
        labels = self._uniform(labels, mixed)
        if labels is not None and axis not in varying(labels):
            self._tie(weight.name, None)
            return self._pass_through(action, labels, axis)
        row = None if labels is None else labels.reshape(-1)
        if self._tie(weight.name, row) and row is not None:
            rank, contracted = len(action.weight_axes), action.axis(Role.CONTRACTED)
            self._add_slot(action.weight, Role.CONTRACTED, row, rank, contracted, action.padded, action.groups)
        self._produce(action)

    def _tied_alike(self, name: str) -> bool:
        """Whether every reader of a shared weight is the same linear map of its data."""
        readers = [(self.facts.nodes[i], position) for i, position in self.facts.consumers(name)]
        if any(t.name in self.facts.static for node, _ in readers for t in node.outputs):
            return False
        uses = [(read(node, self.facts), position) for node, position in readers if node.op not in SHAPE_OPS]
        linear = {
            (a.linear_map.weight_axes, a.linear_map.groups) if a.linear_map and a.linear_map.weight == p else None
            for a, p in uses
        }
        return len(linear) == 1 and None not in linear

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
        axis = action.axis(Role.PRODUCED)
        count = value.shape[axis] * (action.groups if axis else 1)
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
        self._add_slot(action.weight, Role.PRODUCED, row, value.ndim, axis, groups=action.groups)
        if action.bias is not None:
            bias = self.facts.value(self.node.inputs[action.bias])
            if bias is not None and bias.ndim and bias.shape[-1] == count:
                self._add_slot(action.bias, Role.CARRIED, row, bias.ndim, bias.ndim - 1)
        self._emit(row.reshape([count if letter == action.outer else 1 for letter in action.output_axes]))

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
                self._add_slot(position, Role.CARRIED, np.repeat(row, action.multiplier), weight.ndim, 0)

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
            slope = scale if var is None else action.gain(scale, var)
        if not np.isfinite(slope).all() or not np.isfinite(shift - mean * slope).all():
            return self._refuse("has parameters that are not finite")
        row = labels.reshape(-1)
        affine = self._affine(row, slope, shift - mean * slope, np.abs(shift) + np.abs(mean * slope))
        if affine is None:
            return self._pin(labels, f"repeats too often at {self._me()}")
        self._emit(affine.reshape(labels.shape))
        for position in positions:
            self._add_slot(position, Role.CARRIED, row, 1, 0)

    def _activation(self, action: Activation) -> None:
        labels = self.labels.get(self.node.inputs[0].name)
        if labels is None:
            return
        mixed = [axis for axis in varying(labels) if axis in action.uniform_axes]
        if mixed and len(mixed) == len(varying(labels)):
            return self._pin(labels, f"is read by {self._me()}, which {action.across}")
        labels = self._uniform(labels, mixed)
        if labels is None:
            return
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
        result = self._windowed(action, labels)
        if result is None:
            return
        if action.dropped:
            result = result.reshape([n for axis, n in enumerate(result.shape) if axis not in action.axes])
        self._emit(result)

    def _windowed(self, action: Window, labels: Labels) -> Labels | None:
        """Labels behind a window; None where they are pinned."""
        uniform = self._uniform(labels, action.axes)
        if uniform is None:
            return None
        if action.before is not None:
            before = action.before
            function = _zero_stays if before.kind is Kind.ABSOLUTE else unknown
            uniform = self._mapped(uniform, lambda child: Activated(child, before, function))
        return self._mapped(uniform, lambda child: Pooled(child, action.linear, action.padded, action.scale_free))

    def _padding(self, action: Padding) -> None:
        """Zeros along an axis of channels are channels too, which a branch that they are added to may remove."""
        labels = self.labels.get(self.node.inputs[0].name)
        if labels is None:
            return
        along = [axis for axis in action.window.axes if labels.shape[axis] > 1]
        window = replace(action.window, axes=tuple(a for a in action.window.axes if a not in along))
        padded = self._windowed(window, labels) if window.axes else labels
        if padded is None:
            return
        for axis in along:
            shapes = [[*padded.shape[:axis], n[axis], *padded.shape[axis + 1 :]] for n in (action.before, action.after)]
            before, after = (self._constant_channels(np.zeros((prod(s), 1))).reshape(s) for s in shapes)
            padded = np.concatenate([before, padded, after], axis)
        self._emit(padded)

    def _move(self, action: Move) -> None:
        inputs = [self.labels.get(t.name) for t in self.node.inputs]
        if not any(labels is not None for labels in inputs):
            return
        if isinstance(action, DepthToSpace | SpaceToDepth):
            return self._blocks(action, inputs[0])
        try:
            if isinstance(action, Concat):
                return self._concat(action.axis, inputs)
            labels = inputs[0]
            if labels is None:
                return self._refuse("moves data by amounts that are computed from data")
            source = self.node.inputs[0].name
            numbers = [t.name for t in self.node.inputs[1:] if t.name in self.facts.derived]
            taken = any(labels.shape[axis] > 1 for axis in action.indexed)
            if taken and any(self.facts.follows_inputs(name) for name in numbers):
                return self._refuse("takes channels by numbers that follow the sizes of the inputs")
            resized = [a for a in action.indexed if self.facts.is_resized(source, a)]
            labels = self._uniform(labels, resized)  # which places are taken is another matter at other sizes
            if labels is None:
                return
            self.fixed.append((labels, action.indexed))
            results = action.moved(labels, self._shape(self.node.inputs[0]))
        except ValueError as error:
            return self._refuse(str(error))
        for tensor, result in zip(self.node.outputs, results, strict=True):
            self._emit(result, tensor.name)

    def _blocks(self, action: Move, labels: Labels | None) -> None:
        """Places that a block of channels becomes are united; places that become a block repeat their channel."""
        labels = self._uniform(labels, (2, 3))
        if labels is None:
            return
        (moved,) = action.moved(labels, self._shape(self.node.inputs[0]))
        if isinstance(action, DepthToSpace):
            united = self._uniform(moved, (1,))
            if united is None:
                return
            moved = united[:, 0]
        self._emit(moved)

    # ---- interval facts

    def _interval(self, action: Action) -> None:
        """Bounds of every element of the node's outputs, as far as simple facts tell."""
        ends = [self.intervals.get(t.name, self._constant_interval(t)) for t in self.node.inputs if t.name]
        result = action.image(ends)
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
        tensors = [*self.labels.values(), *(slot.labels for slot in self.slots)]
        balanced = balance(tensors, self.fixed, self.blocks, unit_of)
        groups, refused = dependency_groups(
            self.producers, unit_of, pinned, self.slots, self.labels, names, balanced.partitions
        )
        traced = Trace(
            self.facts,
            tuple(groups),
            (),
            tuple(self.slots),
            tuple(self.signals),
            unit_of,
            self.labels,
            self.actions,
            balanced,
        )
        refusals = [*self.refused, *(Refusal(names[n], reason, traced.size(n)) for n, reason in refused)]
        return replace(traced, refusals=tuple(refusals))


def _zero_stays(values: Floats) -> Floats:
    """Stands for a function of several elements, of which only zeros make a zero."""
    return np.where(values == 0, 0.0, np.nan)
