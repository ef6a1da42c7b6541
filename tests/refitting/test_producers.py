"""Producers refitted for the consumer that alone reads them: steps go downhill, and where they are allowed only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.networks import images
from support.planted.net import Net
from support.proofs import merged

import onnx_condense as oc
from onnx_condense.merging.evidence import Evidence
from onnx_condense.merging.twin import Twin
from onnx_condense.model.parts import prefix
from onnx_condense.model.protos import serialize
from onnx_condense.prepare import open_model
from onnx_condense.refitting.calibrate import Effort, Totals, calibrate
from onnx_condense.refitting.comparison import SideBySide, link, relinked
from onnx_condense.refitting.consumer import TwinConsumer, consumer_of, reading_fewer
from onnx_condense.refitting.gauss_newton import Factors, Length
from onnx_condense.refitting.moments import Sums
from onnx_condense.refitting.producers import Descent, Learned, Slope, Summed, producer_of, refine
from onnx_condense.refitting.staged import Segment
from onnx_condense.rewriting.writer import traced, write


def between(kind: str) -> onnx.ModelProto:
    """Two linear maps with something between them; hidden channels are noisy copies, so that none can be left out."""
    net = Net(seed=21)
    rows = np.concatenate([mains := net.normal(6, 3, 3, 3), mains + 0.5 * net.normal(6, 3, 3, 3)])
    pads = {"pads": [1] * 4}
    data = net.input("batch", 3, 8, 8)
    if kind == "gemm":
        rows = np.concatenate([mains := net.normal(6, 192), mains + 0.5 * net.normal(6, 192)])
        hidden = net.node("Tanh", net.dense("first", net.node("Flatten", data), 0.05 * rows, 0.5 * net.normal(12)))
        return net.build(net.dense("second", hidden, net.normal(5, 12), net.normal(5)))
    if kind == "silu":
        rows = 0.1 * rows  # where it bends
    made = net.conv("first", data, rows, net.normal(12), **pads)
    match kind:
        case "relu" | "single":
            hidden = net.node("Relu", made)
        case "linear":
            hidden = made
        case "normalized":
            hidden = net.node(
                "Relu", net.batchnorm(made, np.ones(12), net.normal(12), net.normal(12), np.full(12, 4.0))
            )
        case "silu":
            hidden = net.node("Mul", made, net.node("Sigmoid", made))
        case "pooled":
            hidden = net.node("MaxPool", net.node("Relu", made), kernel_shape=[2, 2])
        case "softmax":
            hidden = net.node("Softmax", made, axis=3)
        case "gated":
            hidden = net.node("Mul", made, net.node("Sigmoid", net.node("GlobalAveragePool", made)))
        case "twice":
            hidden = net.node("Relu", made)
    outputs = 1 if kind == "single" else 4
    last = net.conv("second", hidden, net.normal(outputs, 12, 3, 3), net.normal(outputs), **pads)
    if kind == "twice":
        last = net.node("Add", last, net.conv("third", hidden, net.normal(4, 12, 1, 1)))
    return net.build(last)


OPTIONS = oc.Options(threshold=0.8, align=1, calibration={"x": images(200, 1)}, data={"x": images(8, 2)})


def condensed(model: onnx.ModelProto) -> oc.Result:
    return oc.condense(model, OPTIONS)


def refitted(model: onnx.ModelProto, plan: oc.Plan, descent: Descent) -> Twin:
    twin, calibration = merged(model, plan, OPTIONS)
    calibrate(twin, calibration, 0, lambda stage: None, Effort(descent))
    return twin


def error(model: onnx.ModelProto, small: onnx.ModelProto) -> float:
    return oc.verify(model, small, {"x": images(40, 99)}).outputs[0].relative_l2


def layers(twin: Twin) -> list[str]:
    return [refit.layer for _, refit in sorted(twin.refits.items())]


@pytest.mark.parametrize("kind", ["relu", "linear", "normalized", "silu", "single", "gemm"])
def test_rows_that_only_one_consumer_reads_lose_less(kind: str, tmp_path: Path) -> None:
    model = between(kind)
    changed = condensed(model)
    changed.plan.save(tmp_path / "p.json")
    assert serialize(oc.rewrite(model, oc.Plan.load(tmp_path / "p.json"))) == serialize(changed.model)
    assert [r.layer for r in changed.plan.refits] == ["first", "second"]
    fixed = refitted(model, changed.plan, Descent(most=0))
    assert layers(fixed) == ["second"]
    assert error(model, changed.model) < 0.97 * error(model, write(fixed, {}).model)


@pytest.mark.parametrize("kind", ["pooled", "softmax", "gated", "twice"])
def test_other_rows_stay(kind: str) -> None:
    result = condensed(between(kind))
    assert result.changed
    assert "first" not in [r.layer for r in result.plan.refits]


def test_steps_that_held_back_samples_do_not_confirm_are_taken_back() -> None:
    model = between("relu")
    steps: list[Any] = []

    def wrong(weight: Any, factors: Factors, length: Length) -> Any:
        steps.append(np.full_like(factors.gradient, 10.0))
        return steps[-1]

    twin = refitted(model, condensed(model).plan, Descent(wrong))
    assert len(steps) == 1
    assert layers(twin) == ["second"]


@pytest.mark.parametrize("kind", ["relu", "silu", "normalized"])
def test_the_gradient_is_that_of_the_loss(kind: str) -> None:
    """While the consumer stays, a short step along it changes the loss by as much as its length says."""
    short, strength, rows = 1e-3, 1e-2, 150 * 64  # three folds of 200 samples, 64 places each
    model = between(kind)
    twin, calibration = merged(model, condensed(model).plan, OPTIONS)
    (consumer,) = reading_fewer(twin)
    producer = producer_of(consumer)
    assert producer is not None
    prior = consumer.matrix()[consumer.alive]
    summed: list[list[Sums]] = []
    gradients: list[Any] = []

    def total(job: Any) -> Any:
        summed.append(Totals(calibration, lambda stage: None, "")(job) or [])
        return summed[-1]

    def step(weight: Any, factors: Factors, length: Length) -> Any:
        gradients.append(factors.gradient / rows)
        return short * gradients[0] / np.linalg.norm(gradients[0])

    with SideBySide(twin, 0) as sides:
        job = sides.comparison(consumer, producer, 64)
        refine(Slope(consumer, producer, calibration), Summed(job, total(job)), strength, total, Descent(step, 1))
    first = Learned.of(summed[0], prior, strength)
    known = [Sums.joined(parts[:-1]).moments() for parts in summed]
    before, after = (m.loss(first.weight) + np.sum((m.constant(first.weight) - first.constant) ** 2) for m in known)
    assert (before - after) / short == pytest.approx(2 * np.linalg.norm(gradients[0]), rel=0.02)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1), st.integers(1, 2))
def test_the_adjoint_of_whole(seed: int, height: int, width: int, pad: int, stride: int) -> None:
    rng = np.random.default_rng(seed)
    net = Net(seed=1)
    kernel = net.normal(2, 3, height, width)
    data = net.conv("c", net.input(1, 3, 5, 6), kernel, pads=[pad] * 4, strides=[stride] * 2)
    opened = open_model(net.build(data), oc.Options(threshold=0.9))
    slot = opened.trace.reading(0, 1)
    assert slot is not None
    consumer = consumer_of(opened.trace, slot)
    assert consumer is not None
    rows = consumer.rows(rng.standard_normal((2, 3, 5, 6)))
    whole = rows.whole()
    other = rng.standard_normal(whole.shape)
    lines = rows.lines if rows.taps is None else rows.lines[:, :-1]
    assert np.sum(whole * other) == pytest.approx(np.sum(lines * rows.adjoint(other)))
    everywhere = np.divmod(np.arange(rows.samples * rows.positions), rows.positions)
    np.testing.assert_array_equal(rows.at(*everywhere), whole.reshape(-1, rows.features))
    np.testing.assert_array_equal(rows.other(lines).whole(), whole)


def test_only_samples_that_are_looked_at_are_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_condense.refitting.gauss_newton.ROWS", 20 * 64)
    twin, calibration = merged(between("relu"), condensed(between("relu")).plan, OPTIONS)
    (consumer,) = reading_fewer(twin)
    producer = producer_of(consumer)
    assert producer is not None
    sizes, run = list[int](), Segment.run

    def counted(self: Segment, active: Any, known: Any) -> Any:
        if self in (pieces.job.link, pieces.middle):
            sizes.append(len(next(iter(known.values()))))
        return run(self, active, known)

    with SideBySide(twin, 0) as sides:
        pieces = Slope(consumer, producer, calibration).pieces(sides.comparison(consumer, producer, 64))
        monkeypatch.setattr(Segment, "run", counted)
        seen = [len(piece.y) for shard in calibration.shards for piece in pieces(shard)]
    assert seen == [6, 6, 3], "of 200, three of every forty"
    assert sizes == [size for size in seen for _ in range(3)], "as far as the consumer, and twice for the slope"


@pytest.mark.parametrize("kind", ["normalized", "gemm"])
def test_behind_other_rows_is_what_would_be_written(kind: str) -> None:
    twin, _ = merged(between(kind), condensed(between(kind)).plan, OPTIONS)
    (consumer,) = reading_fewer(twin)
    producer = producer_of(consumer)
    assert producer is not None
    with SideBySide(twin, 0) as sides:
        known = sides.comparison(consumer, producer, 1).link
    assert known is not None
    producer.refit(2 * producer.matrix(), None, Evidence.CALIBRATION)
    after = relinked(known, producer, consumer.fixed)
    assert known.model != after.model == link(traced(twin), producer.fixed, consumer.fixed).model


def test_of_a_part_weights_that_it_does_not_need_are_left_out() -> None:
    twin, _ = merged(between("gemm"), condensed(between("gemm")).plan, OPTIONS)
    (consumer,) = reading_fewer(twin)
    reads, made = consumer.fixed.reads.tensor, twin.trace.facts.nodes[consumer.node].outputs[0].name
    whole, part = traced(twin), traced(twin, ((reads,), set()))
    assert prefix(part, [reads]) == prefix(whole, [reads])
    assert {t.name for t in whole.graph.initializer} > {t.name for t in part.graph.initializer} != set()
    last = traced(twin, ((made,), {reads}))
    assert prefix(last, [made], {reads}) == prefix(whole, [made], {reads})


def test_behind_other_rows_a_bias_that_came_stays() -> None:
    """A MatMul has none: another node adds it."""
    net = Net(seed=21)
    rows = np.concatenate([mains := net.normal(6, 3), mains + 0.5 * net.normal(6, 3)])
    hidden = net.node("Relu", net.matmul("first", net.input("batch", 5, 3), rows))
    model, options = net.build(net.matmul("second", hidden, net.normal(4, 12))), oc.Options(threshold=0.8, align=1)
    twin, _ = merged(model, oc.condense(model, options).plan, options)
    (consumer,) = reading_fewer(twin)
    producer = producer_of(consumer)
    assert producer is not None
    twin.shift[producer.node] = np.ones(12)
    known = link(traced(twin), producer.fixed, consumer.fixed)
    producer.refit(2 * producer.matrix(), None, Evidence.CALIBRATION)
    assert known.model != relinked(known, producer, consumer.fixed).model
    assert relinked(known, producer, consumer.fixed).model == link(traced(twin), producer.fixed, consumer.fixed).model


def test_the_producer_of_a_consumer() -> None:
    found = {}
    for kind in ("relu", "silu", "pooled", "softmax", "gated", "twice"):
        opened = open_model(between(kind), oc.Options(threshold=0.9))
        slots = {s.node: s for s in opened.trace.slots if s.role == "contracted"}
        consumer = consumer_of(opened.trace, slots[max(slots)])
        assert consumer is not None
        producer = producer_of(TwinConsumer(consumer, Twin(opened.trace)))
        found[kind] = None if producer is None else producer.fixed.layer
    assert found.pop("relu") == found.pop("silu") == "first"
    assert set(found.values()) == {None}
