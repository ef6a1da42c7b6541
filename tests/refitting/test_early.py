"""Deep networks: the first readers keep refits by moments of the same inputs, the last ones are refitted in turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx.compose
import pytest
from support.planted.net import Net
from support.proofs import merged

import onnx_condense as oc
from onnx_condense.merging.twin import Twin
from onnx_condense.model.protos import serialize
from onnx_condense.refitting import calibrate as calibrating
from onnx_condense.refitting.calibrate import EARLY, LATE, Effort, calibrate
from onnx_condense.refitting.estimate import Estimate
from onnx_condense.refitting.refit import refit_by
from onnx_condense.refitting.samples import Calibration
from onnx_condense.refitting.summing import measured
from onnx_condense.rewriting.writer import write

DEPTH, WIDTH = 26, 8


def inputs(count: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Of rank three."""
    basis = np.random.default_rng(7).standard_normal((3, WIDTH))
    return {"x": (np.random.default_rng(seed).standard_normal((count, 3)) @ basis).astype(np.float32)}


OPTIONS = oc.Options(threshold=0.8, align=1, calibration=inputs(200, 1))


def deep(blocks: int = DEPTH) -> onnx.ModelProto:
    """Residual blocks, half of whose channels are noisy copies."""
    net = Net(seed=4)
    stream = net.input("batch", WIDTH)
    for number in range(blocks):
        mains = net.normal(6, WIDTH)
        rows = np.concatenate([mains, mains + 0.4 * net.normal(6, WIDTH)])
        hidden = net.node("Tanh", net.dense(f"up{number}", stream, rows, 0.5 * net.normal(12)))
        stream = net.node("Add", stream, net.dense(f"down{number}", hidden, 0.1 * net.normal(WIDTH, 12)))
    return net.build(net.dense("head", stream, net.normal(4, WIDTH), net.normal(4)))


def twins(model: onnx.ModelProto) -> tuple[Twin, Twin, Calibration]:
    """Two that lost the same channels, the second refitted by moments."""
    plan = oc.condense(model, OPTIONS).plan
    twin, calibration = merged(model, plan, OPTIONS)
    fitted = Twin(twin.trace)
    for group in plan.groups:
        fitted.apply(twin.trace.groups[group.index], group)
    trace = twin.trace
    refit_by(fitted, Estimate(trace, trace.facts.feed, 0, measured(trace, calibration, 0)))
    return twin, fitted, calibration


def quiet(stage: str) -> None:
    """Notes nothing."""


def readers_of(twin: Twin) -> list[int]:
    """Nodes that calibration looks at."""
    return sorted(reader.node for reader in [*calibrating.reading_fewer(twin), *calibrating.others(twin)])


def same(twin: Twin, other: Twin) -> list[int]:
    """The readers whose weights both hold."""
    return [node for node in readers_of(twin) if np.array_equal(twin.weight(node, 1), other.weight(node, 1))]


def test_the_first_readers_keep_what_moments_gave_them() -> None:
    twin, fitted, calibration = twins(deep())
    readers = readers_of(twin)
    calibrate(twin, calibration, 0, quiet, Effort(fitted=fitted))
    early = int(EARLY * len(readers))
    assert len(readers) - early > LATE
    assert same(twin, fitted)[: early - 1] == readers[: early - 1]  # the last one may be the producer of the next
    fewer = {reader.node for reader in calibrating.reading_fewer(twin)} & {*readers[early:]}
    assert len(fewer) > LATE // 2
    assert not {*same(twin, fitted)} & fewer


def test_a_twin_of_other_channels_gives_nothing() -> None:
    twin, fitted, _ = twins(deep(2))
    other = Twin(twin.trace)
    assert twin.kept_as(fitted)
    assert not twin.kept_as(other)


def test_outputs_lose_no_more_than_where_all_are_refitted_in_turn() -> None:
    model = deep()
    twin, fitted, calibration = twins(model)
    saved = twin.folds()
    calibrate(twin, calibration, 0, quiet)
    whole = lost(model, twin)
    twin.refold(saved)
    calibrate(twin, calibration, 0, quiet, Effort(fitted=fitted))
    assert lost(model, twin) < 1.1 * whole
    assert lost(model, twin) < 0.9 * lost(model, fitted)


def lost(model: onnx.ModelProto, twin: Twin) -> float:
    return oc.verify(model, write(twin, {}).model, inputs(100, 9)).outputs[0].relative_l2


def test_shallow_networks_are_refitted_whole() -> None:
    twin, fitted, calibration = twins(deep((LATE - 1) // 2))
    saved = twin.folds()
    calibrate(twin, calibration, 0, quiet)
    whole = serialize(write(twin, {}).model)
    twin.refold(saved)
    calibrate(twin, calibration, 0, quiet, Effort(fitted=fitted))
    assert len(readers_of(twin)) == LATE - 1
    assert serialize(write(twin, {}).model) == whole


def test_nothing_behind_a_recurrent_node_keeps_what_it_has() -> None:
    """Moments refit no recurrent node: with one in front of a deep network, all is refitted in turn."""
    model = deep()
    twin, fitted, calibration = twins(recurrent(model))
    saved = twin.folds()
    calibrate(twin, calibration, 0, quiet)
    whole = serialize(write(twin, {}).model)
    twin.refold(saved)
    assert calibrating.narrowed(twin)
    calibrate(twin, calibration, 0, quiet, Effort(fitted=fitted))
    assert serialize(write(twin, {}).model) == whole


def recurrent(model: onnx.ModelProto) -> onnx.ModelProto:
    """A GRU of noisy copies in front of it, which sees each input once."""
    net = Net(seed=5)
    mains = net.normal(1, 3, WIDTH, WIDTH)
    rows = [np.concatenate([mains, mains + 0.2 * net.normal(1, 3, WIDTH, WIDTH)], 2).reshape(1, -1, WIDTH)]
    rows.append(0.3 * net.normal(1, 6 * WIDTH, 2 * WIDTH))
    step = net.node("Unsqueeze", net.input("batch", WIDTH), net.ints(0))
    found = net.multiple("GRU", step, *map(net.constant, rows), outputs=2, name="cell", hidden_size=2 * WIDTH)
    last = net.node("Squeeze", found[1], net.ints(0))
    first = net.build(net.dense("first", last, net.normal(WIDTH, 2 * WIDTH), net.normal(WIDTH)))
    joint = first.graph.output[0].name, f"behind.{model.graph.input[0].name}"
    return onnx.compose.merge_models(first, onnx.compose.add_prefix(model, "behind."), io_map=[joint])


def test_budgets_name_the_twin_that_moments_refitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thresholds have none."""
    efforts: list[Effort] = []

    def noted(*given: Any) -> None:
        efforts.append(given[-1])
        calibrate(*given)

    monkeypatch.setattr(calibrating, "calibrate", noted)
    oc.condense(deep(12), replace(OPTIONS, threshold=None, budget=("params", 0.7)))
    assert efforts[-1].fitted is not None  # those before may have been of other widths, before biases came
    efforts.clear()
    oc.condense(deep(12), OPTIONS)
    assert [effort.fitted for effort in efforts] == [None]
