"""Stages: the vectors whose directions decide whether two channels condense, and the algebra of joining them.

Producers that are added form one concatenated vector with one ratio. Stages in series (expansion, depthwise) or
multiplied (gates) are judged one by one: similarity is their minimum, the ratio their product.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import reduce

import numpy as np

from onnx_condense.algebra.vectors import Vectors
from onnx_condense.arrays import Floats
from onnx_condense.operators.answers import Kind


class Rule(IntEnum):
    """How two vectors must agree, and the ratio that their merge takes."""

    ANY = 0
    """Collinear: |cos|, ratio ± the norms' ratio. Purely linear paths."""
    POSITIVE = 1
    """Same direction: cos, ratio of the norms. The paper's rule (sections 2.1.2 to 2.1.4)."""
    ODD = 2
    """Equal or opposite: |2<u,v>| / (|u|² + |v|²), ratio ±1."""
    EQUAL = 3
    """Equal: 2<u,v> / (|u|² + |v|²), ratio 1."""

    def meet(self, other: Rule) -> Rule:
        """The weakest rule that implies both."""
        return Rule.EQUAL if {self, other} == {Rule.POSITIVE, Rule.ODD} else max(self, other)


@dataclass(frozen=True, eq=False)
class Stage:
    """One stage of a channel: vectors [n, p] with bias [n, q], of one product of stages.

    leaves: the producers it comes from. bent: a non-homogeneous function has been applied to it. open: no function has
    been applied yet, an affine still enters it. virtual: it is only the affine after the last function.
    taps: it is a depthwise kernel. folds: its biases may hold those of a BatchNormalization. prefix: stages before
    this one, by whose norms its bias is measured.
    """

    vectors: Vectors
    bias: Floats
    leaves: frozenset[int]
    rule: Rule = Rule.ANY
    bent: bool = False
    open: bool = True
    virtual: bool = False
    taps: bool = False
    folds: bool = False
    prefix: tuple[frozenset[int], ...] = ()

    def with_bias(self) -> Floats:
        """[n, p + q]: a new array of vectors and biases."""
        rows = self.vectors.array()
        return np.hstack([rows, self.bias.astype(rows.dtype)])

    def under(self, rule: Rule, bent: bool = False) -> Stage:
        """Behind a function: the stage itself where it is under that rule already."""
        if rule is self.rule and self.bent >= bent and not self.open and not self.virtual:
            return self
        return replace(self, rule=self.rule.meet(rule), bent=self.bent or bent, open=False, virtual=False)


def final_rules(stages: list[Stage]) -> list[Stage]:
    """Stages in series or multiplied: one that passed a non-homogeneous function must be equal."""
    if len(stages) > 1:
        stages = [replace(f, rule=Rule.EQUAL) if f.bent else f for f in stages]
    free = {f.leaves: f for f in _free(stages)}
    norms: dict[frozenset[int], Floats] = {}
    known, scale = tuple[frozenset[int], ...](), np.ones(1)
    result = []
    for stage in stages:
        prefix = stage.prefix
        if prefix[: len(known)] != known:
            known, scale = (), np.ones(1)
        for key in prefix[len(known) :]:
            if key in free:
                if key not in norms:
                    norms[key] = np.linalg.norm(free[key].with_bias(), axis=1)
                scale = scale * norms[key]
        known = prefix
        scaled = stage.bias / np.where(scale == 0, 1, scale)[:, None] if prefix else stage.bias
        result.append(replace(stage, bias=scaled, prefix=()))
    return result


def activate(stages: list[Stage], kind: Kind) -> list[Stage]:
    """The stages behind an elementwise function of a kind."""
    if kind is Kind.LINEAR:
        return stages
    single = len(stages) == 1
    rules = {
        Kind.HOMOGENEOUS: Rule.POSITIVE,
        Kind.ABSOLUTE: Rule.POSITIVE,
        Kind.UNBOUNDED: Rule.POSITIVE,
        Kind.ODD: Rule.ODD if single else Rule.EQUAL,
        Kind.BOUNDED: Rule.EQUAL,
    }
    bent = kind not in (Kind.HOMOGENEOUS, Kind.ABSOLUTE)
    return [f.under(rules[kind], bent) for f in stages]


