"""The rule of products of two tensors of data."""

from __future__ import annotations

import numpy as np

from onnx_condense.algebra.signals import Mapped
from onnx_condense.arrays import Ints, Labels, Shape
from onnx_condense.operators.actions import Product
from onnx_condense.operators.reasons import Reason
from onnx_condense.tracing import heads
from onnx_condense.tracing.labels import atoms_of, varying
from onnx_condense.tracing.outcomes import Carried, Contracted, Outcome, Stay
from onnx_condense.tracing.trace import Pairing
from onnx_condense.tracing.uniting import restricted, uniform
from onnx_condense.tracing.walk import Place, Walk


def product(walk: Walk, place: Place, action: Product) -> Outcome:
    """Channels along an axis that the output keeps are mapped by data; of both factors, those that are summed are one.

    Of a single factor they stay, or are one where others lie beside them along an axis of their own that is kept (a sum
    over experts).
    """
    walk.has_heads |= bool(lines := heads.lines_of(walk, place, action))
    if walk.whole_heads and lines:
        return heads.by_lines(walk, place, action, lines)
    if _paired(walk, place, action):
        return Contracted()
    because = place.because(Reason.READ, Reason.PRODUCT_OF_DATA)
    carried = []
    for position, letters in enumerate((action.left, action.right)):
        labels = walk.at(place, position)
        if labels is None:
            continue
        labels = _summed(walk, place, action, letters, labels)
        if labels is None:
            continue
        both = {a for a in varying(labels) if letters[a] in action.left and letters[a] in action.right}
        if any(letters[axis] not in action.output for axis in varying(labels)):
            walk.pin(labels, because)
        elif both == set(varying(labels)):
            walk.pin(labels, place.because(Reason.ALONG_BATCH))
        else:
            walk.fixed.append((labels, tuple(both)))
            carried.append((letters, labels))
    if len(carried) == 1:
        return Carried({place.output: _multiplied(walk, action, *carried[0])})
    for _, labels in carried:
        walk.pin(labels, because)
    return Carried()


def _paired(walk: Walk, place: Place, action: Product) -> bool:
    """Whether channels of both factors are summed, and nothing else varies but batches: the two are one from here on.

    Each line of a batch (a head) has channels of its own.
    """
    factors = [(action.left, walk.at(place, 0)), (action.right, walk.at(place, 1))]
    sides = [(letters, labels) for letters, labels in factors if labels is not None]
    if len(sides) < 2:
        return False
    both = set(action.left) & set(action.right)
    found = [{letters[axis] for axis in varying(labels)} for letters, labels in sides]
    summed = [letters - set(action.output) for letters in found]
    if not (summed[0] and summed[1]) or not found[0] | found[1] <= both:
        return False
    order = [letter for letter in action.left if letter in found[0] | found[1]]
    left, right = np.broadcast_arrays(*(_along(letters, labels, order) for letters, labels in sides))
    because = place.because(Reason.READ, Reason.PRODUCT_OF_DATA)
    known = (left >= 0) & (right >= 0)
    for side in (left, right):
        walk.pin(side[~known], because)
    held = [
        tuple(letters.index(x) if x in there else -1 for x in order)
        for (letters, _), there in zip(sides, found, strict=True)
    ]
    lines = np.broadcast_to(_lines(order, left.shape, summed[0] | summed[1]), left.shape)[known]
    places = np.flatnonzero(known.reshape(-1))
    ends = (restricted(walk, left[known]), restricted(walk, right[known]))
    pairing = Pairing(
        place.index, *ends, because, (held[0], held[1]), (left.shape, left.shape), (places, places), lines
    )
    walk.sets.unite(atoms_of(pairing.left), atoms_of(pairing.right))
    walk.pairings.append(pairing)
    for letters, labels in sides:
        kept = [axis for axis in varying(labels) if letters[axis] not in summed[0] & summed[1]]
        walk.fixed.append((labels, tuple(kept)))
    return True


def _along(letters: str, labels: Labels, order: list[str]) -> Labels:
    """Labels with an axis for each letter of `order`, of length 1 where they do not vary along it."""
    axes = [letters.index(letter) for letter in order]
    moved = labels.transpose([*axes, *(axis for axis in range(labels.ndim) if axis not in axes)])
    return moved.reshape(moved.shape[: len(order)])


def _lines(order: list[str], shape: Shape, summed: set[str]) -> Ints:
    """The number of the line of each place, of a shape that broadcasts; places differ along `summed` within it."""
    sizes = [1 if letter in summed else size for letter, size in zip(order, shape, strict=True)]
    return np.arange(int(np.prod(sizes))).reshape(sizes)


def _summed(walk: Walk, place: Place, action: Product, letters: str, labels: Labels) -> Labels | None:
    """Labels of a factor whose channels are one along the axes that are summed; None where they stay."""
    axes = varying(labels)
    summed = [axis for axis in axes if letters[axis] not in action.output]
    other = action.right if letters == action.left else action.left
    if not any(letters[axis] in action.output and letters[axis] not in other for axis in axes):
        return labels
    try:
        return uniform(walk, place, labels, summed)
    except Stay as stay:
        walk.conclude(place, stay.outcome)
        return None


def _multiplied(walk: Walk, action: Product, letters: str, labels: Labels) -> Labels:
    """Labels of one factor in the output."""
    mapped = walk.mapped(labels, lambda child: Mapped(child, False))
    kept = [letters.index(letter) for letter in action.output if letter in letters]
    moved = mapped.transpose([*kept, *(a for a in range(labels.ndim) if a not in kept)])
    sizes = iter(moved.shape)
    return moved.reshape([next(sizes) if letter in letters else 1 for letter in action.output])
