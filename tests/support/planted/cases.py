"""Small graphs with planted redundancy: for every row of the operator table what `--lossless` must find in
it.

A *case* is a graph with 8 channels between a producer and a consumer, of which 3 are copies of others by
some *relation* (scaled, opposite, shifted, ...). It says which relations are exact through it: with those
the graph must come down to its 5 independent channels, with every other relation it must stay as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from support.planted.net import Array, Net

MAINS = (0, 1, 0, 2, 1, 3, 4, 3)
"""Which independent channel each of the 8 channels is a copy of."""

FULL, EXACT = len(MAINS), len(set(MAINS))
COPIES = tuple(i for i, m in enumerate(MAINS) if m in MAINS[:i])

RATIOS: Mapping[str, float] = {
    "equal": 1.0,
    "scaled": 1.7,
    "opposite": -1.0,
    "negative": -0.6,
    "shifted": 1.0,
    "near": 1.0,
    "dead": 0.0,
    "unread": 1.0,
}
"""Relation -> ratio of a copy to its original. shifted: another bias. near: almost equal. unread: zero
columns."""

RELATIONS = tuple(RATIOS)

ALWAYS = frozenset({"equal", "dead", "unread"})
LINEAR = ALWAYS | {"scaled", "opposite", "negative", "shifted"}
HOMOGENEOUS = ALWAYS | {"scaled"}
UNSHIFTED = LINEAR - {"shifted"}
MONOTONE = HOMOGENEOUS | {"shifted"}
ABSOLUTE = ALWAYS | {"scaled", "opposite", "negative"}
ODD = ALWAYS | {"opposite"}


def copies(relation: str, base: NDArray[np.floating], noise: NDArray[np.floating] | None = None) -> Array:
    """[8, ...] from [8, ...] of independent values: the copies become ratio · original."""
    result = np.array(base, dtype=np.float64)
    if relation != "unread":
        for copy in COPIES:
            result[copy] = RATIOS[relation] * result[MAINS.index(MAINS[copy])]
            if relation == "near" and noise is not None:
                result[copy] *= 1 + 1e-3 * noise[copy]
    return result.astype(np.float32)


def planted_rows(net: Net, relation: str, *tail: int, positive: bool = False) -> tuple[Array, Array]:
    """Rows [8, ...] and biases [8]; `positive` keeps the pre-activations above zero for usual inputs."""
    rows = copies(relation, net.normal(FULL, *tail) * (0.1 if positive else 0.5), net.normal(FULL, *tail))
    base = net.normal(FULL) * 0.3 + (2.5 if positive else 0.0)
    bias = copies(relation, base)
    if relation == "shifted":
        bias[list(COPIES)] += np.float32(0.7)
    return rows, bias


def planted_columns(net: Net, relation: str, outputs: int, *tail: int) -> Array:
    """What a consumer multiplies the 8 channels with: [outputs, 8, ...]."""
    columns = net.normal(outputs, FULL, *tail)
    if relation == "unread":
        columns[:, list(COPIES)] = 0
    return columns


# ---------------------------------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """One graph per relation.

    Attributes:
        op: the row of the operator table that it is about, with its domain in front where it has one.
        label: what distinguishes it from other cases of the row.
        build: relation -> model.
        passes: the relations that must merge.
        silent: relations that are exact as well, or beyond this graph, without a promise: not tested.
        layers: producer -> (width before, width after).
    """

    op: str
    label: str
    build: Callable[[str], onnx.ModelProto]
    passes: frozenset[str]
    silent: frozenset[str] = frozenset()
    layers: Mapping[str, tuple[int, int]] = field(default_factory=lambda: {"producer": (FULL, EXACT)})

    def expected(self, relation: str) -> dict[str, int]:
        return {name: pair[relation in self.passes] for name, pair in self.layers.items()}

    @property
    def name(self) -> str:
        return f"{self.op}-{self.label}" if self.label else self.op

    @property
    def row(self) -> tuple[str, str]:
        """Its key in the operator table."""
        domain, _, op = self.op.rpartition(".")
        return domain, op


CASES: list[Case] = []

Middle = Callable[[Net, str], str]
"""What stands between producer and consumer."""

PlantedMiddle = Callable[[Net, str, str], str]
"""The same, with parameters per channel that follow the relation."""


def case(
    op: str,
    passes: frozenset[str],
    label: str = "",
    silent: str = "",
    layers: Mapping[str, tuple[int, int]] | None = None,
) -> Callable[[Callable[[str], onnx.ModelProto]], Callable[[str], onnx.ModelProto]]:
    """Registers a function relation -> model as a case."""

    def register(build: Callable[[str], onnx.ModelProto]) -> Callable[[str], onnx.ModelProto]:
        given = {"producer": (FULL, EXACT)} if layers is None else layers
        CASES.append(Case(op, label, build, passes, frozenset(silent.split()), given))
        return build

    return register


def dense_case(
    op: str,
    passes: frozenset[str],
    middle: PlantedMiddle,
    label: str = "",
    silent: str = "",
    opset: int = 17,
    positive: bool = False,
) -> None:
    """Gemm, the middle, Gemm."""

    def build(relation: str) -> onnx.ModelProto:
        net = Net(opset)
        data = net.input("batch", 6)
        hidden = net.dense("producer", data, *planted_rows(net, relation, 6, positive=positive))
        hidden = middle(net, hidden, relation)
        return net.build(net.dense("consumer", hidden, planted_columns(net, relation, 4), net.normal(4), trans_b=False))

    case(op, passes, label, silent)(build)


def conv_case(
    op: str,
    passes: frozenset[str],
    middle: PlantedMiddle,
    label: str = "",
    silent: str = "",
    opset: int = 17,
    side: int = 1,
    pads: Sequence[int] = (0, 0, 0, 0),
) -> None:
    """Conv, the middle, Conv with kernels of `side`."""

    def build(relation: str) -> onnx.ModelProto:
        net = Net(opset)
        data = net.input("batch", 3, 8, 8)
        hidden = net.conv("producer", data, *planted_rows(net, relation, 3, 3, 3))
        hidden = middle(net, hidden, relation)
        columns = planted_columns(net, relation, 4, side, side)
        return net.build(net.conv("consumer", hidden, columns, net.normal(4), pads=list(pads)))

    case(op, passes, label, silent)(build)


def spatial_case(
    op: str,
    passes: frozenset[str],
    middle: Middle,
    places: int,
    label: str = "",
    silent: str = "",
    opset: int = 17,
) -> None:
    """Conv, the middle that leaves [batch, 8 · places], Gemm."""

    def build(relation: str) -> onnx.ModelProto:
        net = Net(opset)
        data = net.input("batch", 3, 4, 5)
        hidden = net.conv("producer", data, *planted_rows(net, relation, 3, 3, 3))
        hidden = middle(net, hidden)
        columns = planted_columns(net, relation, 4, places).reshape(4, -1)
        return net.build(net.dense("consumer", hidden, columns, net.normal(4)))

    case(op, passes, label, silent)(build)


def apply(op: str, *constants: float, **attributes: Any) -> PlantedMiddle:
    """One node of an operator with scalar constants behind the data."""

    def middle(net: Net, data: str, relation: str) -> str:
        return net.node(op, data, *(net.constant(c) for c in constants), **attributes)

    return middle


def then(first: PlantedMiddle, op: str) -> PlantedMiddle:
    return lambda net, data, relation: net.node(op, first(net, data, relation))