def add(left: list[Stage], right: list[Stage]) -> list[Stage]:
    """Producers that are added form one concatenated vector with one ratio."""
    if _producers(left) == _producers(right):
        return _of_the_same(_distinct(left), _distinct(right))
    left, right = _real(left), _real(right)
    if len(left) == len(right) == 1 and left[0].open and right[0].open:
        return [_concatenated(left[0], right[0])]
    together = _distinct(left + right)
    free = _free(left), _free(right)
    if max(map(len, free)) == 1:
        return [*(f for f in together if f.rule is Rule.EQUAL), _joined([*free[0], *free[1]])]
    return [replace(f, rule=Rule.EQUAL, open=False) for f in together]


def _producers(stages: list[Stage]) -> set[frozenset[int]]:
    """The producers of each stage."""
    return {f.leaves for f in stages}


def _real(stages: list[Stage]) -> list[Stage]:
    """The stages that are more than the affine after the last function."""
    return [f for f in stages if not f.virtual]


def _free(stages: list[Stage]) -> list[Stage]:
    """The stages whose merge may take a ratio."""
    return [f for f in stages if f.rule is not Rule.EQUAL]


def _of_the_same(left: list[Stage], right: list[Stage]) -> list[Stage]:
    """What comes from the same producers is as it was, under the rules of both."""
    same = {stage.leaves: stage for stage in right}
    pairs = ((stage, same[stage.leaves]) for stage in left)
    return [a.under(b.rule, b.bent) for a, b in pairs]


def _concatenated(a: Stage, b: Stage) -> Stage:
    """One vector of two that no function has been applied to; biases add up where they do not vary in space."""
    if a.bias.shape[1] == b.bias.shape[1] == 1 or a.bias.shape == b.bias.shape:
        bias = a.bias + b.bias
    else:
        bias = np.hstack([a.bias, b.bias])
    vectors = a.vectors.beside(b.vectors)
    rule = a.rule.meet(b.rule)
    return Stage(vectors, bias, a.leaves | b.leaves, rule, a.bent or b.bent, folds=a.folds or b.folds)


def _joined(free: list[Stage]) -> Stage:
    """One vector of the stages whose ratio is free, one from each side at most; alone, one must be equal."""
    vectors = [v for f in free for v in (f.vectors, Vectors.of(f.bias.astype(f.vectors.dtype)))]
    leaves = frozenset().union(*(f.leaves for f in free))
    rule = reduce(Rule.meet, (f.rule for f in free)) if len(free) > 1 else Rule.EQUAL
    bent = any(f.bent for f in free)
    return Stage(
        vectors[0].beside(*vectors[1:]),
        np.zeros((len(free[0].bias), 1)),
        leaves,
        rule,
        bent,
        open=rule is not Rule.EQUAL,
    )


def multiply(left: list[Stage], right: list[Stage]) -> list[Stage]:
    """Stages that are multiplied are judged one by one; a function of one signal (x · sigmoid(x)) is one stage."""
    left = [replace(f, open=False, virtual=False) for f in left]
    right = [replace(f, open=False, virtual=False) for f in right]
    if len(left) == len(right) == 1 and left[0].leaves == right[0].leaves:
        a, b = sorted((left[0], right[0]), key=lambda f: f.rule)
        unbounded = a.rule in (Rule.ANY, Rule.POSITIVE) and b.rule in (Rule.ODD, Rule.EQUAL)
        return [replace(a, rule=Rule.POSITIVE if unbounded else Rule.EQUAL, bent=True)]
    return _distinct(left + right)


def _distinct(stages: list[Stage]) -> list[Stage]:
    found: dict[frozenset[int], Stage] = {}
    for stage in stages:
        other = found.get(stage.leaves)
        found[stage.leaves] = stage if other is None else replace(other, rule=Rule.EQUAL)
    return list(found.values())
