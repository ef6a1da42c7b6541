"""Products of data whose channels are one basis of many: queries and keys, where both are linear in their rows.

A product adds up q · k over the channels of a line. With any invertible A, (A q) · (A⁻ᵀ k) is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Floats, Ints
from onnx_condense.factoring.rotation import span
from onnx_condense.factoring.streams import Bound, name_of
from onnx_condense.forms.bases import Along, Rotation
from onnx_condense.merging.mixing import lines_of
from onnx_condense.merging.paths import paths
from onnx_condense.operators.answers import Role
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.pairs import bilinears
from onnx_condense.tracing.trace import Group, Slot, Trace

RIDGE = 1e-3
"""Share of the mean by which every direction counts at least: it bounds how far a basis stretches."""

WIDEST = 4096
"""Places on an axis at most: a basis takes their square."""


@dataclass(frozen=True, eq=False)
class Held:
    """Channels of a product as one constant holds them.

    along: its name and axis. side: of the product. size: places on that axis.
    blocks: (line, [k] its places, in the order of the line's channels).
    """

    along: Along
    side: int
    size: int
    blocks: tuple[tuple[int, Ints], ...]

    def matrix(self, bases: Mapping[int, Floats]) -> Floats:
        """[size, size] the bases [k, k] of lines at their places."""
        result = np.eye(self.size)
        for line, places in self.blocks:
            result[np.ix_(places, places)] = bases[line]
        return result

    def behind(self, filled: Mapping[int, int]) -> tuple[int, ...]:
        """The places of a line's channels behind so many first ones."""
        return tuple(sorted(int(p) for line, places in self.blocks for p in places[filled.get(line, len(places)) :]))

    def written(self, trace: Trace, line: int) -> list[Floats]:
        """[k, p] of each block of a line: the directions of its channels in which this constant writes."""
        value = trace.facts.value_by_name(self.along.name)
        assert value is not None
        rows = np.moveaxis(value, self.along.axis, 0)
        mine = [rows[places].astype(np.float64) for other, places in self.blocks if other == line]
        return [part.reshape(len(part), -1) for part in mine]


@dataclass(frozen=True, eq=False)
class Product:
    """A group in whose lines any basis will do. lines: [n] of its channels. held: all constants that make them."""

    group: Group
    lines: Ints
    held: tuple[Held, ...]


def products(trace: Trace, groups: Sequence[Group]) -> Iterator[Product]:
    """Those of the groups that are channels of products of data, in whose lines any basis will do."""
    for group in groups:
        if not trace.pairs_of(group) or trace.is_quantized(group):
            continue
        try:
            yield _product(trace, group)
        except Bound:
            continue


def _product(trace: Trace, group: Group) -> Product:
    """Raises Bound."""
    pairs, lines = trace.pairs_of(group), lines_of(trace, group)
    places = {(slot.node, slot.input) for slot in pairs}
    if not all(slot.even for slot in pairs):
        raise Bound
    if any(s.role is Role.CONTRACTED or (s.node, s.input) not in places for s in trace.slots_of(group)):
        raise Bound
    for side in (0, 1):
        made = [trace.units_in(slot.labels) for slot in pairs if slot.side == side]
        if not made or not np.isin(group.units, np.concatenate(made)).all():
            raise Bound
    blocks: dict[Slot, list[tuple[int, Ints]]] = {slot: [] for slot in pairs}
    for path in paths(trace, group):
        for rank in np.unique(path.rank).tolist():
            here = path.rank == rank
            for line in np.unique(lines[path.units[here]]).tolist():
                mine = np.flatnonzero(here & (lines[path.units] == line))
                mine = mine[np.argsort(path.units[mine])]
                if not np.array_equal(path.units[mine], np.flatnonzero(lines == line)):
                    raise Bound
                blocks[path.slot].append((line, path.places[mine]))
    return Product(group, lines, tuple(_held(trace, slot, tuple(found)) for slot, found in blocks.items()))


def _held(trace: Trace, slot: Slot, blocks: tuple[tuple[int, Ints], ...]) -> Held:
    """Raises Bound."""
    name, size = name_of(trace, slot), slot.labels.size
    value = trace.facts.value_by_name(name)
    if len(slot.axes) != 1 or slot.groups > 1 or value is None or size > WIDEST:
        raise Bound
    axis = slot.axes[0] - slot.labels.ndim
    if -axis > value.ndim or value.shape[axis] != size:
        raise Bound
    return Held(Along(name, axis), slot.side, size, blocks)


def apart(trace: Trace, product: Product, estimate: Estimate) -> list[Rotation]:
    """The bases in which channels of neither side vary together, and both sides as much: those that vary least go.

    With C and D the second moments of both sides of a line, what the product loses is least for the singular vectors
    of C^½ D^½, if both sides vary apart. Nothing where it is not known how they vary.
    """
    known = next(iter(bilinears(trace, product.group, estimate)), None)
    if known is None or known.side < 0:
        return []
    bases: dict[int, dict[int, Floats]] = {0: {}, 1: {}}
    for line in np.unique(product.lines).tolist():
        mine = np.ix_(*[np.flatnonzero(product.lines == line)] * 2)
        into, back = _basis(known.gram[mine], known.covariance[mine])
        bases[known.side][line], bases[1 - known.side][line] = into, back.T
    return _rotations(product, bases)


def filled(trace: Trace, product: Product, width: Callable[[Group], int]) -> list[Rotation]:
    """Orthogonal bases whose idle channels one side never writes to; nothing where `width` channels are no more.

    What one side of a line writes spans U, of which the other side sees V: the product takes place in V.
    """
    bases, counts = dict[int, Floats](), dict[int, int]()
    for line in np.unique(product.lines).tolist():
        one, other = (
            [p for held in product.held if held.side == side for p in held.written(trace, line)] for side in (0, 1)
        )
        inside = _seen(one, other)
        bases[line] = np.linalg.qr(np.hstack([inside, np.eye(len(inside))]))[0].T
        counts[line] = inside.shape[1]
    left = max(counts.values()) * len(bases)
    idle = 0 < left < len(product.group.units) and left < width(product.group)  # who asks for widths judges all groups
    return _rotations(product, {0: bases, 1: bases}, counts) if idle else []


def _seen(one: Sequence[Floats], other: Sequence[Floats]) -> Floats:
    """[k, r] an orthonormal basis of what one side [k, p] writes and the other one is not at right angles to."""
    first = span(one)
    second = None if first is None else span([first.T @ part for part in other])
    return np.zeros((len(one[0]), 0)) if first is None or second is None else first @ second


def _basis(one: Floats, other: Floats) -> tuple[Floats, Floats]:
    """A [k, k] and its inverse, so that A C Aᵀ and A⁻ᵀ D A⁻¹ are the same diagonal, falling, of moments [k, k]."""
    values, vectors = np.linalg.eigh(one)
    roots = np.sqrt(np.maximum(values, 0.0) + RIDGE * max(float(values.mean()), np.finfo(float).tiny))
    root, inverse = (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T
    squares, turn = np.linalg.eigh(root @ other @ root)
    squares, turn = np.maximum(squares[::-1], 0.0), turn[:, ::-1]
    scale = np.sqrt(squares + RIDGE**2 * max(float(squares.mean()), np.finfo(float).tiny)) ** 0.5
    return scale[:, None] * (turn.T @ inverse), (root @ turn) / scale


def _rotations(
    product: Product, bases: Mapping[int, Mapping[int, Floats]], filled: Mapping[int, int] | None = None
) -> list[Rotation]:
    """One for all constants that are multiplied with the same matrix, or with its inverse from the other side.

    filled: how many channels of a line are no idle ones, the first of them; all where nothing is said.
    """
    found: list[tuple[Floats, Floats, list[Along], list[Along], tuple[int, ...]]] = []
    for held in product.held:
        into = held.matrix(bases[held.side])
        idle = held.behind(filled or {})
        for first, other, added, readers, same in found:
            if same == idle and np.array_equal(into, first):
                added.append(held.along)
                break
            if same == idle and np.array_equal(into, other):
                readers.append(held.along)
                break
        else:
            found.append((into, held.matrix(bases[1 - held.side]), [held.along], [], idle))
    layer = product.group.layers[0]
    return [
        Rotation(layer, (), tuple(readers), tuple(added), into, other.T, len(into), idle)
        for into, other, added, readers, idle in found
    ]
