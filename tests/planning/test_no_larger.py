"""A condensed model never holds more parameters than its original."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support.planted.net import Net

from onnx_condense import Options, condense


def sharing(copies: int) -> onnx.ModelProto:
    """Two convolutions of 8 channels whose normalizations share their constants; of the first one, some are copies."""
    net = Net()
    rows = net.normal(8, 2, 1, 1)
    rows[8 - copies :] = rows[:copies]
    shared = [net.constant(np.full(8, value)) for value in (1.0, 0.0, 0.0, 1.0)]
    hidden = net.node("BatchNormalization", net.conv("first", net.input("batch", 2, 3, 3), rows), *shared)
    other = net.conv("second", net.node("Relu", hidden), net.normal(8, 8, 1, 1))
    last = net.node("Relu", net.node("BatchNormalization", other, *shared))
    return net.build(net.conv("last", last, net.normal(1, 8, 1, 1)))


@pytest.mark.parametrize(("copies", "changed"), [(1, False), (4, True)])
@pytest.mark.parametrize("options", [{"lossless": True}, {"threshold": 0.999}])
def test_copies_of_shared_constants_count(copies: int, changed: bool, options: dict[str, float]) -> None:
    found = condense(sharing(copies), Options(**options, align=1))
    assert found.changed == changed
    assert found.report.output is None or found.report.output.parameters <= found.report.input.parameters
