"""What a rule of the tracer says of one node: what becomes of the labels that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx_condense.arrays import Labels
from onnx_condense.operators.reasons import Because, Reason


@dataclass(frozen=True, eq=False)
class Carried:
    """They go on. labels: output name -> what lies there; what neither goes on nor is pinned is not understood."""

    labels: Mapping[str, Labels] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Contracted:
    """They end in a weight. labels: output name -> the channels that begin there."""

    labels: Mapping[str, Labels] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Pinned:
    """These labels stay."""

    labels: Labels
    because: Because


@dataclass(frozen=True)
class Declined:
    """The node is not understood: all that it reads stays, and so do its parameters. error: of ours, in words."""

    reason: Reason
    error: str = ""


Outcome = Carried | Contracted | Pinned | Declined


class Stay(Exception):
    """Ends a rule, or a part of it, where labels cannot go on."""

    def __init__(self, labels: Labels, because: Because) -> None:
        super().__init__(str(because))
        self.outcome = Pinned(labels, because)
