"""Chains of data movement that become a Gather of channels."""

from __future__ import annotations

import numpy as np
import pytest
from support.lossless import LOSSLESS
from support.models import operators
from support.planted.net import Net, assert_close, traced

from onnx_condense import condense


def shuffled(net: Net, data: str, groups: int, channels: int = 8) -> str:
    split = net.node("Reshape", data, net.ints(0, groups, channels // groups, 6, 6))
    return net.node("Reshape", net.node("Transpose", split, perm=[0, 2, 1, 3, 4]), net.ints(0, channels, 6, 6))


def test_a_shuffle_becomes_a_gather() -> None:
    net = Net()
    hidden = net.conv("producer", net.input("batch", 3, 6, 6), net.normal(8, 3, 1, 1))
    model = net.build(net.conv("consumer", shuffled(net, hidden, 2), net.normal(4, 8, 1, 1)))
    facts = traced(model).facts
    assert operators(facts.model) == ["Conv", "Gather", "Conv"]
    indices = facts.value(facts.nodes[1].inputs[1])
    assert indices is not None
    assert indices.tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert_close(model, facts.model, 0.0)


def test_a_shuffle_of_the_input_is_left_alone() -> None:
    net = Net()
    hidden = net.conv("producer", shuffled(net, net.input("batch", 8, 6, 6), 2), net.normal(8, 8, 1, 1))
    model = net.build(net.conv("consumer", hidden, net.normal(4, 8, 1, 1)))
    assert operators(traced(model).facts.model) == operators(model)


@pytest.mark.parametrize("perm", [[0, 2, 1, 4, 3], [0, 1, 2, 4, 3]])
def test_a_chain_that_turns_the_image_is_no_shuffle(perm: list[int]) -> None:
    net = Net()
    hidden = net.conv("producer", net.input("batch", 3, 6, 6), net.normal(8, 3, 1, 1))
    split = net.node("Transpose", net.node("Reshape", hidden, net.ints(0, 2, 4, 6, 6)), perm=perm)
    turned = net.node("Reshape", split, net.ints(0, 8, 6, 6))
    model = net.build(net.conv("consumer", turned, net.normal(4, 8, 1, 1)))
    assert operators(traced(model).facts.model) == operators(model)


def test_a_shuffle_whose_halves_are_read_apart() -> None:
    """ShuffleNetV2 in the form of [batch · channels / 2, 2, places] and a Gather of each half."""
    net = Net()
    rows = net.normal(8, 3, 1, 1)
    rows[5] = rows[1]
    hidden = net.conv("producer", net.input(2, 3, 6, 6), rows)
    turned = net.node("Transpose", net.node("Reshape", hidden, net.ints(8, 2, 36)), perm=[1, 0, 2])
    turned = net.node("Reshape", turned, net.ints(2, 2, 4, 6, 6))
    halves = [net.node("Gather", turned, net.constant(np.array(i)), axis=0) for i in (0, 1)]
    made = [net.conv(f"consumer{i}", half, net.normal(4, 4, 1, 1)) for i, half in enumerate(halves)]
    model = net.build(net.node("Add", *made))
    assert operators(traced(model).facts.model) == ["Conv", "Gather", "Gather", "Conv", "Conv", "Add"]
    result = condense(model, LOSSLESS)
    assert result.report.groups[0].width_after == 7
    assert_close(model, result.model, 2e-5)


def test_nothing_to_condense_leaves_the_file_as_it_was() -> None:
    net = Net()
    hidden = net.conv("producer", net.input("batch", 3, 6, 6), net.normal(8, 3, 3, 3), pads=[1, 1, 1, 1])
    model = net.build(net.conv("consumer", shuffled(net, hidden, 2), net.normal(4, 8, 1, 1)))
    result = condense(model, LOSSLESS)
    assert result.model.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
