"""What a cost table says of a model at any widths: seconds, what each layer adds to them, and which widths pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from math import exp, log

import numpy as np

from onnx_condense.arrays import Floats, Ints
from onnx_condense.errors import InputError
from onnx_condense.factoring.weights import Factorable
from onnx_condense.merging.twin import Twin
from onnx_condense.planning.allocation import Curve, Priced, cost
from onnx_condense.planning.costing import group_names, worthwhile
from onnx_condense.planning.thresholds import Planner
from onnx_condense.timing.costs import TINY, Costs, LayerCosts
from onnx_condense.tracing.trace import Trace


@dataclass(frozen=True, eq=False)
class Pair:
    """How two groups of a layer go together: what both take, over what follows from each alone.

    ends: widths [a] and [b], ascending. logs: [a, b].
    """

    groups: tuple[int, int]
    ends: tuple[Ints, Ints]
    logs: Floats

    def at(self, one: int, two: int) -> float:
        """The logarithm at two widths; in proportion between those that were measured."""
        rows = np.array([np.interp(two, self.ends[1], row) for row in self.logs])
        return float(np.interp(one, self.ends[0], rows))


@dataclass(frozen=True, eq=False)
class PricedLayer:
    """A layer, as a cost table has it.

    Attributes:
        whole: seconds as it is.
        widths: of its groups, as they are.
        alone: group -> width -> share of those seconds.
        pairs: of its groups.
    """

    whole: float
    widths: Mapping[int, int]
    alone: Mapping[int, Mapping[int, float]]
    pairs: tuple[Pair, ...]
    known: dict[tuple[int, ...], float]

    @property
    def keys(self) -> set[int]:
        """The groups that make it cheaper."""
        return {*self.widths}

    def cost(self, removed: Mapping[int, int]) -> float:
        """Seconds when so many channels of each group are gone."""
        now = tuple(width - removed.get(group, 0) for group, width in self.widths.items())
        if now not in self.known:
            self.known[now] = self._at(dict(zip(self.widths, now, strict=True)))
        return self.known[now]

    def _at(self, widths: Mapping[int, int]) -> float:
        """A width that was not measured takes what the next wider one does."""
        found = self.whole
        for group, shares in self.alone.items():
            found *= shares[min(width for width in shares if width >= widths[group])]
        narrower = [group for group, width in self.widths.items() if widths[group] < width]
        for pair in self.pairs:
            if {*pair.groups} <= {*narrower}:
                found *= exp(pair.at(*(widths[group] for group in pair.groups)))
        return found


@dataclass(frozen=True, eq=False)
class Seconds:
    """A budget of seconds.

    Attributes:
        trace: of the model.
        layers: what depends on widths.
        rest: seconds beside them.
        grid: group -> widths that were measured, the original's first.
    """

    trace: Trace
    layers: Sequence[PricedLayer]
    rest: float
    grid: Mapping[int, tuple[int, ...]]

    @staticmethod
    def of(costs: Costs, trace: Trace) -> Seconds:
        """Raises InputError where the table is another model's."""
        indices = {name: index for index, name in group_names(trace).items()}
        widths = {group.index: len(group.units) for group in trace.groups}
        again = "measure this one with onnx-condense bench --costs"
        for name, index in indices.items():
            if name not in costs.groups:
                raise InputError(f"the cost table is of another model ({costs.model}): it lacks {name}; {again}")
            if costs.groups[name][0] != widths[index]:
                raise InputError(
                    f"the cost table is of another model ({costs.model}): {name} has {widths[index]} channels, "
                    f"{costs.groups[name][0]} there; {again}"
                )
        slope, rest = costs.line
        known = [one for one in costs.layers if all(name in indices for name in one.groups)]
        layers = [_priced(one, slope, [indices[name] for name in one.groups]) for one in known]
        grid = {index: costs.groups[name] for name, index in indices.items()}
        return Seconds(trace, layers, rest, grid)

    @property
    def pairs(self) -> None:
        """No weight becomes a pair of factors: what those take was not measured."""
        return None

    @cached_property
    def before(self) -> float:
        """Of the original."""
        return self.seconds({})

    def seconds(self, removed: Mapping[int, int]) -> float:
        """When so many channels of each group are gone."""
        return max(TINY, self.rest + cost(self.layers, removed))

    def size(self, twin: Twin) -> float:
        """Of a twin."""
        removed = {g.index: int(np.count_nonzero(~twin.alive[g.units])) for g in self.trace.groups}
        return self.seconds({index: gone for index, gone in removed.items() if gone})

    def weights(self, planner: Planner, pairs: Mapping[int, Factorable]) -> Sequence[Priced]:
        """The layers."""
        return self.layers

    def stepped(self, curves: Mapping[int, Curve]) -> Mapping[int, Curve]:
        """Curves of groups that stop where that pays, as far as they may; a group that never pays is spared."""
        found = {}
        for index, curve in curves.items():
            whole, mine = self.grid[index][0], [layer for layer in self.layers if index in layer.keys]
            widths = [width for width in self.grid[index] if width == whole or whole - width in curve.steps]
            taken = [cost(mine, {index: whole - width}) for width in widths]
            steps = [whole - width for width in worthwhile(widths, taken)]
            if len(steps) > 1:
                found[index] = replace(curve, steps=np.array(steps[1:], dtype=np.int64))
        return found


def _priced(layer: LayerCosts, slope: float, groups: Sequence[int]) -> PricedLayer:
    """A layer whose seconds are those of the whole model."""
    whole_widths, whole = layer.points[0]
    base = max(whole, TINY)
    points = {widths: max(seconds, TINY) / base for widths, seconds in layer.points}
    full = dict(zip(groups, whole_widths, strict=True))
    alone: dict[int, dict[int, float]] = {group: {} for group in groups}
    for widths, share in points.items():
        other = [at for at, width in enumerate(widths) if width != whole_widths[at]]
        for at in range(len(groups)) if not other else other if len(other) == 1 else ():
            alone[groups[at]][widths[at]] = share
    pairs = [_pair(points, whole_widths, groups, alone, at) for at in combinations(range(len(groups)), 2)]
    return PricedLayer(slope * base, full, alone, tuple(pair for pair in pairs if pair is not None), {})


def _pair(
    points: Mapping[tuple[int, ...], float],
    full: tuple[int, ...],
    groups: Sequence[int],
    alone: Mapping[int, Mapping[int, float]],
    at: tuple[int, int],
) -> Pair | None:
    """How two groups, at these places, go together; None where that was not measured."""
    found: dict[tuple[int, int], float] = {}
    for widths, share in points.items():
        if all(
            (width != whole) == (place in at) for place, (width, whole) in enumerate(zip(widths, full, strict=True))
        ):
            one, two = (widths[place] for place in at)
            expected = [alone[groups[place]].get(widths[place]) for place in at]
            if all(expected):
                found[one, two] = log(share / float(np.prod([e for e in expected if e])))
    if not found:
        return None
    ends = [sorted({key[side] for key in found} | {full[at[side]]}) for side in (0, 1)]
    logs = np.zeros((len(ends[0]), len(ends[1])))
    for row, one in enumerate(ends[0]):
        for column, two in enumerate(ends[1]):
            logs[row, column] = found.get((one, two), 0.0)
    return Pair((groups[at[0]], groups[at[1]]), (np.array(ends[0]), np.array(ends[1])), logs)
