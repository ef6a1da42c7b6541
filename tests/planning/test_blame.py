"""A run whose outputs changed much says which groups did it, and how to spare them."""

from __future__ import annotations

from support import builders
from support.planted.net import Net

import onnx_condense as oc


def test_the_warning_names_the_groups_that_change_the_outputs_most() -> None:
    """The second layer merges what is hardly alike, the first what is nearly equal."""
    net = Net(seed=3)
    first = builders.clustered(12, 6, 6, 0, noise=0.01)
    second = builders.clustered(12, 12, 4, 1, noise=0.5)
    hidden = net.node("Relu", net.dense("first", net.input("batch", 6), first, net.normal(12) * 0))
    hidden = net.node("Relu", net.dense("second", hidden, second, net.normal(12) * 0))
    model = net.build(net.dense("third", hidden, net.normal(3, 12)))
    options = oc.Options(threshold=0.7, align=1, merge="ratio")
    (warning,) = oc.condense(model, options).report.warnings
    told = warning.split("most by ")[1]
    assert told.startswith("second (")
    threshold = float(told.split("'second=")[1].split("'")[0])
    spared = oc.condense(
        model, oc.Options(threshold=0.7, align=1, merge="ratio", layer_threshold=(("second", threshold),))
    )
    widths = {group.layers[0]: group.width_after for group in spared.report.groups}
    assert widths == {"first": 6, "second": 12}
    assert not spared.report.warnings


def test_a_budget_names_no_thresholds() -> None:
    model = builders.mlp((8, 24, 24, 3), clusters=6, noise=0.3)
    options = oc.Options(budget=("params", 0.2), align=1)
    assert all("--layer-threshold" not in warning for warning in oc.condense(model, options).report.warnings)
