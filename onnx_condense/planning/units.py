"""What a budget counts: one row per unit, and the weights of a model priced in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from onnx_condense.factoring.weights import Factorable
from onnx_condense.goals import Unit
from onnx_condense.merging.twin import Twin
from onnx_condense.planning.allocation import Curve, Priced, PricedPair, PricedWeight
from onnx_condense.planning.thresholds import Planner
from onnx_condense.rewriting.sizes import count_macs, parameters_of
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Slot, Trace


@dataclass(frozen=True)
class Counting:
    """How a unit counts.

    Attributes:
        price: what an element of a weight costs, by the node that uses it and its place among the inputs.
        once: a weight that several nodes use counts once.
        measure: how many units a twin has.
    """

    price: Callable[[Trace, int, int], float]
    once: bool
    measure: Callable[[Twin], int]


def _stored(trace: Trace, node: int, position: int) -> float:
    """1, running statistics 0."""
    return 0.0 if position in trace.actions[node].statistics else 1.0


def _multiplied(trace: Trace, node: int, position: int) -> float:
    """How often an element is multiplied."""
    inputs, output = trace.shapes_at(node)
    return float(trace.actions[node].multiplications(position, inputs, output))


COUNTINGS: Mapping[Unit, Counting] = {
    Unit.PARAMS: Counting(_stored, once=True, measure=parameters_of),
    Unit.MACS: Counting(_multiplied, once=False, measure=count_macs),
}


@dataclass(frozen=True)
class Units:
    """A budget of parameters or of multiply-accumulates."""

    unit: Unit

    @property
    def pairs(self) -> Unit | None:
        """What pairs of factors are counted in; None where no weight becomes one."""
        return self.unit

    def size(self, twin: Twin) -> float:
        """How many a twin has."""
        return COUNTINGS[self.unit].measure(twin)

    def weights(self, planner: Planner, pairs: Mapping[int, Factorable]) -> Sequence[Priced]:
        """Every weight that holds channels, priced; pairs: key in allocations -> a weight that may become a pair."""
        return priced_weights(planner, self.unit, pairs)

    def stepped(self, curves: Mapping[int, Curve]) -> Mapping[int, Curve]:
        """Curves of groups, where these may stop: wherever alignment lets them."""
        return curves


def priced_weights(
    planner: Planner, unit: Unit, pairs: Mapping[int, Factorable] = MappingProxyType({})
) -> list[PricedWeight]:
    """Every weight that holds channels: its price per element, and which group slices which of its axes.

    pairs: key in allocations -> a weight that may become a pair of factors.
    """
    trace, counting = planner.trace, COUNTINGS[unit]
    owner_of = np.full(len(trace.unit_of), -1, dtype=np.int64)
    for group in planner.groups:
        owner_of[group.units] = group.index
    widths = {group.index: len(group.units) for group in planner.groups}
    found: dict[tuple[int, int] | str, PricedWeight] = {}
    for slot in trace.slots:
        name = trace.facts.nodes[slot.node].inputs[slot.input].name
        value = trace.facts.value_by_name(name)
        price = counting.price(trace, slot.node, slot.input)
        if value is None or not price:
            continue
        key: tuple[int, int] | str = name if counting.once else (slot.node, slot.input)
        weight = found.get(key, PricedWeight(price, value.shape, ()))
        atoms = atoms_of(slot.labels.reshape(-1))
        owners = np.where(atoms >= 0, owner_of[trace.unit_of[atoms]], -1)
        for owner in np.unique(owners[owners >= 0]).tolist():
            weight = weight.sliced(_slice(trace, slot, owner, int((owners == owner).sum()) / widths[owner]))
        found[key] = weight
    for rank_key, one in pairs.items():
        price = counting.price(trace, *one.place)
        pair = PricedPair(rank_key, one.full, one.produced - len(one.shape), 1.0 if one.lookup else price)
        key = one.name if counting.once else one.place
        found[key] = replace(found.get(key, PricedWeight(price, one.shape, ())), pair=pair)
    return list(found.values())


def _slice(trace: Trace, slot: Slot, owner: int, places: float) -> tuple[int, int, float]:
    """(axis from the end, group, places that each of the group's channels takes on it) of a slot's weight."""
    axis = trace.balance.cut(slot.labels)[1]
    lines = slot.groups if slot.axes == (1,) else slot.labels.size // slot.labels.shape[axis]
    return axis - slot.labels.ndim, owner, places / lines
