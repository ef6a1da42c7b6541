"""Data in any form: the same numbers, and where they do not fit, a line that says what is there and what is wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from support import builders
from support.cli import Cli, Save
from support.given import FORMS, Port

import onnx_condense as oc
from onnx_condense.data.reading import parts, read
from onnx_condense.data.sources import files_of

X = Port("x", ("N", 8))
ROWS = builders.random(6, 8)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_numbers(tmp_path: Path, form: str) -> None:
    given = FORMS[form](tmp_path, ROWS)
    found = read([X], given)
    assert np.allclose(np.concatenate([batch.arrays["x"].reshape(-1, 8) for batch in found]), ROWS, atol=1e-7)
    again = [batch for part in parts([X], given) for batch in read([X], part)]
    assert [batch.source.split("/")[-1] for batch in again] == [batch.source.split("/")[-1] for batch in found]
    assert all(path.exists() for path in files_of(given))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "command",
    [
        ("m.onnx", "--calibration", "{}"),
        ("m.onnx", "--data", "{}"),
        ("verify", "m.onnx", "m.onnx", "--data", "{}"),
        ("inspect", "m.onnx", "--data", "{}"),
        ("bench", "m.onnx", "--data", "{}"),
    ],
)
def test_every_form_runs_and_names_bad_samples(cli: Cli, save: Save, form: str, command: tuple[str, ...]) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    bad = builders.random(6, 8)
    bad[3, 2] = np.nan
    given = FORMS[form](cli.folder, bad)
    message = cli.fails(2, *(word.format(given) for word in command))
    assert "holds NaN in sample" in message
    assert {"sets": "test_data_set_3", "folder": "1.npy"}.get(form, given) in message


def test_calibration_is_the_same_from_any_form(tmp_path: Path, save: Save) -> None:
    save(builders.mlp((8, 16, 3), clusters=4))
    rows = builders.random(40, 8)
    made = {form: oc.condense("m.onnx", oc.Options(calibration=FORMS[form](tmp_path, rows))) for form in ("npz", "npy")}
    made["loader"] = oc.condense("m.onnx", oc.Options(calibration=FORMS["loader"](tmp_path, rows)))
    assert len({result.model.SerializeToString() for result in made.values()}) == 1


def test_what_is_lacking_is_said_with_what_is_there() -> None:
    np.savez("d.npz", images=np.zeros((4, 3), np.uint8), labels=np.zeros(4, np.int64))
    wanted = [X, Port("mask", ("N",), np.dtype(bool))]
    for given in ("d.npz", {"images": np.zeros((4, 3), np.uint8), "labels": np.zeros(4, np.int64)}):
        with pytest.raises(oc.InputError, match="lacks input x") as caught:
            read(wanted, given)
        assert "it holds images (4x3 uint8), labels (4 int64); the model wants x (?x8 float32), mask (? bool)" in str(
            caught.value
        )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("none.npz", "no such file"),
        ("none.py:f", "no file none.py"),
        ("rows.py", "name the function in it that yields inputs, as rows.py:function"),
        ("empty", "holds no data"),
        ("mixed", ".csv files and images: name one file"),
        ("two.npy", "names no input"),
        ("cut.npy", "damaged"),
        ("objects.npy", "holds no numbers"),
        ("text.npy", "pass an .npy"),
        ("bad.pb", "no tensor of ONNX"),
        ("none.pb", "holds no tensor"),
        ("sets", "holds input_0.pb (a), input_1.pb (b); the model wants"),
    ],
)
def test_what_cannot_be_read_is_said(given: str, says: str) -> None:
    for folder in ("empty", "mixed", "sets"):
        Path(folder).mkdir()
    Path("mixed/a.csv").write_text("1,2\n")
    Path("mixed/a.png").write_bytes(b"")
    np.save("two.npy", ROWS)
    np.save("objects.npy", np.array([None, 1]))
    Path("cut.npy").write_bytes(Path("two.npy").read_bytes()[:-4])
    Path("text.npy").write_text("hello")
    Path("rows.py").write_text("")
    Path("bad.pb").write_bytes(b"\xff" * 9)
    Path("none.pb").write_bytes(b"")
    for number, name in enumerate("ab"):
        Path(f"sets/input_{number}.pb").write_bytes(numpy_helper.from_array(ROWS, name).SerializeToString())
    wanted = [X, X] if given == "two.npy" else [X]
    with pytest.raises(oc.InputError) as caught:
        read(wanted, given)
    assert says in str(caught.value)
    assert given.split("/")[0].split(":")[0] in str(caught.value)


def test_tensors_follow_the_inputs_where_they_have_other_names() -> None:
    Path("s").mkdir()
    for number, value in enumerate((1.0, 2.0)):
        tensor = numpy_helper.from_array(np.full((2, 8), value, np.float32))
        Path(f"s/input_{number}.pb").write_bytes(tensor.SerializeToString())
    (found,) = read([X, Port("y", ("N", 8))], "s")
    assert found.arrays["x"].shape == (1, 2, 8)
    assert found.arrays["y"].min() == 2


def test_tensors_in_other_files_are_refused() -> None:
    tensor = numpy_helper.from_array(ROWS)
    tensor.data_location = TensorProto.EXTERNAL
    Path("x.pb").write_bytes(tensor.SerializeToString())
    with pytest.raises(oc.InputError, match="pass one with its numbers"):
        read([X], "x.pb")


@pytest.mark.parametrize("form", ["csv", "sets", "folder", "loader"])
def test_nothing_is_written_over_what_is_read(cli: Cli, save: Save, form: str) -> None:
    save(builders.mlp((8, 16, 3)))
    given = FORMS[form](cli.folder, ROWS)
    path = files_of(given)[-1]
    assert "is an input" in cli.fails(2, "m.onnx", "--data", given, "-o", path, "--force")
