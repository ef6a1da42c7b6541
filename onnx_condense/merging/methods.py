"""Merge methods: one row each, of how channels are chosen and what the consumers make of those that go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnx_condense.algebra.directions import approximate, passes_constants, stages_of
from onnx_condense.algebra.numbers import Numbers
from onnx_condense.algebra.relations import Relations
from onnx_condense.algebra.signals import Signal
from onnx_condense.algebra.stages import Rule, Stage, final_rules
from onnx_condense.arrays import Floats, Ints
from onnx_condense.merging.similarity import ratios
from onnx_condense.options import Depthwise, Method, Options


@dataclass(frozen=True, eq=False)
class Pairs:
    """Channels j [k] of a cell and the ones that they merge into, m [k], on one path."""

    numbers: Numbers
    signal: Signal
    relations: Relations
    depthwise: Depthwise

    @property
    def j(self) -> Ints:
        """[k] those that go."""
        return self.relations.j

    @property
    def m(self) -> Ints:
        """[k] those that stay."""
        return self.relations.m


Becomes = Callable[[Pairs], tuple[Floats, Floats]]
"""What removed channels are of their main channels: ratios [k] and constant parts [k]."""


@dataclass(frozen=True)
class Manner:
    """How a method treats the channels of a group, and the consumers of those that go.

    Attributes:
        exact: channels merge where that is exact to rounding, whatever the threshold.
        frees: channels that nobody reads or that are constant go, too.
        becomes: what a removed channel is of its main channel.
        refits: consumers get the weights that lose least.
        cautious: where nothing states the statistics of the channels, only if the outputs lose less by it.
        calibrates: calibration inputs say which weights lose least, where there are any.
        apart: what a BatchNormalization adds is no part of a channel's vector.
        bare: rows must be alike without their biases, too, where these may hold those of a BatchNormalization: they
            can dwarf a row, and consumers get biases of their own.
        depthwise: which stages of a depthwise-separable block are judged.
    """

    exact: bool
    frees: bool
    becomes: Becomes
    refits: bool = False
    cautious: bool = False
    calibrates: bool = False
    apart: bool = False
    bare: bool = False
    depthwise: Depthwise = Depthwise.JOINT

    def stages(self, numbers: Numbers, signal: Signal) -> list[Stage]:
        """The stages that decide whether channels condense on a path, with their final rules."""
        if self.exact:
            return candidates(numbers, signal)
        found = stages(numbers, signal, self.depthwise)
        return [*found, *map(_bare, found)] if self.bare else found


def manner_of(options: Options, method: Method | None = None) -> Manner:
    """How the channels of a run are treated; or by another method, in the same run."""
    return replace(MANNERS[method or options.method], depthwise=Depthwise(options.depthwise))


def stages(numbers: Numbers, signal: Signal, depthwise: Depthwise) -> list[Stage]:
    """The stages whose vectors must be alike, with their final rules."""
    found = _real(numbers, signal)
    if depthwise is Depthwise.KERNEL and any(f.taps for f in found):
        found = [replace(f, bias=f.bias[:, :0]) for f in found if f.taps]
    return final_rules(found)


def candidates(numbers: Numbers, signal: Signal) -> list[Stage]:
    """The stages as a superset of what can be exact: any collinear pair.

    The bias counts only where it must follow the rows: not where a constant passes, nor behind other stages.
    """
    linear = passes_constants(signal, numbers)
    return [_candidate(stage, linear) for stage in _real(numbers, signal)]


def relation(pairs: Pairs) -> tuple[Floats, Floats]:
    """([k], [k]): the affine function of its main channel that a removed channel equals."""
    found = pairs.relations.of(pairs.signal, pairs.numbers)
    return found.ratio, found.constant


def ratio_product(pairs: Pairs) -> tuple[Floats, Floats]:
    """([k], [k]): the product of the ratios of all stages (paper, section 2.1.4)."""
    ratio = np.ones(len(pairs.j))
    for stage in stages(pairs.numbers, pairs.signal, pairs.depthwise):
        ratio = ratio * ratios(stage, pairs.j, pairs.m)
    return approximate(pairs.signal, pairs.numbers, ratio, pairs.j, pairs.m)


def nothing(pairs: Pairs) -> tuple[Floats, Floats]:
    """([k], [k]): removed channels are dropped."""
    return np.zeros(len(pairs.j)), np.zeros(len(pairs.j))


def _bare(stage: Stage) -> Stage:
    """A stage without its biases, where they may dwarf its rows; else as it is."""
    if not stage.folds or not stage.vectors.any().any() or not stage.bias.any():
        return stage
    return replace(stage, bias=np.zeros_like(stage.bias))


def _real(numbers: Numbers, signal: Signal) -> list[Stage]:
    return [stage for stage in stages_of(signal, numbers) if not stage.virtual]


def _candidate(stage: Stage, linear: bool) -> Stage:
    bias = np.zeros_like(stage.bias) if linear or stage.prefix else stage.bias
    empty = ~(stage.vectors.any() | bias.any(axis=1))
    return replace(stage, vectors=stage.vectors.filled(empty), bias=bias, rule=Rule.ANY)


REFITTED = Manner(exact=False, frees=True, becomes=ratio_product, refits=True, bare=True)
"""What the methods whose consumers get the weights that lose least have in common."""

MANNERS: Mapping[Method, Manner] = {
    Method.LOSSLESS: Manner(exact=True, frees=True, becomes=relation),
    Method.AUTO: replace(REFITTED, cautious=True, calibrates=True),
    Method.CALIBRATED: replace(REFITTED, calibrates=True),
    Method.MOMENTS: REFITTED,
    Method.RATIO: Manner(exact=False, frees=False, becomes=ratio_product, apart=True),
    Method.DELETE: Manner(exact=False, frees=False, becomes=nothing, apart=True),
}
"""Every method; what its name means to a caller is said in `Options`."""
