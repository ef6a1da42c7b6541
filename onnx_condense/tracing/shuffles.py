"""Chains of data movement that only permute or pick channels, as a Gather of the channels themselves.

Reshape, Transpose, Reshape (a channel shuffle) can lose channels only where all groups lose equally many, and after a
few shuffles in a row hardly any can; the parts of a fused projection that is reshaped to [..., 3, heads, width] would
all have to lose as many as the others. A Gather with constant indices says the same of any channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_condense.arrays import Ints, Labels, Shape
from onnx_condense.errors import left_alone
from onnx_condense.forms.shuffles import INDEX, Pick, Shuffle, replace_shuffles
from onnx_condense.model import wire
from onnx_condense.model.surgeon import import_graph
from onnx_condense.operators import moves
from onnx_condense.operators.facts import Facts, Tried
from onnx_condense.operators.moves import Move
from onnx_condense.tracing.labels import varying
from onnx_condense.tracing.trace import Trace
from onnx_condense.tracing.tracer import trace

MOST_INDICES = 0.1
"""Share of the file that indices may take: weights that are only described (ConstantOfShape) take hardly any."""


Link = tuple[int, int]
"""A node that moves data, and which of its outputs the chain goes on with."""


def trace_unshuffled(facts: Facts) -> Trace:
    """The trace of a graph, its shuffles replaced, unless their indices would make a small file much larger."""
    traced = trace(facts)
    with left_alone("channel shuffles"):
        return _unshuffled(traced)
    return traced


def _unshuffled(traced: Trace) -> Trace:
    facts, found = traced.facts, find_shuffles(traced)
    size = np.dtype(INDEX).itemsize * sum(shuffle.indices.size for shuffle in found)
    if not found or size > MOST_INDICES * wire.size(facts.model):
        return traced
    plain = replace_shuffles(facts, found)
    return trace(Facts(plain, import_graph(plain), facts.feed, facts.others, facts.copies, Tried(facts.stuck)))


def find_shuffles(traced: Trace) -> list[Shuffle]:
    """The longest chains that permute or pick channels of a dependency group, in topological order."""
    makers = {t.name: (i, n) for i, node in enumerate(traced.facts.nodes) for n, t in enumerate(node.outputs)}
    found: dict[int, Shuffle] = {}
    for index in traced.actions:
        if len(traced.facts.nodes[index].outputs) != 1:
            continue
        for chain in _chains(traced, makers, index, found):
            better = _as_gather(traced, chain) or _as_pick(traced, chain)
            if better is not None:
                found[index] = better
    return list(found.values())


def _chains(
    traced: Trace, makers: Mapping[str, Link], index: int, found: Mapping[int, Shuffle]
) -> Iterator[Sequence[Link]]:
    """The chains that end in a node, shortest first; none goes through a node that is replaced already."""
    chain: list[Link] = [(index, 0)]
    while True:
        action, node = traced.actions.get(chain[0][0]), traced.facts.nodes[chain[0][0]]
        if action is None or action.move is None or not action.move.chained or node.inputs[0].name not in traced.labels:
            return
        yield chain
        source = makers.get(node.inputs[0].name)
        if source is None or source[0] in found:
            return
        chain.insert(0, source)


def _as_gather(traced: Trace, chain: Sequence[Link]) -> Shuffle | None:
    """The chain as one Gather, where it moves nothing but the channels of its source; tried at every known size."""
    source, result = _ends(traced, chain)
    axes = varying(traced.labels[source])
    if len(axes) != 1 or result not in traced.labels or not _transposes(traced, chain):
        return None
    (axis,) = axes
    answers = [_permuted(traced, chain, axis, shapes) for shapes in traced.facts.all_shapes]
    indices = answers[0]
    if indices is None or not all(a is not None and np.array_equal(a, indices) for a in answers):
        return None
    whole = np.array_equal(indices, np.arange(traced.labels[source].size))
    return None if whole else Shuffle(chain[-1][0], source, axis, indices)


def _permuted(traced: Trace, chain: Sequence[Link], axis: int, shapes: Mapping[str, Shape]) -> Ints | None:
    """Which places of the axis arrive, in order; None where another axis moves as well."""
    source = _ends(traced, chain)[0]
    indices = np.zeros(1, dtype=np.int64)
    for probed, moved in enumerate(_probes(traced, chain, shapes, source)):
        size = shapes[source][probed]
        if moved is None or moved.ndim != len(shapes[source]) or any(a != probed for a in varying(moved)):
            return None
        if probed == axis:
            indices = moved.reshape(-1)
        elif not np.array_equal(moved.reshape(-1), np.arange(size)):
            return None
    return indices


@dataclass(frozen=True)
class Arrangement:
    """Where a chain puts the axes of a tensor: of `dropped` it keeps the place `taken`, and no axis.

    places: axis -> axis of the result, of those that are longer than 1.
    """

    dropped: int
    taken: int
    places: Mapping[int, int]

    def order(self, rank: int) -> tuple[int, ...]:
        """The order into which a Transpose brings the other axes; rank: of the tensor."""
        rest = iter([a for a in range(rank - 1) if a not in self.places.values()])
        spots = [self.places[a] if a in self.places else next(rest) for a in range(rank) if a != self.dropped]
        return tuple(int(i) for i in np.argsort(spots))


def _as_pick(traced: Trace, chain: Sequence[Link]) -> Pick | None:
    """The chain as a Gather, a Reshape and a Transpose, where its Reshape splits the channels and it keeps one part."""
    index, tail = chain[0][0], chain[1:]
    node, (source, result) = traced.facts.nodes[index], _ends(traced, chain)
    axes, middle = varying(traced.labels[source]), node.outputs[0].name
    if not tail or len(axes) != 1 or result not in traced.labels:
        return None
    if not _move(traced, index).states_shape or len(node.inputs) < 2:
        return None
    layout = _arrangement(traced, tail, middle, result)
    if layout is None:
        return None
    before, after, (axis,) = traced.facts.shapes[source], traced.facts.shapes[middle], axes
    split, into = next(block for block in moves.blocks(before, after) if axis in block[0])
    if split != [axis] or layout.dropped not in into:
        return None
    parts = np.arange(before[axis]).reshape([after[a] for a in into])
    indices = parts.take(layout.taken, into.index(layout.dropped)).reshape(-1)
    return Pick(chain[-1][0], source, axis, indices, index, layout.dropped, layout.order(len(after)))


def _arrangement(traced: Trace, chain: Sequence[Link], source: str, result: str) -> Arrangement | None:
    """What a chain does at every known size, where it moves whole axes and keeps one place of one of them."""
    places: dict[int, int] = {}
    fixed: dict[int, int] = {}
    for shapes in traced.facts.all_shapes:
        if len(shapes[result]) != len(shapes[source]) - 1:
            return None
        for axis, moved in enumerate(_probes(traced, chain, shapes, source)):
            size = shapes[source][axis]
            if moved is None or moved.size not in (1, size):
                return None
            line = moved.reshape(-1)
            if len(line) < size:
                fixed[axis] = int(line[0])
            elif not np.array_equal(line, np.arange(size)):
                return None
            elif size > 1:
                places[axis] = varying(moved)[0]
    if len(fixed) != 1 or set(fixed) & set(places):
        return None
    (dropped,) = fixed
    return Arrangement(dropped, fixed[dropped], places)


def _transposes(traced: Trace, chain: Sequence[Link]) -> bool:
    return any(_move(traced, index).permutes for index, _ in chain)


def _ends(traced: Trace, chain: Sequence[Link]) -> tuple[str, str]:
    """Names of the tensors that a chain leads from and to."""
    nodes = traced.facts.nodes
    return nodes[chain[0][0]].inputs[0].name, nodes[chain[-1][0]].outputs[chain[-1][1]].name


def _probes(traced: Trace, chain: Sequence[Link], shapes: Mapping[str, Shape], source: str) -> Iterator[Labels | None]:
    """For each axis of the source, what becomes of its numbered places."""
    shape = shapes[source]
    for axis, size in enumerate(shape):
        places = np.arange(size).reshape([size if a == axis else 1 for a in range(len(shape))])
        try:
            for index, output in chain:
                places = _moved(traced, index, places, shapes)[output]
        except (ValueError, IndexError):
            yield None
        else:
            yield places


def _moved(traced: Trace, index: int, places: Labels, shapes: Mapping[str, Shape]) -> list[Labels]:
    node = traced.facts.nodes[index]
    return _move(traced, index).to(shapes[node.outputs[0].name]).moved(places, shapes[node.inputs[0].name])


def _move(traced: Trace, index: int) -> Move:
    action = traced.actions[index].move
    assert action is not None
    return action
