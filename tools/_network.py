"""What the baselines of compare_accuracy.py know of a model: its groups, its size at given widths, and plans for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx

from onnx_condense import Options
from onnx_condense.arrays import Floats, Ints
from onnx_condense.merging.paths import Path, paths
from onnx_condense.merging.plan import GroupPlan, Read
from onnx_condense.merging.twin import Twin
from onnx_condense.operators.actions import Normalization
from onnx_condense.operators.queries import count_parameters
from onnx_condense.prepare import Opened, open_model
from onnx_condense.rewriting.checks import check_shapes
from onnx_condense.rewriting.kept import Disagreement
from onnx_condense.rewriting.writer import Written, write
from onnx_condense.tracing.labels import atoms_of
from onnx_condense.tracing.trace import Group, layer_name

Widths = Mapping[int, int]
"""Group index -> channels that stay; the other groups stay whole."""

BISECTIONS = 30


@dataclass(frozen=True)
class Network:
    """A model that is traced, with what a baseline needs to know of it."""

    opened: Opened

    @staticmethod
    def of(model: onnx.ModelProto) -> Network:
        """Traces a model. Raises InputError where it cannot be used."""
        return Network(open_model(model, Options()))

    @property
    def groups(self) -> tuple[Group, ...]:
        return self.opened.trace.groups

    @cached_property
    def parameters(self) -> int:
        """Of the original, without running statistics."""
        return count_parameters(self.opened.source.proto.graph)[0]

    @cached_property
    def inner(self) -> tuple[Group, ...]:
        """The groups of one producer: those between the layers of a block, not the residual streams."""
        return tuple(group for group in self.groups if len(group.producers) == 1)

    @cached_property
    def _weights(self) -> dict[str, tuple[int, list[Ints]]]:
        """Weight name -> its size, and the units along each of its labelled axes (-1: none)."""
        trace = self.opened.trace
        found: dict[str, tuple[int, int, list[Ints]]] = {}
        for slot in trace.slots:
            action, node = trace.actions[slot.node], trace.facts.nodes[slot.node]
            name = node.inputs[slot.input].name
            value = trace.facts.value_by_name(name)
            statistic = isinstance(action, Normalization) and slot.input in (action.mean, action.var)
            if value is None or statistic or found.get(name, (slot.node,))[0] != slot.node:
                continue
            atoms = atoms_of(slot.labels.reshape(-1))
            units = np.where(atoms >= 0, trace.unit_of[atoms], -1)
            found.setdefault(name, (slot.node, value.size, []))[2].append(units)
        return {name: (size, axes) for name, (_, size, axes) in found.items()}

    def size(self, widths: Widths) -> float:
        """About how many parameters are left at these widths."""
        stays = np.ones(len(self.opened.trace.unit_of) + 1)
        for group in self.groups:
            stays[group.units] = widths.get(group.index, len(group.units)) / len(group.units)
        saved = sum(s * (1 - np.prod([stays[units].mean() for units in axes])) for s, axes in self._weights.values())
        return float(self.parameters - saved)

    def uniform(self, groups: tuple[Group, ...], target: float) -> Widths:
        """The largest widths, one share of the channels for all these groups, that leave at most so many parameters.

        Shares are met on average: of groups that would all round at once, some round later (a van der Corput sequence),
        so that sizes in between can be had.
        """

        def at(share: float) -> dict[int, int]:
            return {
                g.index: min(len(g.units), max(1, int(share * len(g.units) + _corput(number))))
                for number, g in enumerate(groups)
            }

        low, high = 0.0, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.size(at(middle)) <= target else (low, middle)
        return at(low)


def _corput(number: int) -> float:
    """The number's binary digits mirrored at the point: 0, 1/2, 1/4, 3/4, 1/8 ..."""
    return sum(int(digit) / 2**place for place, digit in enumerate(reversed(f"{number:b}"), 1))


Method = Callable[[Network, Widths], Twin]


def narrowed(network: Network, method: Method, widths: Widths) -> Written:
    """The model at these widths; groups whose shapes do not work out stay whole."""
    while True:
        twin = method(network, widths)
        try:
            check_shapes(twin)
            return write(twin, {})
        except Disagreement as problem:
            concerned = {g.index for g in network.groups if np.isin(g.units, problem.units).any()} & set(widths)
            if not concerned:
                raise
            widths = {index: width for index, width in widths.items() if index not in concerned}


def shares(group: Group, width: int) -> list[tuple[Ints, int]]:
    """(channels, how many of them stay) of each cell."""
    return [(cell, min(len(cell), max(1, round(len(cell) * width / len(group.units))))) for cell in group.cells]


def plan(twin: Twin, group: Group, main: Ints, reads: Mapping[int, tuple[Floats, Floats]]) -> GroupPlan:
    """`reads`: signal -> (ratio, constant) [n] of what leaves; 0 and 0 where it says nothing."""
    n = len(group.units)
    nothing = (main == np.arange(n)).astype(float), np.zeros(n)

    def read(path: Path) -> Read:
        ratio, constant = reads.get(path.signal, nothing)
        slot, node = path.slot, twin.trace.facts.nodes[path.slot.node]
        name = layer_name(node, slot.node)
        return Read(slot.node, slot.input, path.number, name, tuple(ratio.tolist()), tuple(constant.tolist()))

    return GroupPlan(
        group.index,
        group.layers,
        tuple(main.tolist()),
        (1.0,) * n,
        1.0,
        (),
        tuple(read(path) for path in paths(twin.trace, group)),
    )
