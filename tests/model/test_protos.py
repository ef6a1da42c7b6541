"""Which nodes are still read: what made only what is not read any more goes, in one pass, however long the chain."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from onnx_condense.model import protos
from onnx_condense.model.protos import still_read


def chain(length: int) -> list[onnx.NodeProto]:
    return [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(length)]


def names(count: int) -> set[str]:
    return {f"t{i}" for i in range(count)}


def test_a_chain_that_ends_nowhere_goes() -> None:
    nodes = [*chain(5), helper.make_node("Abs", ["t2"], ["y"])]
    assert [node.output[0] for node in still_read(nodes, {"y"}, names(6))] == ["t1", "t2", "y"]


def test_what_nobody_read_before_stays() -> None:
    nodes = chain(3)
    assert still_read(nodes, set(), names(3)) == nodes
    assert still_read(nodes, set(), names(4)) == []


def test_a_node_goes_when_all_its_outputs_do() -> None:
    both = helper.make_node("Split", ["x"], ["a", "b"])
    assert still_read([both], {"b"}, {"x", "a", "b"}) == [both]
    assert still_read([both], set(), {"x", "a", "b"}) == []


def test_what_nodes_read_is_looked_up_once_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(protos, "read_by", lambda nodes: looked.append(len(nodes)) or set(nodes[0].input))
    assert still_read(chain(50), set(), names(51)) == []
    assert sum(looked) == 50
