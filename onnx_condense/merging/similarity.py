"""Cosines and the greedy condensation groups of the paper (sections 2.1.2 to 2.1.4). Numpy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_condense.algebra.stages import Rule, Stage
from onnx_condense.arrays import Bools, Floats, Ints

BLOCK = 512
"""Rows per block of the Gram product; memory beyond the result is a few blocks and one copy of the vectors."""

SMALL = 2**22
"""Up to this many weights a layer is judged in float64; beyond it in the precision of its weights."""


AT_ONCE = 2**20
"""Weights of channels that are compared in float64 at once."""


def similarity(stages: Sequence[Stage], n: int, block: int = BLOCK, small: int = SMALL) -> Floats:
    """[n, n]: the minimum over all stages of how alike two channels are, clipped to [-1, 1]; -1 without any stage.

    The diagonal is -1: a neuron is not its own neighbour.

    Args:
        stages: of the channels.
        n: how many channels.
        block: rows whose products are taken at once.
        small: up to this many weights the result is in float64.
    """
    result = np.empty((n, n), dtype=np.float64 if precise(stages, n, small) else np.float32)
    if not stages:
        result.fill(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        for number, stage in enumerate(stages):
            _lower(result, stage, number == 0, block)
    np.fill_diagonal(result, -1)
    return result


def precise(stages: Sequence[Stage], n: int, small: int = SMALL) -> bool:
    """Whether n channels are judged in float64."""
    return n * max((f.vectors.shape[1] for f in stages), default=0) <= small


@dataclass(frozen=True, eq=False)
class Compared:
    """One stage, ready to be compared: vectors [n, p], of length 1 where only their direction counts.

    squares: [n] of their lengths before.
    """

    rule: Rule
    vectors: Floats
    squares: Floats

    @staticmethod
    def of(stage: Stage, kind: type[np.floating[Any]]) -> Compared:
        """A stage in a type of floats."""
        vectors = stage.with_bias().astype(kind, copy=False)
        squares = np.einsum("ij,ij->i", vectors, vectors)
        if stage.rule in (Rule.ANY, Rule.POSITIVE):
            lengths = np.sqrt(squares)
            vectors /= np.where(lengths == 0, 1, lengths)[:, None]
        return Compared(stage.rule, vectors, squares)

    def products(self, start: int, block: int = BLOCK) -> Floats:
        """[block, n - start]: how alike channels from `start` on are to all from there on."""
        rows = slice(start, start + block)
        gram: Floats = self.vectors[rows] @ self.vectors[start:].T
        if self.rule not in (Rule.ANY, Rule.POSITIVE):
            sums = self.squares[rows, None] + self.squares[None, start:]
            gram *= 2 / np.where(sums == 0, 1, sums)
        if self.rule in (Rule.ANY, Rule.ODD):
            np.abs(gram, out=gram)
        np.fmax(gram, -1, out=gram)  # a NaN becomes -1: not alike
        np.minimum(gram, 1, out=gram)
        return gram


def _lower(result: Floats, stage: Stage, first: bool, block: int) -> None:
    """Takes the minimum with one stage (or stores the first), upper triangle by blocks of rows, mirrored."""
    compared, n = Compared.of(stage, result.dtype.type), len(result)
    for start in range(0, n, block):
        rows = slice(start, start + block)
        gram = compared.products(start, block)
        part = result[rows, start:]
        np.copyto(part, gram if first else np.minimum(part, gram))
        for column in range(start, n, block):
            columns = slice(column, column + block)
            result[columns, rows] = result[rows, columns].T


def ratios(stage: Stage, j: Ints, m: Ints) -> Floats:
    """[k] what channels j [k] are of m [k] by one stage: ||v_j|| / ||v_m||, signed where the path is linear.

    Paper, section 2.1.4, with the sign and the bounded activations of `Rule`.
    """
    if stage.rule is Rule.EQUAL:
        return np.ones(len(j))
    rows = stage.vectors.array()
    sections = 1 + len(j) * rows.shape[1] // AT_ONCE
    pairs = zip(np.array_split(j, sections), np.array_split(m, sections), strict=True)
    return np.concatenate([_ratios(stage, rows, *pair) for pair in pairs])


def _ratios(stage: Stage, rows: Floats, j: Ints, m: Ints) -> Floats:
    """As `ratios`, [k] of few channels j [k] and m [k]; rows: [n, p] of the stage."""
    left, right = (np.hstack([rows[i], stage.bias[i]]).astype(np.float64) for i in (j, m))
    below = np.linalg.norm(right, axis=1)
    ratio = np.linalg.norm(left, axis=1) / np.where(below == 0, 1, below)
    if stage.rule is Rule.POSITIVE:
        return np.asarray(ratio)
    sign = np.where(np.einsum("ij,ij->i", left, right) < 0, -1.0, 1.0)
    return sign if stage.rule is Rule.ODD else sign * ratio


Confirm = Callable[[Ints, int], Bools]


def condensation_groups(alike: Floats, threshold: float, confirm: Confirm | None = None, block: int = BLOCK) -> Ints:
    """[n]: the main neuron of every neuron, itself where it is one.

    The main neuron is the ungrouped one with the most ungrouped neighbours above the threshold (itself not counted,
    ties to the lowest index); they are its group (paper, section 2.1.4). `confirm(members, main)` turns members away.
    Rows of `alike` [n, n] are counted `block` at once.
    """
    n = len(alike)
    main = np.arange(n)
    counts = np.zeros(n, dtype=np.int64)
    for start in range(0, n, block):
        counts[start : start + block] = np.count_nonzero(alike[start : start + block] > threshold, axis=1)
    open_ = np.ones(n, dtype=bool)
    while True:
        chosen = int(np.argmax(np.where(open_, counts, -1)))
        if not open_[chosen] or counts[chosen] < 1:
            return main
        members = np.flatnonzero(open_ & (alike[chosen] > threshold))
        if confirm is not None:
            members = members[confirm(members, chosen)]
        main[members] = chosen
        taken = np.append(members, chosen)
        open_[taken] = False
        for start in range(0, len(taken), block):
            counts -= np.count_nonzero(alike[taken[start : start + block]] > threshold, axis=0)


def groups_by_side(alike: Sequence[Floats], threshold: float, confirm: Sequence[Confirm | None]) -> tuple[Ints, Ints]:
    """([n], [n]): the main neuron of every neuron, as in `condensation_groups`, and by which table it was found.

    A main neuron takes its group from one of the tables, that with most neighbours; `confirm` has one for each.
    """
    n = len(alike[0])
    main, side, open_ = np.arange(n), np.zeros(n, dtype=np.int64), np.ones(n, dtype=bool)
    counts = np.array([np.count_nonzero(table > threshold, axis=1) for table in alike])
    while True:
        which, chosen = divmod(int(np.argmax(np.where(open_, counts, -1))), n)
        if not open_[chosen] or counts[which, chosen] < 1:
            return main, side
        members = np.flatnonzero(open_ & (alike[which][chosen] > threshold))
        turned_away = confirm[which]
        if turned_away is not None:
            members = members[turned_away(members, chosen)]
        counts[which, chosen] = 0
        if not len(members):
            continue
        taken = np.append(members, chosen)
        main[members], side[taken], open_[taken] = chosen, which, False
        for table, count in zip(alike, counts, strict=True):
            count -= np.count_nonzero(table[taken] > threshold, axis=0)
