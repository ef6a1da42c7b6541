"""Large models: weights stay in files, are looked at there, and are written and measured without a copy of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from support import builders
from support.cli import Cli, read

import onnx_condense as oc
from onnx_condense.errors import InputError
from onnx_condense.model import apart, data_files, files, held, runtime, wire

X = builders.random(3, 24, seed=3)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of a kilobyte and more is large."""
    count_as_large(monkeypatch)


def count_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for room, name, size in ((held, "LEAST", 1024), (wire, "LEAST", 1024), (files, "HELD_FROM", 1024)):
        monkeypatch.setattr(room, name, size)


def saved(kind: str, path: Path) -> onnx.ModelProto:
    """An MLP half of whose hidden neurons are copies, as one file or with external data."""
    made = builders.mlp([24, 80, 20], clusters=40)
    made.graph.initializer[0].data_location = onnx.TensorProto.DEFAULT
    if kind == "external":
        copied = onnx.ModelProto.FromString(made.SerializeToString())
        onnx.save(copied, path, save_as_external_data=True, location="m.data", size_threshold=64)
    else:
        onnx.save(made, path)
    return made


@pytest.mark.parametrize("kind", ["external", "plain"])
def test_weights_stay_in_files_until_they_are_looked_at(large: None, tmp_path: Path, kind: str) -> None:
    made = saved(kind, tmp_path / "m.onnx")
    source = files.load(tmp_path / "m.onnx")
    assert {tensor.name for tensor in source.proto.graph.initializer if held.is_held(tensor)} == {"w0", "w1"}
    for tensor in source.proto.graph.initializer:
        assert len(tensor.raw_data) < 1024
        assert not held.numbers(tensor).flags.writeable
        np.testing.assert_array_equal(held.numbers(tensor), builders.weight(made, tensor.name))
    assert not held.holds(held.filled(source.proto))
    whole = files.load(tmp_path / "m.onnx", hold=False)
    assert not held.holds(whole.proto)
    assert (whole.sha256, whole.size) == (source.sha256, source.size)
    (tmp_path / "there").mkdir()
    for place in (tmp_path / "n.onnx", tmp_path / "there" / "m.onnx"):
        same, stored = files.copy(source, place)
        assert same
        assert stored == (source.sha256, source.size)
    stored = files.save(source.proto, tmp_path / "o.onnx", external=kind == "external")
    again = files.load(tmp_path / "o.onnx")
    assert stored == (again.sha256, again.size)


@pytest.mark.parametrize("kind", ["external", "plain"])
@pytest.mark.parametrize("options", [("--threshold", "0.9"), ("--lossless",), ("--budget", "params=0.8")])
def test_what_is_written_is_what_is_written_of_a_small_model(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, kind: str, options: tuple[str, ...]
) -> None:
    saved(kind, Path("m.onnx"))
    for folder in "ab":
        (cli.folder / folder).mkdir()
        cli.ok("m.onnx", "-o", f"{folder}/out.onnx", *options, "--report", f"{folder}.json", "--align", "1")
        count_as_large(monkeypatch)
    one, other = ({path.name: path.read_bytes() for path in (cli.folder / name).iterdir()} for name in "ab")
    assert one == other
    assert read("a.json")["output"] | {"path": ""} == read("b.json")["output"] | {"path": ""}


