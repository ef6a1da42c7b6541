"""Rules of the tracer: what each says of one node."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.planted.net import Net, signed_feed

import onnx_condense.tracing.walk
from onnx_condense.algebra.signals import Shared
from onnx_condense.model.surgeon import import_graph
from onnx_condense.operators.answers import Action
from onnx_condense.operators.facts import Facts
from onnx_condense.operators.reasons import Because, Reason
from onnx_condense.operators.table import read
from onnx_condense.tracing.labels import atoms_of, pack
from onnx_condense.tracing.outcomes import Carried, Contracted, Declined, Outcome, Pinned
from onnx_condense.tracing.tracer import RULES, outcome
from onnx_condense.tracing.walk import Place, Walk


def said(op: str, *shapes: tuple[int, ...], **attributes: Any) -> tuple[Walk, Place, Outcome]:
    """What is said of a node that reads [2, 6] data with six channels, and constants of ones."""
    net = Net()
    data = net.input(2, 6)
    net.node(op, data, *(net.constant(np.ones(shape)) for shape in shapes), **attributes)
    model = net.build(net.nodes[-1].output[0])
    facts = Facts(model, import_graph(model), signed_feed(model))
    walk = Walk(facts)
    walk.labels[data] = pack(walk.sets.grow(6), walk.signal(Shared())).reshape(1, 6)
    place = Place(0, facts.nodes[0])
    return walk, place, outcome(walk, place, read(place.node, facts))


def actions(kind: type[Action] = Action) -> Iterator[type[Action]]:
    for inner in kind.__subclasses__():
        yield inner
        yield from actions(inner)


def test_every_action_has_a_rule() -> None:
    assert all(any(base in RULES for base in kind.__mro__) for kind in actions())


@pytest.mark.parametrize(("op", "shapes"), [("Relu", ()), ("Mul", [(6,)]), ("Transpose", ()), ("Neg", ())])
def test_carried(op: str, shapes: list[tuple[int, ...]]) -> None:
    walk, place, found = said(op, *shapes)
    assert isinstance(found, Carried)
    assert atoms_of(found.labels[place.output]).reshape(-1).tolist() == [0, 1, 2, 3, 4, 5]
    assert not walk.pins


def test_contracted() -> None:
    walk, place, found = said("MatMul", (6, 3))
    assert isinstance(found, Contracted)
    assert atoms_of(found.labels[place.output]).tolist() == [[6, 7, 8]]
    assert [slot.role for slot in walk.slots] == ["contracted", "produced"]


def test_a_large_weight_is_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask of the whole would be a quarter of it: of a table of 3 GB, 0.7 GB."""
    monkeypatch.setattr(onnx_condense.tracing.walk, "MASKED", 1000)
    walk, place, _ = said("MatMul", (6, 20_000))
    walk.parameters(place)
    tracemalloc.start()
    try:
        assert walk.is_finite(place)
        assert tracemalloc.get_traced_memory()[1] < 60_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("op", "shapes", "because"),
    [
        ("Softmax", [], Because(Reason.READ, "a Softmax", Because(Reason.MIXES))),
        ("Max", [(6,)], Because(Reason.READ, "a Max", Because(Reason.BY_CHANNEL))),
    ],
)
def test_pinned(op: str, shapes: list[tuple[int, ...]], because: Because) -> None:
    walk, place, found = said(op, *shapes)
    walk.conclude(place, found)
    assert [(atoms.tolist(), why) for atoms, why in walk.pins] == [([0, 1, 2, 3, 4, 5], because)]
    assert place.output not in walk.labels


def test_pinned_by_a_rule() -> None:
    assert isinstance(said("Softmax")[2], Pinned)


def test_declined() -> None:
    walk, place, found = said("NonZero")
    assert found == Declined(Reason.UNSUPPORTED)
    walk.conclude(place, found)
    assert [why for _, why in walk.pins] == [Because(Reason.READ, "a NonZero", Because(Reason.UNSUPPORTED))]


def test_what_goes_nowhere_is_pinned() -> None:
    walk, place, _ = said("Relu")
    walk.conclude(place, Carried())
    assert [why for _, why in walk.pins] == [Because(Reason.READ_UNKNOWN, "a Relu")]
