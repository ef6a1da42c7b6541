"""One session answers what generated inputs, their sizes and the shapes inside ask."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_condense.algebra.numbers import Numbers
from onnx_condense.model import apart, runtime, trial
from onnx_condense.model.apart import outputs
from onnx_condense.model.trial import Trial
from onnx_condense.operators.shapes import measured, probe
from onnx_condense.options import Options
from onnx_condense.pipeline import condense
from onnx_condense.prepare import open_model


def small() -> onnx.ModelProto:
    weights = [numpy_helper.from_array(np.ones((4, 4), np.float32), name) for name in ("a", "b")]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy")
    graph = helper.make_graph(nodes, "small", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_opening_a_model_takes_one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, made = [], ort.InferenceSession

    def counted(*arguments: object, **more: object) -> runtime.Session:
        opened.append(1)
        return made(*arguments, **more)

    monkeypatch.setattr(ort, "InferenceSession", counted)
    found = open_model(small(), Options())
    assert len(found.others) == 2
    assert found.trace.facts.other_shapes("h") == [(len(feed["x"]), 4) for feed in found.others]
    assert len(opened) == 1


def test_what_asks_for_a_shape_does_not_wait_for_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, made = [], ort.InferenceSession

    def noted(model: object, options: ort.SessionOptions, **more: object) -> runtime.Session:
        seen.append((options.execution_order, options.enable_mem_pattern))
        return made(model, options, **more)

    monkeypatch.setattr(ort, "InferenceSession", noted)
    measured(small(), ["h"])({"x": np.zeros((3, 4), np.float32)})
    assert seen == [(ort.ExecutionOrder.PRIORITY_BASED, False)]


def test_what_is_kept_is_no_memory_of_a_session() -> None:
    feed = {"x": np.zeros((3, 4), np.float32)}
    (y,) = measured(small(), ["h"])(feed)
    (found,) = outputs(small(), [feed])
    assert y.flags.owndata
    assert found["y"].flags.owndata


def test_outputs_of_the_trial_are_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, made = [], runtime.session

    def counted(model: object, optimize: bool = True, save_to: str = "") -> runtime.Session:
        plain.append(1 - optimize)
        return made(model, optimize, save_to)

    monkeypatch.setattr(apart, "session", counted)
    weights = np.repeat(np.random.default_rng(0).standard_normal((4, 2), np.float32), 2, axis=1)
    model = small()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "a"))
    found = condense(model, Options(lossless=True, align=1))
    assert found.changed
    assert sum(plain) == 0
    assert len(plain) == 3  # the original, the twin, and the small model
    monkeypatch.setattr(trial, "KEPT", 0)
    again = condense(model, Options(lossless=True, align=1))
    assert again.report.verification == found.report.verification
    assert sum(plain) == 1


def test_shapes_that_were_seen_are_those_that_are_asked() -> None:
    model, feed = small(), {"x": np.zeros((3, 4), np.float32)}
    trial = measured(model, ["h", "r", "y"])
    assert trial.shapes(feed) is None
    (y,) = trial(feed)
    assert y.shape == (3, 4)
    assert trial.types == {"y": "tensor(float)"}
    assert probe(model, ["h", "y"], [feed], trial.shapes) == probe(model, ["h", "y"], [feed], lambda _: None)
    assert trial.shapes({"x": np.ones((3, 4), np.float32)}) is None, "a shape may follow from numbers"


def test_shapes_are_asked_of_the_inputs_that_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs that stay the same have every manner of inputs tried: only those that are taken are looked into."""
    seen, made = [], trial.run

    def noted(active: runtime.Session, names: list[str] | None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        seen.append(names)
        return made(active, names, feed)

    monkeypatch.setattr(trial, "run", noted)
    model = small()
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.zeros((4, 4), np.float32), "b"))
    opened = open_model(model, Options())
    assert seen.count(["y"]) > 3
    assert seen.count(None) == 1 + len(opened.others)
    assert opened.trace.facts.shapes["h"] == (len(opened.feeds[0]["x"]), 4)


def test_what_cannot_be_measured_runs_all_the_same() -> None:
    model, broken = small(), small()
    broken.graph.node.add(op_type="Nothing", input=["h"], output=["z"])
    trial = Trial(model, broken, ["h"])
    assert trial({"x": np.zeros((2, 4), np.float32)})[0].shape == (2, 4)
    assert trial.shapes({"x": np.zeros((2, 4), np.float32)}) is None


def test_answers_do_not_keep_weights() -> None:
    class Leaf:
        below = ()

    class Held:
        pass

    gc.disable()
    try:
        held = Held()
        numbers = Numbers(held, np.arange(2), np.arange(2), 0.0)  # type: ignore[arg-type]
        assert numbers.once(lambda signal, known: 1, Leaf()) == 1  # type: ignore[type-var]
        gone = weakref.ref(held)
        del held, numbers
        assert gone() is None
    finally:
        gc.enable()