def test_no_temporary_file_is_left(
    large: None, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    saved("plain", Path("m.onnx"))
    (folder / "onnx-condense-killed.weights").write_bytes(b"left by a run that was killed")
    cli.ok("m.onnx", "-o", "out.onnx", "--align", "1")
    assert not [*folder.iterdir()]


def test_no_room_for_temporary_files_is_a_line(large: None, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("plain", Path("m.onnx"))

    def full(*_: object) -> tuple[int, str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    assert "TMPDIR" in cli.fails(2, "m.onnx", "-o", "out.onnx")


def test_an_array_to_be_filled_lies_in_a_file_where_it_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    value = builders.random(40, 5, 3)
    monkeypatch.setattr(held, "ROOM_FROM", 1000)
    monkeypatch.setattr(held, "AT_ONCE", 500)
    taken = held.by_rows(value, lambda rows: 2 * rows)
    held.let_go()
    np.testing.assert_array_equal(taken, 2 * value)
    taken[0] = 0
    assert not taken[0].any()
    assert b"".join(held.parted([bytes(3), b"", bytes(range(256)) * 9])) == bytes(3) + bytes(range(256)) * 9


def test_an_array_lies_in_memory_where_there_is_no_room_for_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(held, "ROOM_FROM", 1000)
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    assert held.room((400, 5), np.dtype(np.float32)).flags.owndata


def test_no_message_holds_a_large_weight(large: None, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    saved("external", Path("m.onnx"))
    held_back: list[int] = []
    before = runtime.to_bytes

    def seen(model: onnx.ModelProto) -> bytes:
        held_back.extend(len(tensor.raw_data) for tensor in model.graph.initializer)
        return before(model)

    monkeypatch.setattr(runtime, "to_bytes", seen)
    cli.ok("m.onnx", "-o", "out.onnx", "--align", "1")
    assert held_back
    assert max(held_back) < 1024


def test_no_message_is_made_to_be_measured() -> None:
    """Sizes are asked of single tensors and nodes, in one place; who serializes is known."""
    package = Path(oc.__file__).parent
    found = {name: {p.stem for p in package.rglob("*.py") if f".{name}(" in p.read_text()} for name in ASKED}
    assert found == ASKED


ASKED = {
    "ByteSize": {"wire", "inference"},
    "SerializeToString": {"wire", "protos", "runtime", "functions", "rebuilt", "trainer", "checking", "pieces"},
}
"""Modules that ask messages so. functions, rebuilt, checking, trainer and pieces: single nodes, attributes,
types and ports."""


@pytest.mark.parametrize("kind", ["external", "plain"])
def test_sizes_and_bytes_are_those_of_protobuf(large: None, tmp_path: Path, kind: str) -> None:
    made = saved(kind, tmp_path / "m.onnx")
    made.metadata_props.add(key="a", value="b")
    assert wire.size(made) == made.ByteSize()
    source = files.load(tmp_path / "m.onnx")
    source.proto.metadata_props.add(key="a", value="b")
    whole = held.filled(source.proto)
    assert whole == made or kind == "external"  # which says of every tensor where it is
    assert wire.size(source.proto) == whole.ByteSize()
    assert b"".join(wire.pieces(source.proto)) == whole.SerializeToString(deterministic=True)


def test_what_is_written_in_an_unusual_way_is_read_whole(large: None, tmp_path: Path) -> None:
    """Protobuf merges fields that come twice; a graph in two parts is such a field."""
    made = saved("plain", tmp_path / "m.onnx")
    rest = onnx.ModelProto(graph=onnx.GraphProto(doc_string="more"))
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString() + rest.SerializeToString())
    source = files.load(tmp_path / "m.onnx")
    assert not held.holds(source.proto)
    assert source.proto.graph.doc_string == "more"
    np.testing.assert_array_equal(builders.weight(source.proto, "w0"), builders.weight(made, "w0"))


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:300] + b"\xff" * 64])
def test_a_damaged_large_file_is_a_line(large: None, cli: Cli, damage: Callable[[bytes], bytes]) -> None:
    saved("plain", Path("m.onnx"))
    Path("m.onnx").write_bytes(damage(Path("m.onnx").read_bytes()))
    assert "m.onnx" in cli.fails(2, "m.onnx", "-o", "out.onnx")


def test_numbers_that_do_not_fit_their_shape_are_refused(large: None, cli: Cli) -> None:
    made = saved("plain", Path("m.onnx"))
    made.graph.initializer[0].raw_data += b"more"
    onnx.save(made, "m.onnx")
    cli.fails(2, "m.onnx", "-o", "out.onnx")


