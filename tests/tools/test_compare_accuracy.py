"""The baselines of tools/compare_accuracy.py are exact where they should be, and the tool's rows, file and plot."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.apart import apart
from support.cli import Outcome

from onnx_condense.operators.queries import count_parameters

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
_baselines = importlib.import_module("_baselines")
_network = importlib.import_module("_network")

Method = Callable[[Any, Any], Any]
METHODS = [_baselines.delete, _baselines.merge_neurons, _baselines.fold]
WIDTH = 12


def network(doubled: bool, normalized: bool, copied: float = 1.0) -> onnx.ModelProto:
    """Conv, BatchNormalization if `normalized`, Relu, Conv; `doubled`: half of the channels are `copied` · others."""
    generator = np.random.default_rng(0)
    half = WIDTH // 2 if doubled else WIDTH

    def repeated(value: np.ndarray[Any, Any], ratio: float = 1.0) -> np.ndarray[Any, Any]:
        return np.concatenate([value, ratio * value][: WIDTH // half]).astype(np.float32)

    weights = {
        "w": repeated(generator.standard_normal((half, 3, 3, 3)), copied),
        "b": repeated(generator.standard_normal(half), copied),
        "v": generator.standard_normal((4, WIDTH, 3, 3)).astype(np.float32),
    }
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["h"], pads=[1] * 4, name="first")]
    hidden = "h"
    if normalized:
        for name in ("scale", "mean", "var", "shift"):
            weights[name] = repeated(0.5 + generator.random(half), copied if name in ("mean", "shift") else 1.0)
        norm = ["h", "scale", "shift", "mean", "var"]
        nodes.append(helper.make_node("BatchNormalization", norm, ["n"], epsilon=1e-3))
        hidden = "n"
    nodes += [
        helper.make_node("Relu", [hidden], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["y"], pads=[1] * 4, name="second"),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [given], [made], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto) -> np.ndarray[Any, Any]:
    x = np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def narrowed(model: onnx.ModelProto, method: Method, width: int) -> onnx.ModelProto:
    traced = _network.Network.of(model)
    (group,) = traced.groups
    return _network.narrowed(traced, method, {group.index: width}).model


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("method", [_baselines.merge_neurons, _baselines.fold])
def test_copies_merge_for_nothing(method: Method, normalized: bool) -> None:
    """Neuron merging keeps the largest norms: small copies go; folding averages, which is exact for equal ones."""
    model = network(True, normalized, 1.0 if method is _baselines.fold else 0.25)
    small = narrowed(model, method, WIDTH // 2)
    assert count_parameters(small.graph)[0] < count_parameters(model.graph)[0]
    np.testing.assert_allclose(run(small), run(model), rtol=1e-3, atol=1e-3)


def test_deletion_keeps_the_largest_norms() -> None:
    model = network(False, True)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    norms = np.abs(weights["w"]).sum((1, 2, 3))
    small = narrowed(model, _baselines.delete, 5)
    found = next(numpy_helper.to_array(t) for t in small.graph.initializer if t.name == "w")
    np.testing.assert_array_equal(found, weights["w"][np.sort(np.argsort(-norms)[:5])])


def test_folding_averages_clusters_and_repairs_their_variance() -> None:
    model = network(False, True)
    weights = {t.name: numpy_helper.to_array(t).astype(float) for t in model.graph.initializer}
    small = narrowed(model, _baselines.fold, 1)
    found = {t.name: numpy_helper.to_array(t) for t in small.graph.initializer}
    deviation = np.sqrt(weights["var"] + 1e-3)
    rows = (weights["w"] / deviation[:, None, None, None]).reshape(WIDTH, -1)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    correlation = ((unit @ unit.T).sum() - WIDTH) / (WIDTH * (WIDTH - 1))
    gain = np.sqrt(WIDTH / (1 + (WIDTH - 1) * correlation))
    np.testing.assert_allclose(found["scale"], [weights["scale"].mean() * gain], rtol=1e-4)
    np.testing.assert_allclose(found["w"].reshape(-1), rows.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["v"][:, 0], weights["v"].sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 5, 11, 12])
def test_clusters_are_as_many_as_asked_for(count: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((12, 3))
    for given in (vectors, np.ones_like(vectors)):
        labels = _baselines.clusters(given, count)
        assert set(labels.tolist()) == set(range(count))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stem", ["digits_conv_bn", "digits_mobilenet"])
def test_sizes_are_met(method: Method, stem: str) -> None:
    model = onnx.load(ROOT / "models" / f"{stem}.onnx")
    traced = _network.Network.of(model)
    assert traced.size({}) == traced.parameters
    widths = traced.uniform(traced.groups, 0.7 * traced.parameters)
    small = _network.narrowed(traced, method, widths).model
    assert 0.66 < count_parameters(small.graph)[0] / traced.parameters <= 0.705


# ---------------------------------------------------------------------------------------------------- the tool


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with np.load(ROOT / "models" / "digits.npz") as digits:
        x, y = digits["images"].reshape(-1, 8, 8) * 15, digits["labels"]
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, train_x=x[:1500], train_y=y[:1500], test_x=x[1500:], test_y=y[1500:])
    return path


def tool(*arguments: str | Path) -> Outcome:
    return apart(*arguments, cwd=ROOT / "models", script=ROOT / "tools" / "compare_accuracy.py")


def test_rows_are_kept_and_made_again_on_request(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "digits.json"
    model = ROOT / "models" / "digits_conv_bn.onnx"
    common = (model, "--data", images, "--mean", "0", "--std", "1", "--kept", "0.7", "--json", target)
    done = tool(*common, "--only", "delete,folding,ratio,calibrated-64")
    assert done.code == 0, done.err
    content = json.loads(target.read_text())
    assert [row["method"] for row in content["rows"]] == ["delete", "folding", "ratio", "moments", "calibrated-64"]
    for row in content["rows"]:
        assert row["parameters"] <= 0.705
        assert 0 < row["macs"] < 1
        assert 0 <= row["accuracy"] <= 1
        assert row["seconds"] >= 0
        assert row["setting"]
    assert target.with_suffix(".svg").read_text().startswith("<svg")

    content["rows"] = [row | {"accuracy": 2.0} for row in content["rows"]]
    target.write_text(json.dumps(content))
    assert tool(*common, "--only", "delete").code == 0
    again = {row["method"]: row["accuracy"] for row in json.loads(target.read_text())["rows"]}
    assert again["delete"] <= 1
    assert again["ratio"] == 2

    other = tool(*common, "--seed", "1")
    assert other.code == 2
    assert "of another model or of other images" in other.err


def test_missing_peers_are_skipped_with_what_to_install(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ("onnxsim", "torch"):
        (hidden / f"{name}.py").write_text(f"raise ImportError('No module named {name}')\n")
    script = ROOT / "tools" / "compare_accuracy.py"
    model, target = ROOT / "models" / "digits_conv_bn.onnx", tmp_path / "out.json"
    arguments = [model, "--data", images, "--kept", "0.9", "--only", "onnxsim,torch-pruning,wanda", "--json", target]
    code = "import sys, runpy; sys.path[:0] = sys.argv[1:3]; del sys.argv[1:3]; sys.argv = sys.argv[1:]"
    code += "; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, hidden, script.parent, script, *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(target.read_text())["rows"]
    assert len(rows) == 3
    assert all("pip install . --group peers" in row["skipped"] for row in rows)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: {"--data": folder}, "no .npz, nor a folder with one or with a load.py"),
        (lambda folder: {"--only": "magic"}, "the methods are delete, merging"),
        (lambda folder: {"--mean": "0,0,0,0"}, "one number, or one per channel of the images (1)"),
        (lambda folder: {"--data": folder / "none.npz"}, "is no .npz"),
    ],
)
def test_bad_usage(images: Path, tmp_path: Path, change: Callable[[Path], dict[str, Any]], said: str) -> None:
    options = {"--data": images, "--json": tmp_path / "out.json"} | change(tmp_path)
    given = [str(part) for pair in options.items() for part in pair]
    done = tool(ROOT / "models" / "digits_conv_bn.onnx", *given)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
