"""Choices without data are tried on images of another kind than weights are fitted to, and on what differs there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from support import builders
from support.networks import residual

from onnx_condense import Options
from onnx_condense.errors import InputError
from onnx_condense.merging.twin import Twin
from onnx_condense.planning.narrowing import ToShare
from onnx_condense.planning.run import Run
from onnx_condense.planning.stand import Stand
from onnx_condense.planning.strategies import strategy_of
from onnx_condense.prepare import Clock, open_model
from onnx_condense.proving.compare import Varying, results, varying
from onnx_condense.rewriting.writer import write

BUDGET = Options(budget=("params", 0.6), align=1)


def run_of(model: onnx.ModelProto, **options: Any) -> Run:
    return Run.of(open_model(model, replace(BUDGET, **options)), 1, Clock(None))


def offset(model: onnx.ModelProto, size: float) -> onnx.ModelProto:
    """The same model, whose output has so much more in common for all inputs."""
    (output,) = model.graph.output
    node = next(node for node in model.graph.node if output.name in node.output)
    node.output[:] = ["before_offset"]
    model.graph.node.append(onnx.helper.make_node("Add", ["before_offset", "offset"], [output.name]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(size), "offset"))
    return model


def test_there_are_some_for_images_alone() -> None:
    run = run_of(residual())
    made = run.made_up
    assert made is not None
    counts = [sum(len(value) for feed in feeds for value in feed.values()) for feeds in (made.tries, made.judging)]
    assert 0 < counts[0] < counts[1]
    tried = {value.tobytes() for feed in made.tries for value in feed.values()}
    assert not any(value.tobytes() in tried for feed in made.judging for value in feed.values())
    assert run_of(builders.mlp((8, 24, 24, 3), clusters=6)).made_up is None
    given = {name: np.concatenate([value] * 4) for name, value in run.opened.feeds[0].items()}
    assert run_of(residual(), data=given).made_up is None


def test_what_all_samples_have_in_common_is_left_out() -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    labels = np.arange(4)
    for outputs in ([{"y": values, "l": labels}], [{"y": part, "l": labels[:2]} for part in (values[:2], values[2:])]):
        found = varying(outputs)
        np.testing.assert_array_equal(np.concatenate([feed["y"] for feed in found]), values - values.mean(axis=0))
        assert all(feed["l"] is given["l"] for feed, given in zip(found, outputs, strict=True))
    (one,) = varying([{"y": values[:1]}])
    np.testing.assert_array_equal(one["y"], values[:1])
    assert varying([]) == []


def test_where_next_to_nothing_differs_rounding_says_nothing() -> None:
    prior = np.tile(100 * np.arange(1, 4, dtype=np.float32), (2, 1))
    moved = prior + np.array([[0], [1e-3]], dtype=np.float32)
    error = Varying([{"boxes": prior}]).compare([{"boxes": moved}]).error
    assert error < 1e-3


def test_images_that_do_not_run_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(residual())

    def fails(*_: object) -> None:
        raise InputError("too bright")

    monkeypatch.setattr("onnx_condense.planning.made_up.results", fails)
    assert run.made_up is None


@pytest.mark.parametrize("made_up", [True, False])
def test_errors_of_made_up_images_do_not_depend_on_a_constant(made_up: bool) -> None:
    errors, made = [], run_of(residual()).made_up
    assert made is not None
    size = 20 * float(np.std([feed[name] for feed in made.expected.outputs for name in feed]))
    for model in (residual(), offset(residual(), size)):
        run = run_of(model)
        assert run.made_up is not None
        group = run.planner.groups[0]
        stand = Stand(run.planner, run.estimate, run.made_up.tries, made_up=made_up)
        errors.append(stand.error({group.index: np.arange(3)}))
    if made_up:
        assert errors[0] == pytest.approx(errors[1], rel=0.02)
    else:
        assert errors[0] > 10 * errors[1]


def test_a_twin_is_judged_by_images_and_so_is_whether_refits_blow_up() -> None:
    run = run_of(residual())
    made = run.made_up
    assert made is not None
    found = strategy_of(run, None, None)
    assert isinstance(found, ToShare)
    assert found.error == made.error
    small = found.twin().twin

    outputs = results(write(small, {}).model, made.judging)
    assert made.error(small) == pytest.approx(made.expected.compare(outputs).error, rel=1e-3)
    assert made.error(Twin(run.opened.trace)) < 1e-5
