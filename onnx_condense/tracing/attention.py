"""The rule of operators that hold heads of attention: what a product of data is to queries, keys and values."""

from __future__ import annotations

import numpy as np

from onnx_condense.algebra.signals import Mapped
from onnx_condense.arrays import Floats, Labels
from onnx_condense.operators.answers import Role
from onnx_condense.operators.attention import Attending, Rotating
from onnx_condense.operators.between import Operation
from onnx_condense.operators.reasons import Reason
from onnx_condense.tracing import heads as whole
from onnx_condense.tracing.joins import Join, united
from onnx_condense.tracing.labels import atoms_of, varying
from onnx_condense.tracing.outcomes import Contracted, Declined, Outcome, Pinned, Stay
from onnx_condense.tracing.parameters import affine
from onnx_condense.tracing.trace import Pairing, Slot
from onnx_condense.tracing.uniting import restricted
from onnx_condense.tracing.walk import Place, Walk


def attending(walk: Walk, place: Place, action: Attending) -> Outcome:
    """Channels of values are mapped by data; those of queries and keys are one, head by head."""
    bias = None if action.bias is None else walk.facts.value(place.inputs[action.bias])
    if bias is not None and not np.isfinite(bias).all():
        return Declined(Reason.PARAMETERS_NOT_FINITE)
    for position in range(3, len(place.inputs)):
        walk.pin(walk.at(place, position), place.because(Reason.READ, Reason.PRODUCT_OF_DATA))
    heads = action.heads[0], *action.heads[1:] * 2
    queries, keys, values = (_by_head(walk, place, action, i, heads[i]) for i in range(3))
    queries, keys, values = _shifted(walk, place, action, [queries, keys, values])
    walk.has_heads = True
    if walk.whole_heads:
        _check_even(walk, place, action)
        made = whole.attended(walk, place, queries, keys, values)
    else:
        _pair(walk, place, action, queries, keys)
        made = _summed(walk, action, values)
    if made is None:
        return Contracted()
    return Contracted({place.output: made[None, :, None] if action.apart else made.reshape(1, 1, -1)})


