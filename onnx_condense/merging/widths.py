"""Which removals stand: every line loses equally many channels, and convolutions keep widths that run fast."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from onnx_condense.arrays import Bools, Floats, Ints
from onnx_condense.operators.answers import Role
from onnx_condense.tracing.balance import even_out
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Group, Trace


class Width(NamedTuple):
    """How a group's units make the width of its first producer.

    fixed: channels that stay in any case. per_unit: channels per unit. parts: heads or convolution groups that share
    the width evenly; each one's share is aligned. convolved: whether convolutions of images touch the channels.
    """

    fixed: int
    per_unit: int
    parts: int
    convolved: bool

    def fits(self, units: int, align: int) -> bool:
        """Whether so many units make a width that is aligned, and evenly over the parts."""
        return (self.fixed + units * self.per_unit) % (align * self.parts) == 0


def width(trace: Trace, group: Group) -> Width:
    """The width of a group's first producer."""
    slot = next(s for s in trace.slots_of(group) if s.role is Role.PRODUCED and s.node == group.producers[0])
    units = trace.unit_of[atoms_of(np.unique(slot.labels))]
    mine = int(np.isin(units, group.units).sum())
    actions = [trace.actions[slot.node] for slot in trace.slots_of(group)]
    convolved = any(a.convolves for a in actions)
    parts = max((len(np.unique(p.lines)) for p in group.partitions), default=1)
    return Width(len(units) - mine, max(1, mine // len(group.units)), parts, convolved)


def widths_allowed(trace: Trace, group: Group, align: int, most: int) -> Ints:
    """[k] after how many removals (1 to `most`) all lines are even and the width is a multiple of `align`."""
    whole = width(trace, group)
    steps = np.arange(1, most + 1)
    aligned = align > 1 and whole.convolved
    fits = [whole.fits(len(group.units) - n, align) if aligned else n % whole.parts == 0 for n in steps.tolist()]
    return np.asarray(steps[fits])


def hold_back(trace: Trace, group: Group, main: Ints, cosine: Floats, before: Bools, align: int) -> tuple[int, ...]:
    """Undoes merges, lowest cosine first, until all lines lose equally many and the width is a multiple of `align`.

    Args:
        main, cosine: [n] what each channel is merged into (-1: nothing), and how alike they are; changed in place.
        before: [n] channels that were still there.

    Returns:
        The channels that alignment held back.
    """
    wanted = (main != np.arange(len(main))) & before
    even = removed = even_out(wanted, cosine, group.partitions)
    whole = width(trace, group)
    while True:
        aligned = even_out(_align(removed, cosine, before, whole, align), cosine, group.partitions)
        if np.array_equal(aligned, removed):
            break
        removed = aligned
    undone = np.flatnonzero(wanted & ~removed)
    main[undone] = undone
    cosine[undone] = 1.0
    return tuple(np.flatnonzero(even & ~removed).tolist())


def _align(removed: Bools, cosine: Floats, before: Bools, width: Width, align: int) -> Bools:
    """Which removals stand when the width is to be a multiple of `align`."""
    leaving = np.flatnonzero(removed)
    if align <= 1 or not width.convolved or not len(leaving):
        return removed
    whole = int(before.sum())
    kept = whole - len(leaving)
    wanted = next((k for k in range(kept, whole) if width.fits(k, align)), whole)
    result = removed.copy()
    result[leaving[np.lexsort((leaving, cosine[leaving]))][: wanted - kept]] = False
    return result
