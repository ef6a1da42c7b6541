"""Ways to a share of the seconds: channels go by what they save in seconds, in multiply-accumulates, in parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from onnx_condense.goals import Unit
from onnx_condense.merging.twin import Twin
from onnx_condense.planning.allocation import Priced, cost
from onnx_condense.planning.budget import Pruner
from onnx_condense.planning.narrowing import CLEAR, Ways
from onnx_condense.planning.planned import Planned
from onnx_condense.planning.units import priced_weights

WORSE = 1.5
"""A way is given up that loses so many times as much as the best one."""


@dataclass(frozen=True, eq=False)
class Rival:
    """A way to choose widths.

    Attributes:
        pruner: makes what is written. tries: the same, and makes what is judged.
        lost: what a twin's outputs lose. doubt: what that counts times.
        known: by share of the seconds, what was judged.
    """

    pruner: Pruner
    tries: Pruner
    lost: Callable[[Twin], float]
    doubt: float
    known: dict[float, tuple[float, float] | None] = field(default_factory=dict)

    def judged(self, share: float) -> tuple[float, float] | None:
        """What the twin for a share of the seconds takes of them, and what it loses; None where there is none."""
        if share not in self.known:
            planned, size = self.tries.at(share, self.tries.aside)
            fits = share > 0 and size <= share * self.tries.before
            self.known[share] = (size / self.tries.before, self.doubt * self.lost(planned.twin)) if fits else None
        return self.known[share]

    def at(self, share: float) -> Planned:
        """That twin."""
        return self.tries.at(share, self.tries.aside)[0]


def rivals_of(ways: Ways, share: float, real: bool) -> list[Rival]:
    """The ways that may be the best at a share of the seconds, that by seconds first.

    real: whether the inputs that judge are; where not, the other ways have to lose clearly less.
    """
    pruner, lost = ways.least(share), ways.lost
    if lost is None:
        return [Rival(pruner, pruner, lambda twin: 0.0, 1.0)]
    found = [Rival(pruner, ways.judged(pruner), lost, 1.0)]
    for unit in Unit:
        other = replace(pruner, weights=_in_seconds(pruner, unit), biases={})
        found.append(Rival(other, ways.judged(other), lost, 1.0 if real else 1 / CLEAR))
    losses = [one[1] if (one := rival.judged(share)) is not None else math.inf for rival in found]
    return [found[0]] + [one for one, loss in zip(found[1:], losses[1:], strict=True) if loss <= WORSE * min(losses)]


def _in_seconds(pruner: Pruner, unit: Unit) -> Sequence[Priced]:
    """All weights priced in a unit, which is worth so many seconds that they cost as much as the original takes."""
    weights = priced_weights(pruner.planner, unit)
    worth = pruner.before / max(cost(weights, {}), 1.0)
    return [replace(weight, price=weight.price * worth) for weight in weights]
