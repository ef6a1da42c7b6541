"""Channels that several places of one layer make: numbers that meet them differ from place to place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from support.lossless import condensed
from support.planted.net import Array, Net

BLOCK, CHANNELS = 4, 4


def added(net: Net, data: str, values: Array) -> str:
    return net.node("Add", data, net.constant(values.reshape(1, -1, 1, 1)))


def scaled(net: Net, data: str, values: Array) -> str:
    return net.node("Mul", data, net.constant(values.reshape(1, -1, 1, 1)))


def sloped(net: Net, data: str, values: Array) -> str:
    return net.node("PRelu", data, net.constant(values.reshape(-1, 1, 1)))


def normalized(net: Net, data: str, values: Array) -> str:
    ones, zeros = np.ones(len(values)), np.zeros(len(values))
    return net.batchnorm(data, values, zeros, zeros, ones)


@pytest.mark.parametrize("met", [added, scaled, sloped, normalized])
@pytest.mark.parametrize("alike", [True, False])
def test_all_places_of_a_channel_count(met: Callable[[Net, str, Array], str], alike: bool) -> None:
    """The first two channels are copies; where they are not, the second place of one meets another number."""
    condensed(blocks(met, alike), {"producer": (CHANNELS - alike) * BLOCK})


def blocks(met: Callable[[Net, str, Array], str], alike: bool) -> onnx.ModelProto:
    net = Net()
    kernels, values = net.normal(CHANNELS, BLOCK, 3, 1, 1), abs(net.normal(CHANNELS, BLOCK)) + 0.5
    kernels[1], values[1] = kernels[0], values[0]
    values[1, 1] += 0.0 if alike else 1.0
    hidden = net.conv("producer", net.input("batch", 3, 4, 4), kernels.reshape(-1, 3, 1, 1))
    hidden = net.node("DepthToSpace", met(net, hidden, values.reshape(-1)), blocksize=2, mode="CRD")
    return net.build(net.conv("consumer", hidden, net.normal(3, CHANNELS, 1, 1)))