def test_weights_between_bytes_of_their_numbers_are_copied(large: None, tmp_path: Path) -> None:
    """Kernels may rely on numbers that begin at multiples of their size."""
    made = saved("external", tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    data = (tmp_path / "m.data").read_bytes()
    (tmp_path / "m.data").write_bytes(b"!" + data)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            entry.value = str(int(entry.value) + 1) if entry.key == "offset" else entry.value
    onnx.save(proto, tmp_path / "m.onnx")
    source = files.load(tmp_path / "m.onnx")
    for tensor in source.proto.graph.initializer:
        assert held.numbers(tensor).flags.aligned
        np.testing.assert_array_equal(held.numbers(tensor), builders.weight(made, tensor.name))


def test_the_model_that_python_gets_holds_its_numbers(large: None, tmp_path: Path) -> None:
    saved("plain", tmp_path / "m.onnx")
    result = oc.condense(tmp_path / "m.onnx", oc.Options(align=1))
    assert result.changed
    onnx.checker.check_model(result.model, full_check=True)
    assert not any(tensor.external_data for tensor in result.model.graph.initializer)
    again = oc.rewrite(tmp_path / "m.onnx", result.plan)
    assert again.graph.initializer == result.model.graph.initializer


def offsets(path: Path) -> list[tuple[int, int]]:
    """(offset, length) of every tensor in another file."""
    proto = onnx.load(path, load_external_data=False)
    found = [{e.key: e.value for e in t.external_data} for t in proto.graph.initializer if t.external_data]
    return [(int(stated["offset"]), int(stated["length"])) for stated in found]


def test_large_tensors_begin_at_pages(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "PAGED", 3500)
    saved("external", Path("m.onnx"))
    cli.ok("m.onnx", "-o", "out.onnx", "--align", "1")
    found = offsets(Path("out.onnx"))
    assert [length for offset, length in found if length >= 3500]
    assert all(offset % 4096 == 0 for offset, length in found if length >= 3500)
    cli.ok("verify", "m.onnx", "out.onnx", "--tolerance", "1e-4")


def test_the_alignment_of_the_original_is_kept(cli: Cli) -> None:
    made = saved("external", Path("m.onnx"))
    proto, end = onnx.load("m.onnx", load_external_data=False), 0
    with open("m.data", "wb") as file:
        for tensor, whole in zip(proto.graph.initializer, made.graph.initializer, strict=True):
            for entry in tensor.external_data:
                entry.value = str(end) if entry.key == "offset" else entry.value
            file.seek(end)
            file.write(whole.raw_data)
            end = -(-file.tell() // 256) * 256
    onnx.save(proto, "m.onnx")
    cli.ok("m.onnx", "-o", "out.onnx", "--align", "1")
    assert len(offsets(Path("out.onnx"))) > 1
    assert all(offset % 256 == 0 for offset, _ in offsets(Path("out.onnx")))


@pytest.mark.parametrize("kind", ["external", "plain"])
def test_large_models_run_in_a_process_of_their_own(
    large: None, cli: Cli, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    saved(kind, Path("m.onnx"))
    cli.ok("m.onnx", "-o", "here.onnx", "--lossless", "--report", "here.json")
    monkeypatch.setattr(apart, "APART_FROM", 64)
    monkeypatch.setattr(apart, "here", None)  # nothing runs in this process
    cli.ok("m.onnx", "-o", "apart.onnx", "--lossless", "--report", "apart.json")
    here, there = read("here.json"), read("apart.json")
    assert here["verification"] == there["verification"]
    assert here["output"] | {"path": ""} == there["output"] | {"path": ""} or kind == "external"


def test_a_process_that_dies_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "APART_FROM", 64)
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(InputError, match="died"):
        apart.outputs(builders.mlp([24, 80, 20]), [{"x": X}])


def test_what_does_not_run_apart_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "APART_FROM", 64)
    with pytest.raises(InputError, match="cannot run"):
        apart.outputs(builders.mlp([24, 80, 20]), [{"x": X[:, :3]}])
