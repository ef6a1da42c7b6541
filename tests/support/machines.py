"""Machines that take what a rule says, and a network for them to time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx

import onnx_condense as oc
from onnx_condense.model.inputs import Feed
from onnx_condense.pipeline import Surroundings, condense_in
from onnx_condense.planning.hardware import ThisMachine
from onnx_condense.planning.latencies import TargetReport
from onnx_condense.timing.kernels import Moves, Small, Taken
from onnx_condense.timing.race import MedianInterval, Told
from support.planted.net import Net

BLOCK = 8
FREE = 40
"""Inputs of a layer that costs nothing."""

NOTHING = Moves(0, 0.0)


def blocked(rows: int, columns: int) -> float:
    """A layer in blocks of 8 outputs; one of 40 inputs costs nothing."""
    return 0.0 if columns == FREE else 1e-6 * -(-rows // BLOCK) * columns


@dataclasses.dataclass(frozen=True)
class Ruled(ThisMachine):
    """A machine on which a dense layer takes what a rule says, and a whole model a little more."""

    rule: Callable[[int, int], float] = blocked
    saves: float = 1.0

    def kernel_seconds(self, models: Sequence[Small], threads: int) -> list[Taken]:
        return [Taken(self._of(onnx.ModelProto.FromString(one.model)), NOTHING, NOTHING) for one in models]

    def run_seconds(self, models: Sequence[Small], threads: int) -> list[float]:
        return [1e-5 + self._of(onnx.ModelProto.FromString(one.model)) for one in models]

    def ratio(
        self, pair: Sequence[Path], feeds: Sequence[Feed], threads: int, told: Told | None = None
    ) -> MedianInterval:
        before, after = (1e-5 + self._of(onnx.load(path)) for path in pair)
        found = 1 - self.saves * (1 - after / before)
        return MedianInterval(found, found - 0.01, found + 0.01)

    def _of(self, model: onnx.ModelProto) -> float:
        return sum(self.rule(*t.dims) for t in model.graph.initializer if len(t.dims) == 2)


@dataclasses.dataclass(frozen=True)
class Disturbed(Ruled):
    """The same, slowed down by others in turn, while some small models are timed; 1 ms for what is no dense layer."""

    slower: tuple[float, ...] = (2.0, 3.0, 1.0)
    asked: list[int] = dataclasses.field(default_factory=list)

    def kernel_seconds(self, models: Sequence[Small], threads: int) -> list[Taken]:
        self.asked.append(len(models))
        slower = self.slower[len(self.asked) % len(self.slower)]
        found = [self._of(onnx.ModelProto.FromString(one.model)) or 1e-3 for one in models]
        return [Taken(slower * seconds, Moves(1, slower * 1e-6), NOTHING) for seconds in found]


@dataclasses.dataclass(frozen=True)
class Waiting(Ruled):
    """The same, several threads of which wait a millisecond in every layer, and compute it in a tenth of the time."""

    def kernel_seconds(self, models: Sequence[Small], threads: int) -> list[Taken]:
        found = super().kernel_seconds(models, threads)
        return found if threads == 1 else [Taken(1e-3 + 0.1 * one.seconds, NOTHING, NOTHING) for one in found]


@dataclasses.dataclass(frozen=True)
class Silent(ThisMachine):
    """A machine that must not be asked."""

    def kernel_seconds(self, models: Sequence[Small], threads: int) -> list[Taken]:
        raise AssertionError("nothing is timed")

    def ratio(
        self, pair: Sequence[Path], feeds: Sequence[Feed], threads: int, told: Told | None = None
    ) -> MedianInterval:
        raise AssertionError("nothing races")


def network() -> onnx.ModelProto:
    """Dense layers of 64, 40, 64 and 64 channels; what reads the 40 costs nothing, nor does what makes them less."""
    net = Net(seed=3)
    x = net.input("batch", 12)
    for number, (rows, columns) in enumerate([(64, 12), (40, 64), (64, 40), (64, 64)]):
        x = net.node("Relu", net.dense(f"fc{number}", x, net.normal(rows, columns), net.normal(rows)))
    return net.build(net.dense("head", x, net.normal(5, 64), net.normal(5)))


def condensed(machine: ThisMachine, model: onnx.ModelProto | None = None, **options: Any) -> oc.Result:
    given = oc.Options(**{"budget": ("latency", 0.7)} | options)
    return condense_in(Surroundings(hardware=machine), model or network(), given)


def target_of(result: oc.Result) -> TargetReport:
    assert result.report.target is not None
    return result.report.target


def widths(result: oc.Result) -> dict[str, int]:
    return {group.layers[0]: group.width_after for group in result.report.groups}