def _summed(walk: Walk, action: Attending, values: Labels | None) -> Labels | None:
    """[heads, width] labels of what values [heads, width] become."""
    if values is None:
        return None
    walk.fixed.append((values, (0,)))
    made = walk.mapped(values, lambda child: Mapped(child, False))
    return np.repeat(made, action.heads[0] // action.heads[1], axis=0)


def _check_even(walk: Walk, place: Place, action: Attending) -> None:
    """Raises Stay where another input than queries, keys, values and their bias has numbers for each head."""
    for position, tensor in list(enumerate(place.inputs))[3:]:
        if not tensor.name or position == action.bias:
            continue
        shape = walk.shape(tensor)
        if len(shape) > 2 and shape[-3] > 1:
            labels = [walk.at(place, i) for i in range(3)]
            known = np.concatenate([one.reshape(-1) for one in labels if one is not None] or [np.zeros(0, np.int64)])
            raise Stay(known, place.because(Reason.MEETS_OTHERS))


def rotating(walk: Walk, place: Place, action: Rotating) -> Outcome:
    """The two channels of a pair are one from here on, and so are those of all heads, which share the tables.

    But where whole heads may leave: the tables stay then.
    """
    labels = _by_head(walk, place, action, 0, action.heads)
    if labels is None:
        return Contracted()
    if (labels < 0).any():
        return Pinned(labels, place.because(Reason.MEETS_OTHERS))
    half = labels.shape[1] // 2
    pairs = (slice(0, None, 2), slice(1, None, 2)) if action.interleaved else (slice(0, half), slice(half, None))
    one, other = (labels[:, side] for side in pairs)
    first = one if walk.whole_heads else np.broadcast_to(one[:1], one.shape)
    for side in (one, other):
        walk.sets.unite(atoms_of(first).reshape(-1), atoms_of(side).reshape(-1))
    cosines, sines = (np.asarray(walk.facts.value(place.inputs[i]), dtype=np.float64).T for i in action.tables)
    for position in () if walk.whole_heads else action.tables:
        walk.hold(Slot(place.index, position, Role.CARRIED, one[:1], 1))
    made = np.empty_like(labels)
    made[:, pairs[0]] = _sum(walk, place, Operation.SUB, (one, cosines), (other, sines))
    made[:, pairs[1]] = _sum(walk, place, Operation.ADD, (other, cosines), (one, sines))
    walk.fixed.append((labels, (0,)))
    return Contracted({place.output: made[None, :, None] if action.apart else made.reshape(1, 1, -1)})


def _sum(
    walk: Walk, place: Place, operation: Operation, left: tuple[Labels, Floats], right: tuple[Labels, Floats]
) -> Labels:
    """[heads, pairs] labels of the sum or the difference of channels, each times numbers [pairs, positions]."""
    scaled = []
    for labels, table in (left, right):
        scale = np.tile(table, (len(labels), 1))
        scaled.append(affine(walk, place, labels, scale, np.zeros_like(scale)))
    return united(Join(walk, place, operation), *scaled)


def _by_head(walk: Walk, place: Place, action: Attending | Rotating, position: int, heads: int) -> Labels | None:
    """[heads, width] labels of queries, keys or values; None where there are none, or they stay."""
    labels = walk.at(place, position)
    if labels is None:
        return None
    if not set(varying(labels)) <= {1, 3} if action.apart else varying(labels) != (2,):
        walk.pin(labels, place.because(Reason.ALONG_ANOTHER))
        return None
    if not action.apart:
        return labels.reshape(heads, -1)
    if labels.shape[3] == 1:
        walk.pin(labels, place.because(Reason.ALONG_BATCH))
        return None
    return np.broadcast_to(labels[0, :, 0], (heads, labels.shape[3]))


def _shifted(walk: Walk, place: Place, action: Attending, parts: list[Labels | None]) -> list[Labels | None]:
    """The parts [heads, width] with what the bias adds to each."""
    if action.bias is None or all(part is None for part in parts):
        return parts
    bias = np.asarray(walk.facts.value(place.inputs[action.bias]), dtype=np.float64).reshape(-1)
    sizes = [walk.shape(tensor)[2] for tensor in place.inputs[:3]]
    ends = np.cumsum([0, *sizes])
    row = [np.full(size, -1) if part is None else part.reshape(-1) for part, size in zip(parts, sizes, strict=True)]
    walk.hold(Slot(place.index, action.bias, Role.CARRIED, np.concatenate(row)))
    return [
        None if part is None else _affine(walk, place, part, bias[start:end])
        for part, start, end in zip(parts, ends[:-1].tolist(), ends[1:].tolist(), strict=True)
    ]


def _affine(walk: Walk, place: Place, labels: Labels, bias: Floats) -> Labels:
    return affine(walk, place, labels, np.ones((labels.size, 1)), bias[:, None])


def _pair(walk: Walk, place: Place, action: Attending, queries: Labels | None, keys: Labels | None) -> None:
    """Unites queries with the keys [heads, width] that serve them."""
    because = place.because(Reason.READ, Reason.PRODUCT_OF_DATA)
    if queries is None or keys is None:
        walk.pin(queries, because)
        walk.pin(keys, because)
        return
    times = action.heads[0] // action.heads[1]
    served = np.repeat(keys, times, axis=0)
    known = (queries >= 0) & (served >= 0)
    for side in (queries, served):
        walk.pin(side[~known], because)
    numbers = np.arange(keys.size).reshape(keys.shape)
    lines = np.broadcast_to(np.arange(len(queries))[:, None], queries.shape)[known]
    pairing = Pairing(
        place.index,
        restricted(walk, queries[known]),
        restricted(walk, served[known]),
        because,
        ((1, 3), (1, 3)) if action.apart else ((2,), (2,)),
        (queries.shape, keys.shape) if action.apart else ((queries.size,), (keys.size,)),
        (np.flatnonzero(known), np.repeat(numbers, times, axis=0)[known]),
        lines,
    )
    walk.sets.unite(atoms_of(pairing.left), atoms_of(pairing.right))
    walk.pairings.append(pairing)
    for labels in (queries, keys):
        walk.fixed.append((labels, (0,)))
