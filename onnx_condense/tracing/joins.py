"""Elementwise operators between tensors: branches that must keep the same channels, and constants that follow them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnx_condense.algebra.operations import OPERATIONS
from onnx_condense.algebra.signals import Affine, Combined, Mapped, Modulated, Restricted, Shared, Signal
from onnx_condense.arrays import Array, Floats, Labels, Shape
from onnx_condense.operators import moves
from onnx_condense.operators.actions import Elementwise, Operation, Product, Role
from onnx_condense.operators.view import INTEGER_TYPES
from onnx_condense.tracing.labels import aligned, atoms_of, pack, signals_of, varying
from onnx_condense.tracing.trace import Slot
from onnx_condense.tracing.walk import Ledger, unknown


@dataclass(frozen=True, eq=False)
class Operand:
    labels: Labels | None
    shape: Shape
    value: Array | None
    position: int


class Joining(Ledger):
    """The part of the tracer that brings tensors together."""

    def _elementwise(self, action: Elementwise) -> None:
        tensors = self.node.inputs
        if action.operation != Operation.COMPARE and self.facts.types.get(tensors[0].name) in INTEGER_TYPES:
            return self._refuse("computes with integers")
        shape = self._shape(self.node.outputs[0])
        names = [t.name for t in tensors]
        if len(names) == 1:
            return self._single(action.operation, self.labels.get(names[0]))
        left = self._operand(0, len(shape))
        for position in range(1, len(tensors)):
            right = self._operand(position, len(shape))
            left = self._pair(action.operation, left, right)
        if left.labels is not None:
            self._emit(left.labels)

    def _chosen(self) -> None:
        """Where: a channel's relation must hold for the condition and for both choices."""
        shape = self._shape(self.node.outputs[0])
        condition, left, right = (self._operand(i, len(shape)) for i in range(3))
        choices = self._pair(Operation.CHOOSE, left, right)
        result = self._pair(Operation.WHERE, condition, choices)
        if result.labels is not None:
            self._emit(result.labels)

    def _single(self, operation: Operation, labels: Labels | None) -> None:
        """Neg, or a Sum, Max or Min of one tensor."""
        if labels is not None and operation == Operation.NEG:
            row = labels.reshape(-1)
            minus, zero = np.full((len(row), 1), -1.0), np.zeros((len(row), 1))
            affine = self._affine(row, minus, zero, zero)
            assert affine is not None
            labels = affine.reshape(labels.shape)
        if labels is not None:
            self._emit(labels)

    def _operand(self, position: int, rank: int) -> Operand:
        tensor = self.node.inputs[position]
        labels = self.labels.get(tensor.name)
        shape = self._shape(tensor)
        value = self.facts.value(tensor) if tensor.name in self.facts.static else None
        full = (1,) * (rank - len(shape)) + shape
        return Operand(None if labels is None else aligned(labels, rank), full, value, position)

    def _product(self, action: Product) -> None:
        """Channels along an axis that the output keeps are mapped by data; those that are summed stay."""
        reason = f"is read by {self._me()}, which multiplies two tensors that both depend on data"
        carried = []
        for position, letters in enumerate((action.left, action.right)):
            labels = self.labels.get(self.node.inputs[position].name)
            if labels is None:
                continue
            both = {a for a in varying(labels) if letters[a] in action.left and letters[a] in action.right}
            if any(letters[axis] not in action.output for axis in varying(labels)):
                self._pin(labels, reason)
            elif both == set(varying(labels)):
                self._pin(labels, f"varies along a batch axis at {self._me()}")
            else:
                self.fixed.append((labels, tuple(both)))
                carried.append((letters, labels))
        if len(carried) == 1:
            self._emit(self._multiplied(action, *carried[0]))
        for _, labels in carried[1:] and carried:
            self._pin(labels, reason)

    def _multiplied(self, action: Product, letters: str, labels: Labels) -> Labels:
        """Labels of one factor in the output."""
        mapped = self._mapped(labels, lambda child: Mapped(child, False))
        kept = [letters.index(letter) for letter in action.output if letter in letters]
        moved = mapped.transpose([*kept, *(a for a in range(labels.ndim) if a not in kept)])
        sizes = iter(moved.shape)
        return moved.reshape([next(sizes) if letter in letters else 1 for letter in action.output])

    def _concat(self, axis: int, inputs: Sequence[Labels | None]) -> None:
        """Constant parts are channels of their own along an axis of channels, and of the others along another one."""
        tensors = self.node.inputs
        shapes = [self._shape(t) for t in tensors]
        labelled = [labels for labels in inputs if labels is not None]
        across = {a for labels in labelled for a in varying(labels)} - {axis}
        if any(labels is None and shape[axis] == 0 for labels, shape in zip(inputs, shapes, strict=True)):
            return self._refuse("appends what is empty here, and maybe not at other sizes")
        if across and len(labelled) < len(tensors) and self._extended(axis, inputs):
            return
        parts = []
        for position, (labels, shape) in enumerate(zip(inputs, shapes, strict=True)):
            value = self.facts.value(tensors[position]) if tensors[position].name in self.facts.static else None
            known = value is not None and value.dtype.kind == "f" and bool(np.isfinite(value).all())
            if labels is None and not across and value is not None and known:
                rows = np.moveaxis(value, axis, 0).reshape(shape[axis], -1)
                labels = self._constant_channels(np.asarray(rows, dtype=np.float64))
                self._add_slot(position, Role.CARRIED, labels, len(shape), axis)
                labels = labels.reshape([-1 if a == axis else 1 for a in range(len(shape))])
            parts.append(np.full([1] * len(shape), -1) if labels is None else labels)
        joined = moves.concat(parts, shapes, axis)
        resized = any(t.name in self.facts.shapes and self.facts.is_resized(t.name, axis) for t in tensors)
        if resized:  # a part may be empty here and not at other sizes
            united = self._uniform(joined, [axis])
            if united is None:
                return
            joined = united
        self._emit(joined)

    def _extended(self, axis: int, inputs: Sequence[Labels | None]) -> bool:
        """Concat of one tensor with constants along another axis than its channels, as seen by those; False if not."""
        tensors = {p: t for p, t in enumerate(self.node.inputs) if inputs[p] is None}
        (labels, *others) = (x for x in inputs if x is not None)
        values = [self._along(labels, tensor) for tensor in tensors.values()]
        if others or labels.shape[axis] > 1 or not all(v is not None and np.isfinite(v).all() for v in values):
            return False
        if any(not self._same_length(tensor.name, axis) for tensor in tensors.values()):
            return False
        shifts = np.hstack([np.zeros((labels.size, 1)), *(v for v in values if v is not None)])
        scales = np.zeros_like(shifts)
        scales[:, 0] = 1
        result = self._affine(labels.reshape(-1), scales, shifts, np.abs(shifts))
        if result is None:
            return False
        self._emit(result.reshape(labels.shape))
        for position, tensor in tensors.items():
            value = self.facts.value(tensor)
            if value is not None and tensor.name in self.facts.static:
                self._carry(position, labels, value)
        return True

    def _same_length(self, name: str, axis: int) -> bool:
        """Whether a constant that is computed from shapes is as long along an axis at every size of the inputs."""
        value, other = self.facts.value_by_name(name), self.facts.other_value(name)
        return value is None or (value.shape[axis] > 0 and (other is None or other.shape[axis] == value.shape[axis]))

    def _along(self, labels: Labels, tensor: gs.Tensor) -> Floats | None:
        """[places, q]: a constant's values at each labelled place, the same at every size of the inputs; else None."""
        value, other = self.facts.value(tensor), None
        if value is None or value.dtype.kind != "f":
            return None
        found = self._per_position(labels, value)
        if tensor.name in self.facts.derived:
            other = self.facts.other_value(tensor.name)
            found = found[:, :1] if (found == found[:, :1]).all() else found
        if other is not None:
            elsewhere = self._per_position(labels, other)
            return found if found.shape[1] == 1 and (elsewhere == found).all() else None
        return found

    def _constant_channels(self, values: Floats) -> Labels:
        """New channels that are constant: [channels] labels from [channels, places] values."""
        atoms = self.sets.grow(len(values))
        flat, nothing = values[:, :1], np.zeros_like(values)
        if (values == flat).all():
            return pack(atoms, self._signal(Affine(Shared(), atoms, nothing[:, :1], flat, np.abs(flat))))
        return pack(atoms, self._signal(Affine(Shared(), atoms, values, nothing, nothing)))

    def _pair(self, operation: Operation, left: Operand, right: Operand) -> Operand:
        whole = np.broadcast_shapes(left.shape, right.shape)
        if left.labels is not None and right.labels is not None:
            return Operand(self._unite(operation, left, right), whole, None, -1)
        if left.labels is None and right.labels is None:
            return Operand(None, whole, None, -1)
        one, other = (left, right) if left.labels is not None else (right, left)
        assert one.labels is not None
        if other.value is not None:
            return Operand(self._with_constant(operation, one.labels, other, swapped=one is right), whole, None, -1)
        if any(other.shape[axis] > 1 for axis in varying(one.labels)):
            self._pin(one.labels, f"meets a tensor at {self._me()} whose channels cannot be removed")
            return Operand(None, whole, None, -1)
        return Operand(self._with_shared(operation, one.labels, swapped=one is right), whole, None, -1)

    def _unite(self, operation: Operation, left: Operand, right: Operand) -> Labels | None:
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

    def _with_shared(self, operation: Operation, labels: Labels, swapped: bool) -> Labels:
        """The other operand is data, and the same for every channel."""
        if swapped in OPERATIONS[operation].modulates:
            return self._mapped(labels, Modulated)
        shared = Shared()

        def make(child: Signal) -> Signal:
            return Combined(operation, shared, child) if swapped else Combined(operation, child, shared)

        return self._mapped(labels, make)

    def _with_constant(self, operation: Operation, labels: Labels, other: Operand, swapped: bool) -> Labels | None:
        assert other.value is not None
        value = np.asarray(other.value, dtype=np.float64)
        value = value.reshape((1,) * (labels.ndim - value.ndim) + value.shape)
        uniform = all(value.shape[axis] == 1 for axis in varying(labels))
        rule = OPERATIONS[operation]
        affine = rule.beside_constant(value, swapped)
        if affine is None:
            if not uniform or value.size > 1:
                self._pin(labels, f"is read by {self._me()}, which compares or divides by channel")
                return None
            number = float(value.reshape(-1)[0])
            alone = sum(t.name not in self.facts.static for t in self.node.inputs) == 1
            function = self._function(self.index) if alone else unknown
            return self._mapped(labels, lambda child: rule.beside_number(child, number, function))
        scales, shifts = (self._per_position(labels, part) for part in affine)
        if not (np.isfinite(scales).all() and np.isfinite(shifts).all()):
            self._pin(labels, f"meets a constant at {self._me()} that is not finite")
            return None
        if (scales == 1).all() and not shifts.any():
            self._carry(other.position, labels, other.value)
            return labels
        result = self._affine(labels.reshape(-1), scales, shifts, np.abs(shifts))
        if result is None:
            self._pin(labels, f"repeats too often at {self._me()}")
            return None
        self._carry(other.position, labels, other.value)
        return result.reshape(labels.shape)

    def _carry(self, position: int, labels: Labels, value: Array) -> None:
        """A constant with one parameter per channel: sliced where it varies along a labelled axis."""
        view = labels
        for axis in varying(labels):
            behind = axis - (labels.ndim - value.ndim)
            if behind < 0 or value.shape[behind] == 1:
                view = view.take([0], axis)
        if 1 < view.size < labels.size:  # lines may keep different channels: each gets numbers of its own
            self.slots.append(Slot(self.index, position, Role.CARRIED, labels))
        elif view.size > 1:
            kept = view.reshape(view.shape[view.ndim - value.ndim :]) if view.ndim > value.ndim else view
            self.slots.append(Slot(self.index, position, Role.CARRIED, kept))
