"""ONNX graphs as torch modules, and the trainer that uses them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.apart import apart

import onnx_condense as oc
from onnx_condense.errors import InputError
from onnx_condense.model.inputs import draw_feeds, input_specs
from onnx_condense.model.runtime import run, session

torch = pytest.importorskip("torch")
from onnx_condense.torch import Strategy, to_module, written_back  # noqa: E402

ROOT = Path(__file__).parents[2]
MODELS = sorted((ROOT / "models").glob("*.onnx"))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_graph_computes_what_onnxruntime_does(path: Path) -> None:
    model = onnx.load(path)
    feed = draw_feeds(model, input_specs(model), None, {}, 0).feeds[0]
    module = to_module(path)
    with torch.no_grad():
        got = module(*(torch.from_numpy(value) for value in feed.values())).numpy()
    wanted = run(session(model), None, feed)[0]
    assert np.linalg.norm(got - wanted) < 1e-5 * np.linalg.norm(wanted)
    back = {t.name: numpy_helper.to_array(t) for t in written_back(module, path).graph.initializer}
    assert all(np.array_equal(back[t.name], numpy_helper.to_array(t)) for t in model.graph.initializer)


def single(kind: str, shape: tuple[int, ...], constants: list[np.ndarray], **attributes: object) -> onnx.ModelProto:
    names = [f"c{i}" for i in range(len(constants))]
    node = helper.make_node(kind, ["x", *names], ["y"], **attributes)
    ports = [helper.make_tensor_value_info("x", 1, shape)], [helper.make_tensor_value_info("y", 1, None)]
    weights = [numpy_helper.from_array(value, name) for name, value in zip(names, constants, strict=True)]
    return helper.make_model(
        helper.make_graph([node], "g", *ports, weights), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


RNG = np.random.default_rng(0)
KERNEL = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
WINDOWS = {
    "uneven": ("Conv", [KERNEL], {"pads": [0, 1, 2, 1], "strides": [2, 1]}),
    "same upper": ("Conv", [KERNEL], {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    "same lower": ("Conv", [KERNEL], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "dilated": ("Conv", [KERNEL], {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    "transposed": (
        "ConvTranspose",
        [KERNEL.transpose(1, 0, 2, 3).copy()],
        {"strides": [2, 2], "output_padding": [1, 0]},
    ),
    "largest": ("MaxPool", [], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "strides": [2, 2]}),
    "mean": ("AveragePool", [], {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1]}),
    "mean with padding": ("AveragePool", [], {"kernel_shape": [2, 3], "pads": [0, 1, 1, 1], "count_include_pad": 1}),
    "mean rounded up": ("AveragePool", [], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    "part": ("Slice", [np.array([1, -4]), np.array([3, 2**40]), np.array([1, -1]), np.array([1, 2])], {}),
    "turned": ("Slice", [np.array([-2, 2**40]), np.array([-(2**40), 1]), np.array([1, -1]), np.array([-1, -2])], {}),
    "picked": ("Gather", [np.array([[2, -3], [0, 1]])], {"axis": 1}),
    "padded": ("Pad", [np.array([0, 1, 0, 2, 0, 0, 3, 1])], {}),
    "tiled": ("Tile", [np.array([2, 1, 1, 3])], {}),
    "each image": ("InstanceNormalization", [KERNEL[:3, 0, 0, 0], KERNEL[:3, 0, 1, 0]], {"epsilon": 1e-3}),
    "expanded": ("Expand", [np.array([2, 1, 1, 1, 1])], {}),
    "unsqueezed": ("Unsqueeze", [np.array([-1, 1])], {}),
    "flat": ("Flatten", [], {"axis": 2}),
    "normalized": ("LayerNormalization", [KERNEL[0, 0, 0, :1].repeat(7), KERNEL[0, 0, 1, :1].repeat(7)], {}),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_operators_are_those_of_onnx(name: str) -> None:
    kind, constants, attributes = WINDOWS[name]
    x = RNG.standard_normal((2, 3, 8, 7)).astype(np.float32)
    model = single(kind, x.shape, constants, **attributes)
    wanted = run(session(model), None, {"x": x})[0]
    with torch.no_grad():
        got = to_module(model)(torch.from_numpy(x)).numpy()
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["Less", "Greater"])
def test_comparisons(kind: str) -> None:
    x = np.array([[-1, 0, 0.5]], np.float32)
    model = single(kind, x.shape, [np.zeros(1, np.float32)])
    model.graph.node.append(helper.make_node("Not", ["y"], ["z"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", onnx.TensorProto.BOOL, x.shape))
    np.testing.assert_array_equal(to_module(model)(torch.from_numpy(x)), run(session(model), None, {"x": x})[0])


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_channels_that_become_space(mode: str) -> None:
    x = RNG.standard_normal((2, 12, 3, 5)).astype(np.float32)
    model = single("DepthToSpace", x.shape, [], blocksize=2, mode=mode)
    np.testing.assert_array_equal(to_module(model)(torch.from_numpy(x)), run(session(model), None, {"x": x})[0])


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(InputError, match=r"cannot be read as a PyTorch module \(Det\): pass the module itself"):
        to_module(single("Det", (3, 3), []))
    model = single("Pad", (2, 3, 8, 7), [np.array([0, 0, 1, 1, 0, 0, 1, 1])], mode="reflect")
    with pytest.raises(InputError, match="mode reflect"):
        to_module(model)(torch.zeros(2, 3, 8, 7))


def test_the_schedule_is_the_papers() -> None:
    rates = [Strategy().rate(step) for step in (0, 100, 199, 200, 399, 400, 1399, 1400, 2400)]
    assert rates[:2] == pytest.approx([0.01, 0.005])
    assert rates[2] < 1e-5
    assert rates[3] == 0.01
    assert rates[5:] == [1e-3, 1e-3, 1e-4, 1e-3]


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    with np.load(ROOT / "models" / "digits.npz") as file:
        images, labels = (file["images"] / np.float32(16)).astype(np.float32), file["labels"].astype(np.int64)
    np.savez(tmp_path / "digits.npz", x=images.reshape(-1, 1, 8, 8), y=labels)
    np.savez(tmp_path / "unlabelled.npz", x=images.reshape(-1, 1, 8, 8))
    return tmp_path


@pytest.fixture
def trainer(digits: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """The tool's trainer in this process, in the digits' folder."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.chdir(digits)
    import torch_trainer

    def call(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["torch_trainer.py", "--threads", "1", *words])
        torch_trainer.main()

    yield call
    torch.use_deterministic_algorithms(False)


