"""External data: found wherever a model may hold a tensor, beside the model alone, whole, or refused with a line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from support import builders, outside
from support.apart import apart
from support.cli import Cli
from support.outside import KINDS, WEIGHT, saved

import onnx_condense as oc
from onnx_condense.model import files
from onnx_condense.model.protos import tensors
from onnx_condense.model.runtime import run, session

X = builders.random(3, 16, seed=2)


def result(path: Path) -> builders.Array:
    """What onnxruntime makes of a file."""
    return run(session(path), None, {"x": X})[0]


@pytest.fixture
def away(cli: Cli) -> Path:
    """A folder beside the current one, in which other files have the names of data."""
    for name in ("w.bin", "weights/w.bin"):
        place = cli.folder / name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(bytes(WEIGHT.nbytes))
    (cli.folder / "away").mkdir()
    return cli.folder / "away"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [("--threshold", "0.9"), ("--lossless",)], ids=["threshold", "lossless"])
def test_data_are_those_beside_the_model(cli: Cli, away: Path, kind: str, options: tuple[str, ...]) -> None:
    """A file of that name in the current folder is another one; what is written is whole."""
    saved(kind, away / "m.onnx")
    (cli.folder / "other").mkdir()
    cli.ok("away/m.onnx", "-o", "other/out.onnx", *options)
    np.testing.assert_allclose(result(Path("other/out.onnx")), X @ WEIGHT, rtol=1e-5, atol=1e-5)
    cli.ok("verify", "away/m.onnx", "other/out.onnx")


@pytest.mark.parametrize("kind", KINDS)
def test_every_command_reads_them_from_any_folder(cli: Cli, away: Path, kind: str) -> None:
    saved(kind, away / "m.onnx")
    onnx.save(builders.build(outside.PLAIN, {"w": WEIGHT}), "plain.onnx")
    cli.ok("verify", "plain.onnx", "away/m.onnx")
    cli.ok("verify", "away/m.onnx", "plain.onnx")
    cli.ok("inspect", "away/m.onnx")
    cli.ok("bench", "plain.onnx", "away/m.onnx", "--seconds", "0.1", "--threads", "1")


@pytest.mark.parametrize("kind", KINDS)
def test_other_data_are_another_model(tmp_path: Path, kind: str) -> None:
    source = files.load(saved(kind, tmp_path / "m.onnx"))
    assert source.external == ("w.bin",)
    assert source.size == (tmp_path / "m.onnx").stat().st_size + WEIGHT.nbytes
    (tmp_path / "w.bin").write_bytes((WEIGHT + 1).tobytes())
    again = files.load(tmp_path / "m.onnx")
    assert again.sha256 != source.sha256
    assert again.proto != source.proto


@pytest.mark.parametrize("location", ["weights/w.bin", "./w.bin", "weights//deep/w.bin"])
@pytest.mark.parametrize("kind", ["initializer", "constant"])
def test_folders_within_the_folder_are_ordinary(cli: Cli, away: Path, kind: str, location: str) -> None:
    saved(kind, away / "m.onnx", location)
    cli.ok("away/m.onnx", "-o", "out.onnx")
    np.testing.assert_allclose(result(Path("out.onnx")), X @ WEIGHT, rtol=1e-5, atol=1e-5)
    cli.ok("bench", "away/m.onnx", "--seconds", "0.1", "--threads", "1")


@pytest.mark.parametrize("kind", ["initializer", "constant", "branch"])
@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_links_within_the_folder_are_ordinary(cli: Cli, away: Path, kind: str, link: str) -> None:
    saved(kind, away / "m.onnx", "weights/real.bin")
    saved(kind, away / "m.onnx", "w.bin")
    (away / "w.bin").unlink()
    if link == "symbolic":
        (away / "w.bin").symlink_to("weights/real.bin")
    else:
        (away / "w.bin").hardlink_to(away / "weights/real.bin")
    cli.ok("away/m.onnx", "-o", "out.onnx")
    np.testing.assert_allclose(result(Path("out.onnx")), X @ WEIGHT, rtol=1e-5, atol=1e-5)
    cli.ok("bench", "away/m.onnx", "--seconds", "0.1", "--threads", "1")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["above", "absolute", "link", "folder"])
def test_what_leaves_the_folder_is_refused_before_it_is_opened(cli: Cli, away: Path, kind: str, way: str) -> None:
    """The file is a pipe: whoever opens it waits for ever."""
    os.mkfifo("secret")
    (away / "link").symlink_to("../secret")
    (away / "folder").symlink_to("..")
    location = {"above": "../secret", "absolute": str(cli.folder / "secret"), "link": "link", "folder": "folder/secret"}
    saved(kind, away / "m.onnx", location[way])
    onnx.save(builders.build(outside.PLAIN, {"w": WEIGHT}), "plain.onnx")
    for command in ((), ("inspect",), ("verify", "plain.onnx"), ("bench", "plain.onnx")):
        assert "outside its folder" in cli.fails(2, *command, "away/m.onnx")
    assert "outside its folder" in cli.fails(2, "verify", "away/m.onnx", "plain.onnx")


@pytest.mark.parametrize("kind", ["initializer", "constant", "function"])
@pytest.mark.parametrize(
    "stated",
    [
        {"offset": 4},
        {"offset": -4},
        {"offset": "four"},
        {"length": 12},
        {"length": 10**12},
        {"length": -1},
        {"offset": 10**30},
    ],
    ids=str,
)
def test_data_that_do_not_fit_are_a_line(cli: Cli, kind: str, stated: dict[str, object]) -> None:
    model, tensor = KINDS[kind]()
    saved(kind, cli.folder / "m.onnx", **{"offset": 0, "length": len(tensor.raw_data)} | stated)
    assert model.graph.output
    assert "damaged" in cli.fails(2, "m.onnx")
    assert "damaged" in cli.fails(2, "bench", "m.onnx")


@pytest.mark.parametrize("kind", KINDS)
def test_missing_and_short_data_are_a_line(cli: Cli, kind: str) -> None:
    saved(kind, cli.folder / "m.onnx")
    Path("w.bin").write_bytes(WEIGHT.tobytes()[:-1])
    assert "w.bin" in cli.fails(2, "m.onnx")
    Path("w.bin").unlink()
    assert "w.bin" in cli.fails(2, "m.onnx")
    Path("w.bin").mkdir()
    assert "w.bin" in cli.fails(2, "verify", "m.onnx", "m.onnx")


@pytest.mark.parametrize("location", ["", "no\0name", "loop"])
def test_names_that_are_no_files_are_a_line(cli: Cli, location: str) -> None:
    saved("constant", cli.folder / "m.onnx", "w.bin")
    Path("loop").symlink_to("loop")
    model = onnx.load("m.onnx", load_external_data=False)
    model.graph.node[0].attribute[0].t.external_data[0].value = location
    Path("m.onnx").write_bytes(model.SerializeToString())
    cli.fails(2, "m.onnx")
    cli.fails(2, "verify", "m.onnx", "m.onnx")


def test_text_lies_in_no_other_file(cli: Cli) -> None:
    saved("initializer", cli.folder / "m.onnx")
    model = onnx.load("m.onnx", load_external_data=False)
    model.graph.initializer[0].data_type = TensorProto.STRING
    Path("m.onnx").write_bytes(model.SerializeToString())
    assert "damaged" in cli.fails(2, "m.onnx")


def test_without_a_length_a_tensor_takes_what_it_needs(tmp_path: Path) -> None:
    """Several in one file, one of four-bit numbers."""
    model = builders.build("g (float[2] x) => (float[2] y) { y = Add(x, w) }", {"w": np.ones(2, np.float32)})
    for name, kind, dims, offset in (("a", TensorProto.FLOAT, [3], 8), ("b", TensorProto.UINT4, [3], 20)):
        tensor = model.graph.initializer.add(name=name, data_type=kind, dims=dims)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "w.bin"), ("offset", str(offset))):
            tensor.external_data.add(key=key, value=value)
    (tmp_path / "w.bin").write_bytes(bytes(range(30)))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    read = {t.name: t.raw_data for t in files.load(tmp_path / "m.onnx").proto.graph.initializer}
    assert (read["a"], read["b"]) == (bytes(range(8, 20)), bytes(range(20, 22)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_memory_brings_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Nobody knows where its files are: one of that name in the current folder is none of them."""
    model = onnx.load(saved(kind, tmp_path / "m.onnx"), load_external_data=False)
    monkeypatch.chdir(tmp_path)
    for function in (oc.condense, oc.analyze, oc.benchmark, lambda given: oc.verify(given, given)):
        with pytest.raises(oc.InputError, match="in memory"):
            function(model)


def test_tensors_of_training_and_of_attributes_are_found() -> None:
    model = builders.build(outside.PLAIN, {"w": WEIGHT})
    training = model.training_info.add()
    training.initialization.initializer.add(name="first")
    training.algorithm.node.add(op_type="Many").attribute.add().tensors.add(name="second")
    node = model.graph.node.add(op_type="Many")
    node.attribute.add().graphs.add().initializer.add(name="third")
    node.attribute.add().sparse_tensors.add().indices.name = "fourth"
    model.functions.add().attribute_proto.add().t.name = "fifth"
    assert {t.name for t in tensors(model)} >= {"w", "first", "second", "third", "fourth", "fifth"}


def test_a_process_reads_them_too(tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(WEIGHT.nbytes))
    saved("constant", tmp_path / "away" / "m.onnx", "weights/w.bin")
    assert apart("away/m.onnx", "-o", "out.onnx", cwd=tmp_path).code == 0
    np.testing.assert_allclose(result(tmp_path / "out.onnx"), X @ WEIGHT, rtol=1e-5, atol=1e-5)
