"""Whole heads: lines of a batch that products of data share, as channels.

The scores of a head follow from its queries and keys, what it makes from its scores and values: all that a product of
data reads along a batch axis is one channel from there on, line by line, and so is what it makes. A head is then a
channel that stands in many places, and leaves like any other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from onnx_condense.algebra.signals import Activated, Combined, Mapped, Signal
from onnx_condense.arrays import Ints, Labels
from onnx_condense.operators.actions import Activation, Product
from onnx_condense.operators.answers import Kind
from onnx_condense.operators.between import Operation
from onnx_condense.operators.reasons import Reason
from onnx_condense.tracing.labels import atoms_of, pack, signals_of, varying
from onnx_condense.tracing.outcomes import Contracted, Outcome, Stay
from onnx_condense.tracing.uniting import restricted, uniform
from onnx_condense.tracing.walk import Place, Walk, unknown

Factor = tuple[str, Labels]
"""What a product multiplies: a letter for each axis, and labels."""

SOFTMAX = Activation(Kind.BOUNDED, uniform_axes=(1,))


def lines_of(walk: Walk, place: Place, action: Product) -> set[str]:
    """The letters of a batch of both factors along which channels lie."""
    both, found = set(action.left) & set(action.right) & set(action.output), set[str]()
    for position, letters in enumerate((action.left, action.right)):
        labels = walk.at(place, position)
        found |= set() if labels is None else {letters[axis] for axis in varying(labels)}
    return found & both


def by_lines(walk: Walk, place: Place, action: Product, lines: Collection[str]) -> Outcome:
    """Lines of a batch are channels of the output. Raises Stay."""
    sides = [(letters, walk.at(place, position)) for position, letters in enumerate((action.left, action.right))]
    there = [(letters, labels) for letters, labels in sides if labels is not None]
    for position, (letters, labels) in enumerate(sides):
        shape = walk.shape(place.inputs[position])
        if labels is None and any(shape[letters.index(line)] > 1 for line in lines):
            raise Stay(_all(there), place.because(Reason.MEETS_OTHERS))
    factors = []
    for letters, labels in there:
        if not any(letters[axis] in lines for axis in varying(labels)):
            walk.pin(labels, place.because(Reason.READ, Reason.PRODUCT_OF_DATA))  # it serves all heads
        else:
            factors.append((letters, labels))
    return Contracted({place.output: multiplied(walk, place, factors, action.output, lines)})


def attended(
    walk: Walk, place: Place, queries: Labels | None, keys: Labels | None, values: Labels | None
) -> Labels | None:
    """[heads, width] labels of what attention makes of queries, keys and values [heads, width]; None where they stay.

    Raises Stay.
    """
    if queries is None or keys is None or values is None:
        for labels in (queries, keys, values):
            walk.pin(labels, place.because(Reason.READ, Reason.PRODUCT_OF_DATA))
        return None
    times = len(queries) // len(keys)
    served, summed = (np.repeat(labels, times, axis=0) for labels in (keys, values))
    scores = multiplied(walk, place, [("hd", queries), ("hd", served)], "h", "h")
    weights = walk.mapped(scores, lambda child: Activated(child, SOFTMAX, unknown))
    return multiplied(walk, place, [("h", weights), ("he", summed)], "he", "h")


def multiplied(walk: Walk, place: Place, factors: Sequence[Factor], output: str, lines: Collection[str]) -> Labels:
    """Labels, of the shape of the output, of a product of one or two factors: a channel in each line. Raises Stay."""
    parts, stuck = [], place.because(Reason.MEETS_OTHERS)
    for letters, labels in factors:
        if (labels < 0).any():
            raise Stay(_all(factors), stuck)
        own = restricted(walk, labels.reshape(-1)).reshape(labels.shape)
        own = uniform(walk, place, own, [axis for axis in varying(own) if letters[axis] not in output])
        parts.append(_as_output(letters, own, output))
    apart = [n for n, part in enumerate(parts) if any(output[axis] not in lines for axis in varying(part))]
    if len(apart) > 1:
        raise Stay(_all(factors), stuck)
    spread = np.broadcast_arrays(*parts)
    whole = spread[apart[0] if apart else 0]
    first = whole
    for axis in (axis for axis in varying(whole) if output[axis] not in lines):
        first = first.take([0], axis)
    for part in (np.broadcast_to(first, whole.shape), *spread):
        walk.sets.unite(atoms_of(whole).reshape(-1), atoms_of(part).reshape(-1))
    walk.heads.append(np.unique(atoms_of(first)))
    return _signed(walk, whole, [signals_of(part) for part in spread])


def _all(factors: Sequence[Factor]) -> Labels:
    """[n] the labels of all factors."""
    return np.concatenate([labels.reshape(-1) for _, labels in factors])


def _as_output(letters: str, labels: Labels, output: str) -> Labels:
    """Labels of a factor that do not vary along what is summed, with the axes of the output."""
    kept = [letters.index(letter) for letter in output if letter in letters]
    moved = labels.transpose([*kept, *(axis for axis in range(labels.ndim) if axis not in kept)])
    sizes = iter(moved.shape)
    return moved.reshape([next(sizes) if letter in letters else 1 for letter in output])


def _signed(walk: Walk, labels: Labels, sources: Sequence[Ints]) -> Labels:
    """Labels, of any shape, with the product of the signals that stand at their places, an array for each factor."""
    keys, result = np.stack(sources), np.empty_like(labels)
    for key in np.unique(keys.reshape(len(keys), -1), axis=1).T:
        where = (keys == key.reshape(-1, *[1] * labels.ndim)).all(axis=0)
        one, *other = (walk.signals[number] for number in key.tolist())
        made: Signal = Combined(Operation.MUL, one, other[0]) if other else one
        result[where] = pack(atoms_of(labels[where]), walk.signal(Mapped(made, biased=False)))
    return result
