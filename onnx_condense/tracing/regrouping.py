"""Whether a Reshape regroups channels in the same way at every size of the inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_condense.arrays import Labels
from onnx_condense.operators.facts import Facts
from onnx_condense.operators.moves import Move, Unmovable, blocks
from onnx_condense.operators.reasons import Reason
from onnx_condense.tracing.labels import varying

Ends = tuple[str, str]
"""Names of the tensors that a movement leads from and to."""


def regrouped_otherwise(facts: Facts, ends: Ends, action: Move, labels: Labels) -> Reason | None:
    """Why labels, in a tensor's shape, do not come to lie alike at every size of the inputs, None where they do."""
    if _meets_unknown(facts, ends, labels):
        return Reason.SIZE_UNKNOWN
    source, target = ends
    resized = [{a for a in range(len(facts.shapes[name])) if facts.is_resized(name, a)} for name in ends]
    if resized[0].intersection(varying(labels)):
        return None  # places that follow a size already: the proof at other sizes tells
    found: list[Labels] = []
    for shapes in facts.all_shapes:
        try:
            found += action.to(shapes[target]).moved(labels, shapes[source])
        except Unmovable:
            continue
    return None if all(_are_alike(found[0], moved, resized[1]) for moved in found) else Reason.REGROUPS_BY_SIZE


def _meets_unknown(facts: Facts, ends: Ends, labels: Labels) -> bool:
    """Whether axes that labels lie on are regrouped with an unknown one, or lie between some that are.

    Where all that lies behind them (or before) is known, what is before (or behind) has one size on both sides. Where
    all sizes of the result are known, so is the product of unknown ones in a row.
    """
    before, after = ({a for a in range(len(facts.shapes[n])) if facts.is_unknown(n, a)} for n in ends)
    if not before | after:
        return False
    if not after and len(before) == max(before) - min(before) + 1:
        return bool(before.intersection(varying(labels)))
    found = blocks(*(facts.shapes[name] for name in ends))
    unknown = [_is_regrouped(set(left) & before, set(right) & after, left, right) for left, right in found]
    labelled = [place for place, (left, _) in enumerate(found) if any(labels.shape[axis] > 1 for axis in left)]
    return any(unknown[place] or (any(unknown[:place]) and any(unknown[place:])) for place in labelled)


def _is_regrouped(before: set[int], after: set[int], left: Sequence[int], right: Sequence[int]) -> bool:
    """Whether the axes of a block, `left` on one side and `right` on the other, are not one unknown axis that stays."""
    stays = bool(before and after) and len(left) == len(right) == 1
    return bool(before or after) and not stays


def _are_alike(one: Labels, other: Labels, resized: set[int]) -> bool:
    """Whether labels at two sizes are the same; on axes that follow the size, as far as both go.

    Where they lie on one such axis alone (a flattened image) they may be spread otherwise: it is read place by place.
    """
    if varying(one) != varying(other) or one.ndim != other.ndim:
        return False
    if one.shape != other.shape and len(varying(one)) == 1:
        return True
    pairs = enumerate(zip(one.shape, other.shape, strict=True))
    common = tuple(slice(min(pair) if axis in resized else None) for axis, pair in pairs)
    return np.array_equal(one[common], other[common])
