"""Which groups are taken, at which thresholds, and what happens to those whose shapes do not work out."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from support import builders
from support.lossless import LOSSLESS
from support.planted.net import Net

from onnx_condense import Options, UsageError, condense
from onnx_condense.merging.judging import Judgement
from onnx_condense.merging.methods import Manner
from onnx_condense.merging.twin import Twin
from onnx_condense.planning import thresholds
from onnx_condense.planning.selection import chosen_groups
from onnx_condense.planning.thresholds import Planner
from onnx_condense.prepare import open_model
from onnx_condense.tracing.trace import Group


def planner(model: onnx.ModelProto, options: Options) -> Planner:
    trace = open_model(model, options).trace
    return Planner(trace, options, 1, chosen_groups(trace, options))


def test_the_last_matching_glob_sets_the_threshold() -> None:
    model = builders.mlp((8, 16, 16, 3), clusters=4)
    names = [g.layers[0] for g in planner(model, Options()).groups]
    options = Options(layer_threshold=(("*", 0.7), (names[1], 0.95)))
    assert list(planner(model, options).thresholds.values()) == [0.7, 0.95]


def test_a_glob_without_a_match_is_refused() -> None:
    model = builders.mlp((8, 16, 3))
    for options in (Options(include=("nothing*",)), Options(exclude=("x?",)), Options(layer_threshold=(("y", 0.9),))):
        with pytest.raises(UsageError, match="matches no node or weight"):
            planner(model, options)


def test_towards_moves_thresholds_to_one() -> None:
    model = builders.mlp((8, 24, 24, 3), clusters=6, seed=1)
    built = planner(model, Options(threshold=0.6))
    widths = [
        [len(state.plans[g.index].keep) if g.index in state.plans else len(g.units) for g in built.groups]
        for state in (built.build(share).twin for share in (0.0, 0.5, 1.0))
    ]
    assert widths[0] == [24, 24]
    assert all(a >= b >= c for a, b, c in zip(*widths, strict=True))


def test_what_is_merged_without_loss_is_judged_once_where_nothing_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, made = [], thresholds.judge

    def counted(twin: Twin, group: Group, manner: Manner) -> Judgement:
        asked.append(group.index)
        return made(twin, group, manner)

    monkeypatch.setattr(thresholds, "judge", counted)
    found = condense(builders.mlp((8, 16, 16, 3)), LOSSLESS)
    assert not found.changed
    assert [group.highest_cosine is not None for group in found.report.groups] == [True, True]
    assert asked == [0, 1]


def test_original_weights_are_judged_once() -> None:
    built = planner(builders.mlp((8, 16, 3), clusters=4), Options())
    group = built.groups[0]
    assert built.judged(group) is built.judged(group)


def test_channels_that_cannot_be_removed_evenly_stay_and_are_named() -> None:
    """Every second channel is sliced out: removing one between them would need another step."""
    net = Net()
    rows = net.normal(8, 6)
    rows[3] = rows[1]
    hidden = net.node("Relu", net.dense("producer", net.input("batch", 6), rows, np.zeros(8, dtype=np.float32)))
    half = net.node("Slice", hidden, net.ints(0), net.ints(8), net.ints(1), net.ints(2))
    both = net.node("Concat", half, hidden, axis=1)
    model = net.build(net.dense("consumer", both, net.normal(3, 12)))
    result = condense(model, LOSSLESS)
    assert [(g.width_before, g.width_after) for g in result.report.groups] == [(8, 8)]
    assert "cannot be removed evenly" in result.report.warnings[0]
