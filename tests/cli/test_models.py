"""What the command line takes: inputs, models that cannot be used, models that can."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import builders
from support.cli import OUT, Cli, Save, read, widths

import onnx_condense

# ---------------------------------------------------------------------- inputs


def test_data_gives_the_inputs(cli: Cli, save: Save) -> None:
    save(builders.noisy())
    data = builders.random(5, 8, seed=3)
    np.savez("d.npz", x=data, unrelated=np.zeros(2))
    cli.ok("m.onnx", "--data", "d.npz", "--report", "r.json")
    found = read("r.json")["verification"]
    assert found["samples"] == 5
    assert found["generated"] is False
    measured = onnx_condense.verify("m.onnx", OUT, {"x": data}).error
    assert found["approximation_error"] == pytest.approx(measured, rel=1e-4)


@pytest.mark.parametrize(
    "arrays", [{"z": (5, 8)}, {"x": (5, 9)}, {"x": (8,)}, {"x": (0, 8)}, {"x": (5, 2, 8, 1)}], ids=str
)
def test_data_that_does_not_fit(cli: Cli, save: Save, arrays: dict[str, tuple[int, ...]]) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    filled: dict[str, Any] = {name: np.ones(shape, dtype=np.float32) for name, shape in arrays.items()}
    np.savez("d.npz", **filled)
    assert " x" in cli.fails(2, "m.onnx", "--data", "d.npz")


def test_data_that_is_no_npz(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    Path("text.npz").write_text("hello")
    Path("empty.npz").write_bytes(b"")
    np.save("array.npy", np.zeros((2, 7)))
    np.savez("pickled.npz", x=np.array([None, {}], dtype=object))
    np.savez("good.npz", x=builders.random(4, 8))
    Path("cut.npz").write_bytes(Path("good.npz").read_bytes()[:-40])
    for name in ("text.npz", "empty.npz", "array.npy", "pickled.npz", "missing.npz", "cut.npz", "."):
        cli.fails(2, "m.onnx", "--data", name)


def test_data_of_another_type(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    np.savez("text.npz", x=np.array([["a"] * 8, ["b"] * 8]))
    cli.fails(2, "m.onnx", "--data", "text.npz")


def test_seeds_change_the_inputs_and_nothing_else(cli: Cli, save: Save) -> None:
    save(builders.noisy())
    found = []
    for seed in ("0", "0", "1"):
        cli.ok("m.onnx", "--threshold", "0.88", "--seed", seed, "--report", "r.json", "--force")
        found.append((read("r.json")["verification"]["approximation_error"], widths("r.json")))
    assert found[0] == found[1]
    assert found[0][0] != found[2][0]
    assert found[0][1] == found[2][1]


def test_input_shape_fills_symbolic_dimensions(cli: Cli, save: Save) -> None:
    save(two_sided())
    cli.ok("m.onnx", "--input-shape", "x=2x3x5x7", "--plan", "p.json", "--align", "1")
    assert read("p.json")["input_shapes"] == {"x": [2, 3, 5, 7]}


@pytest.mark.parametrize(
    "value", ["z=1x3x8x8", "x=1x3x8", "x=1x4x8x8", "x=0x3x8x8", "x", "x=", "=1x3", "x=1xax3x3", "x=-1x3x8x8"]
)
def test_input_shapes_that_do_not_fit(cli: Cli, save: Save, value: str) -> None:
    save(two_sided())
    assert "--input-shape" in cli.fails(2, "m.onnx", "--input-shape", value)


def test_contradictory_input_shape_and_data(cli: Cli, save: Save) -> None:
    save(two_sided())
    np.savez("d.npz", x=builders.random(2, 3, 5, 7))
    cli.fails(2, "m.onnx", "--data", "d.npz", "--input-shape", "x=1x3x9x9")


def two_sided() -> onnx.ModelProto:
    """A Conv net whose batch and image size are symbolic."""
    model = builders.convnet(clusters=4)
    for axis, name in ((2, "H"), (3, "W")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    return model


# ---------------------------------------------------------------------- models that cannot be used


def string_input() -> onnx.ModelProto:
    node = helper.make_node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER")
    inputs = [helper.make_tensor_value_info("x", TensorProto.STRING, ["N"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.STRING, ["N"])]
    return helper.make_model(helper.make_graph([node], "g", inputs, outputs), ir_version=8)


def unknown_initializer() -> onnx.ModelProto:
    return builders.build("g (float[N, 8] x) => (float[N, 3] y) { y = MatMul(x, w) }", check=False)


def cyclic() -> onnx.ModelProto:
    return builders.build("g (float[N, 8] x) => (float[N, 8] y) { a = Add(x, b) b = Relu(a) y = Relu(b) }", check=False)


@pytest.mark.parametrize("make", [builders.custom_operator, string_input, unknown_initializer, cyclic])
@pytest.mark.parametrize("command", [(), ("inspect",)])
def test_models_that_onnxruntime_or_we_cannot_run(cli: Cli, save: Save, make: Any, command: tuple[str, ...]) -> None:
    save(make())
    cli.fails(2, *command, "m.onnx")


def broken_files(folder: Path) -> dict[str, Path]:
    good = builders.mlp((8, 16, 3)).SerializeToString()
    contents = {
        "empty": b"",
        "text": b"hello world\n" * 20,
        "json": b'{"a": 1}',
        "binary": bytes(range(256)) * 8,
    }
    contents |= {f"cut{share}": good[: len(good) * share // 100] for share in range(4, 100, 8)}
    contents["no graph"] = onnx.ModelProto(ir_version=8).SerializeToString()
    for name, content in contents.items():
        (folder / f"{name}.onnx").write_bytes(content)
    (folder / "folder.onnx").mkdir()
    names = [*contents, "folder", "missing"]
    return {name: folder / f"{name}.onnx" for name in names}


def test_broken_files(cli: Cli, save: Save) -> None:
    good = save(builders.mlp((8, 16, 3)))
    for name, path in broken_files(cli.folder).items():
        for arguments in ((path,), ("inspect", path), ("verify", path, good), ("verify", good, path)):
            assert path.stem in cli.fails(2, *arguments), f"{name}: {arguments}"


def test_flipped_bytes_are_never_an_internal_error(cli: Cli, save: Save) -> None:
    """A damaged file is bad input (2), or still a model (0, or 1 where its numbers no longer allow a
    verification).
    """
    data = builders.mlp((4, 6, 2), clusters=2).SerializeToString()
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        for place in generator.integers(0, len(data), 3):
            damaged[place] ^= 1 << int(generator.integers(0, 8))
        Path("m.onnx").write_bytes(damaged)
        outcome = cli.run("m.onnx", "--force")
        assert outcome.code in (0, 1, 2)
        if outcome.code:
            assert outcome.error
            assert not outcome.written


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_model(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3))).chmod(0)
    assert "m.onnx" in cli.fails(2, "m.onnx")


# ---------------------------------------------------------------------- models that can


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_other_precisions(cli: Cli, save: Save, dtype: str) -> None:
    save(builders.mlp((8, 16, 3), clusters=4, dtype=dtype))
    cli.ok("m.onnx", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 4)}
    kinds = {t.data_type for t in onnx.load(OUT).graph.initializer}
    assert kinds == {TensorProto.FLOAT16 if dtype == "float16" else TensorProto.DOUBLE}


@pytest.mark.parametrize("batch", ["N", "1", "3"])
def test_batch_dimension_stays_as_it_is(cli: Cli, save: Save, batch: str) -> None:
    save(builders.mlp((8, 16, 3), clusters=4, batch=batch))
    cli.ok("m.onnx", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 4)}
    for before, after in zip(signature(Path("m.onnx")), signature(Path(OUT)), strict=True):
        assert before == after


def signature(path: Path) -> list[onnx.ValueInfoProto]:
    graph = onnx.load(path).graph
    return [*graph.input, *graph.output]


def test_nodes_need_no_names(cli: Cli, save: Save) -> None:
    model = builders.mlp((8, 16, 16, 3), clusters=(5, 4))
    for node in model.graph.node:
        node.name = ""
    save(model)
    cli.ok("m.onnx", "--report", "r.json")
    assert sorted((g["width_before"], g["width_after"]) for g in read("r.json")["groups"]) == [
        (16, 4),
        (16, 5),
    ]
    assert {n.name for n in onnx.load(OUT).graph.node} == {""}
    cli.ok("inspect", "m.onnx")


def test_equal_node_names_are_refused_as_onnxruntime_does(cli: Cli, save: Save) -> None:
    model = builders.mlp((8, 16, 16, 3), clusters=(5, 4))
    for node in model.graph.node:
        node.name = "same"
    save(model)
    assert "same" in cli.fails(2, "m.onnx")


def test_initializers_that_are_also_inputs(cli: Cli, save: Save) -> None:
    """As before IR version 4: they are weights, and are declared in their new sizes."""
    model = builders.mlp((8, 16, 3), clusters=4, opset=9)
    model.ir_version = 3
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer
    )
    onnx.checker.check_model(model, full_check=True)
    save(model)
    cli.ok("m.onnx", "--report", "r.json")
    assert widths("r.json") == {"fc0": (16, 4)}
    small = onnx.load(OUT)
    onnx.checker.check_model(small, full_check=True)
    assert small.ir_version == 3
    sizes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in small.graph.input}
    assert sizes["w0"] == [4, 8]
    assert sizes["b0"] == [4]
    assert sizes["w1"] == [3, 4]


def test_constant_nodes_are_weights(cli: Cli, save: Save) -> None:
    model = builders.mlp((8, 16, 3), clusters=4)
    for tensor in list(model.graph.initializer):
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
        model.graph.initializer.remove(tensor)
    save(model)
    cli.ok("m.onnx", "--report", "r.json")
    report = read("r.json")
    assert widths("r.json") == {"fc0": (16, 4)}
    assert report["input"]["parameters"] == 16 * 8 + 16 + 3 * 16 + 3
    assert report["output"]["parameters"] == 4 * 8 + 4 + 3 * 4 + 3
    assert Path(OUT).stat().st_size < Path("m.onnx").stat().st_size
    cli.ok("verify", "m.onnx", OUT)