def test_the_trainer_mends_what_merging_broke(digits: Path, trainer: Callable[..., None]) -> None:
    original = ROOT / "models" / "digits_conv_bn.onnx"
    broken = oc.condense(original, oc.Options(threshold=0.3, align=1))
    onnx.save(broken.model, digits / "in.onnx")
    given = ["--model", "in.onnx", "--metrics", "m.json"]
    scores = []
    for extra in (["--evaluate-only"], ["--output", "out.onnx", "--steps", "40", "--learning-rate", "0.02"]):
        trainer("--data", "digits.npz", *given, *extra)
        scores.append(json.loads((digits / "m.json").read_text())["score"])
    assert scores[1] > scores[0] + 0.05
    trained = onnx.load(digits / "out.onnx")
    assert [t.name for t in trained.graph.initializer] == [t.name for t in broken.model.graph.initializer]
    trainer("--data", "unlabelled.npz", "--teacher", str(original), *given, "--output", "o2.onnx", "--steps", "3")
    assert (digits / "o2.onnx").exists()


def test_the_loop_runs_with_the_trainer(digits: Path) -> None:
    command = f"{sys.executable} {ROOT / 'tools' / 'torch_trainer.py'} --threads 1 --data digits.npz --batches 4"
    original = ROOT / "models" / "digits_conv_bn.onnx"
    words = "--work run --rounds 1 --include /conv3/* --criterion 0.5:0.5 --layer-criterion 0.2:0.2"
    last = ["--last-layer-threshold", "off", "--align", "1"]
    ran = apart("auto", original, "--trainer", command, *words.split(), *last, cwd=digits)
    assert ran.code == 0, ran.err
    result = onnx.load(digits / "run" / "result.onnx")
    assert next(t for t in result.graph.initializer if t.name == "conv3.weight").dims[0] < 64
