"""onnxruntime's refusals become InputError with its reason, in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from support import builders

from onnx_condense import InputError
from onnx_condense.model import files, held, wire
from onnx_condense.model.files import load
from onnx_condense.model.runtime import packs, run, session


def test_a_model_that_onnxruntime_refuses() -> None:
    model = builders.mlp((4, 8, 2))
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(InputError, match="NoSuchOperator") as caught:
        session(model)
    assert "\n" not in str(caught.value)


def test_inputs_that_do_not_fit() -> None:
    model = builders.mlp((4, 8, 2))
    name = model.graph.input[0].name
    with pytest.raises(InputError, match="cannot run the model on these inputs"):
        run(session(model), None, {name: np.zeros((1, 5), dtype=np.float32)})


def test_optimizations_change_no_result() -> None:
    model = builders.mlp((4, 8, 2))
    feed = {model.graph.input[0].name: np.ones((3, 4), dtype=np.float32)}
    (fast,), (plain,) = run(session(model), None, feed), run(session(model, optimize=False), None, feed)
    np.testing.assert_allclose(fast, plain, rtol=1e-5)


def test_bytes_are_as_good_as_a_message() -> None:
    model: onnx.ModelProto = builders.mlp((4, 8, 2))
    assert [o.name for o in session(model.SerializeToString()).get_outputs()] == [o.name for o in model.graph.output]


def test_where_onnxruntime_found_it_is_left_out() -> None:
    """A C++ file, line and signature would take the place of the reason."""
    model = builders.mlp((4, 8, 2))
    model.opset_import[0].version = 99
    with pytest.raises(InputError, match=r"^onnxruntime cannot load the model: ONNX Runtime only .*Opset 99"):
        session(model)


def test_weights_that_stay_in_files_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ((files, "HELD_FROM"), (held, "LEAST"), (wire, "LEAST")):
        monkeypatch.setattr(*room, 16)
    model = builders.mlp((4, 8, 2))
    assert packs(model)
    onnx.save(model, tmp_path / "m.onnx")
    source = load(tmp_path / "m.onnx")
    large = source.proto
    assert held.holds(large)
    assert not packs(large)
    feed = {model.graph.input[0].name: np.ones((3, 4), dtype=np.float32)}
    np.testing.assert_allclose(*(run(session(one), None, feed)[0] for one in (model, large)), rtol=1e-6)
    large.graph.node[0].domain = "com.microsoft"
    assert packs(large)
