"""Recurrent nodes that lost units: W and R follow from what all of them read, on states that the node makes itself."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.planted.net import Net
from support.planted.recurrent import BATCH, GATES, SIZE, Form, build
from support.planted.recurrent import STEPS as STEPS_FIRST

import onnx_condense as oc
from onnx_condense.model.protos import serialize

Data = np.ndarray[Any, Any]

STEPS, UNITS = 10, 12


def sequences(count: int, seed: int) -> Data:
    """Inputs of rank three, each step near the one before."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(7).standard_normal((3, SIZE))
    return (0.4 * np.cumsum(rng.standard_normal((count, STEPS, 3)), 1) @ basis).astype(np.float32)


def noisy_copies(net: Net, directions: int, gates: int, width: int) -> Data:
    """[directions, gates, units, width] rows of which the second half is like the first."""
    mains, noise = (net.normal(directions, gates, UNITS // 2, width) for _ in range(2))
    return np.concatenate([mains, mains + np.float32(0.4) * noise], 2) * np.float32(1.5 / width**0.5)


def network(op: str, directions: int = 1, layers: int = 2, **attributes: Any) -> onnx.ModelProto:
    """Layers of units, and a head that reads the last states."""
    net = Net(seed=3)
    data, size = net.node("Transpose", net.input("batch", STEPS, SIZE), perm=[1, 0, 2]), SIZE
    for number in range(layers):
        gates = directions, GATES[op]
        weights = [
            net.constant(noisy_copies(net, *gates, width).reshape(directions, -1, width)) for width in (size, UNITS)
        ]
        bias = net.constant(0.3 * net.normal(directions, 2 * gates[1] * UNITS))
        given = {"hidden_size": UNITS, **attributes}
        if directions == 2:
            given["direction"] = "bidirectional"
        outputs = 3 if op == "LSTM" else 2
        found = net.multiple(op, data, *weights, bias, outputs=outputs, name=f"layer{number}", **given)
        data = net.node("Transpose", found[0], perm=[0, 2, 1, 3])
        data, size = net.node("Reshape", data, net.ints(0, 0, directions * UNITS)), directions * UNITS
    last = net.node("Gather", data, net.constant(np.array(-1)), axis=0)
    return net.build(net.dense("head", last, net.normal(5, size), net.normal(5)))


def lost(model: onnx.ModelProto, **options: Any) -> tuple[float, oc.Result]:
    """The error on other inputs, and what was made."""
    found = oc.condense(model, oc.Options(threshold=0.6, align=1, **options))
    return oc.verify(model, found.model, {"x": sequences(60, 9)}).outputs[0].relative_l2, found


FORMS: list[tuple[str, dict[str, Any], float]] = [
    ("LSTM", {}, 0.335),
    ("LSTM", {"direction": "reverse"}, 0.064),
    ("LSTM", {"directions": 2}, 0.1135),
    ("GRU", {"linear_before_reset": 1}, 0.227),
    ("GRU", {}, 0.237),
    ("GRU", {"directions": 2}, 0.24),
    ("RNN", {}, 0.5),
]


@pytest.mark.parametrize(("op", "form", "most"), FORMS, ids=[f"{op} {form}" for op, form, _ in FORMS])
def test_states_are_refitted(op: str, form: dict[str, Any], most: float) -> None:
    """Units that were merged, and a head that was refitted alone, lost more than so much."""
    error, found = lost(network(op, **form), calibration={"x": sequences(60, 1)})
    assert "layer1" in {refit.layer for refit in found.plan.refits}
    assert error < most


@pytest.mark.parametrize(
    "form",
    [
        Form("LSTM", directions=2, initial="constant", lengths=True),
        Form("LSTM", peepholes=True, initial="zero"),
        Form("GRU", initial="derived"),
        Form("GRU", before_reset=True, initial="constant", reverse=True),
        Form("RNN", bias=False, read=1),
    ],
    ids=str,
)
def test_every_form_of_node(form: Form, caplog: pytest.LogCaptureFixture) -> None:
    """Initial states, lengths and peepholes are those of the node."""
    caplog.set_level(logging.DEBUG, "onnx_condense")
    data = {"x": np.random.default_rng(2).standard_normal((30, STEPS_FIRST, BATCH, SIZE)).astype(np.float32)}
    found = oc.condense(build("near", form), oc.Options(threshold=0.5, align=1, calibration=data))
    assert found.changed
    assert "an error at" not in caplog.text
    assert "producer" in {refit.layer for refit in found.plan.refits}


def test_exact_merges_are_left_alone() -> None:
    data = {"x": np.random.default_rng(2).standard_normal((30, STEPS_FIRST, BATCH, SIZE)).astype(np.float32)}
    found = oc.condense(build("equal", Form("LSTM")), oc.Options(threshold=0.9999, align=1, calibration=data))
    assert found.changed
    assert found.plan.refits == ()


def test_a_plan_says_the_weights(tmp_path: Path) -> None:
    model = network("LSTM", directions=2)
    _, found = lost(model, calibration={"x": sequences(40, 1)})
    found.plan.save(tmp_path / "p.json")
    assert serialize(oc.rewrite(model, oc.Plan.load(tmp_path / "p.json"))) == serialize(found.model)
