"""Runs that end before their end: by signals they say so; whatever ends them, no pair is mixed and nothing stays."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import numpy as np
import onnx
import pytest
from support import builders
from support.apart import Stop, apart
from support.cli import Outcome, snapshot

from onnx_condense.model.files import load
from onnx_condense.processes import terminated_like_interrupted

QUICK = ("-o", "out.onnx", "--force", "--quiet", "--lossless")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models whose results keep weights outside, the first one's result, and in `apart` the second one's."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "apart").mkdir()
    for name, seed in (("a", 0), ("b", 1)):
        model = builders.mlp((40, 16, 3), clusters=8, seed=seed)
        save(model, folder / f"{name}.onnx", f"{name}.data")
    assert run(folder, "a.onnx").code == 0
    assert run(folder, "b.onnx", "-o", "apart/out.onnx").code == 0
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "folder")


def save(model: onnx.ModelProto, path: Path, location: str) -> None:
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=9)


def run(folder: Path, model: str, *more: str, stop: Stop | None = None) -> Outcome:
    return apart(model, *QUICK, *more, cwd=folder, stop=stop)


def expected(folder: Path) -> str:
    """The sha256 of the whole pair that a run on the second model writes."""
    return load(folder / "apart" / "out.onnx").sha256


@pytest.mark.parametrize(("event", "count"), [("open", 1), ("os.rename", 1), ("open", 2), ("os.rename", 2)])
def test_a_kill_leaves_the_old_pair_and_the_next_run_cleans_up(folder: Path, event: str, count: int) -> None:
    old, before = load(folder / "out.onnx").sha256, set(snapshot(folder))
    killed = run(folder, "b.onnx", stop=Stop(count, int(signal.SIGKILL), event))
    assert killed.code == -signal.SIGKILL
    assert load(folder / "out.onnx").sha256 == old
    assert before <= set(snapshot(folder))
    assert run(folder, "b.onnx").code == 0
    assert load(folder / "out.onnx").sha256 == expected(folder) != old
    left = {path.name for path in folder.iterdir() if path.is_file()}
    assert left == {"a.onnx", "a.data", "b.onnx", "b.data", "out.onnx", *load(folder / "out.onnx").external}


@pytest.mark.parametrize(
    ("number", "event", "count"),
    [
        (signal.SIGTERM, "open", 1),
        (signal.SIGTERM, "os.rename", 2),
        (signal.SIGHUP, "open", 2),
        (signal.SIGINT, "os.rename", 2),
    ],
)
def test_a_signal_before_the_model_is_there_undoes_all(
    folder: Path, number: signal.Signals, event: str, count: int
) -> None:
    before = snapshot(folder)
    stopped = run(folder, "b.onnx", stop=Stop(count, int(number), event))
    assert stopped.code == 1
    assert stopped.err == "onnx-condense: error: interrupted: nothing was written\n"
    assert snapshot(folder) == before


def test_a_signal_after_the_model_is_there_says_so(folder: Path) -> None:
    """The report's file is the third that is renamed."""
    stopped = run(folder, "b.onnx", "--report", "r.json", stop=Stop(3, int(signal.SIGTERM), "os.rename"))
    assert stopped.code == 1
    assert "out.onnx is written" in stopped.err
    assert load(folder / "out.onnx").sha256 == expected(folder)
    assert not (folder / "r.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("count", [1, 2])
def test_a_copy_that_is_stopped_leaves_the_old_pair(folder: Path, number: signal.Signals, count: int) -> None:
    """Nothing is condensed in the third model: its data would keep their name beside the copy."""
    (folder / "w").mkdir()
    save(builders.mlp((40, 16, 3)), folder / "c.onnx", "w/c.data")
    (folder / "other").mkdir()
    assert run(folder, "a.onnx", "-o", "other/out.onnx").code == 0
    old, before = load(folder / "other/out.onnx").sha256, snapshot(folder)
    stopped = run(folder, "c.onnx", "-o", "other/out.onnx", stop=Stop(count, int(number), "os.rename"))
    assert stopped.code == (1 if number == signal.SIGTERM else -number)
    assert load(folder / "other/out.onnx").sha256 == old
    if number == signal.SIGTERM:
        assert snapshot(folder) == before
        assert not (folder / "other/w").exists()
    assert run(folder, "c.onnx", "-o", "other/out.onnx").code == 0
    assert (folder / "other/out.onnx").read_bytes() == (folder / "c.onnx").read_bytes()
    assert load(folder / "other/out.onnx").sha256 == load(folder / "c.onnx").sha256
    left = {str(p.relative_to(folder / "other")) for p in (folder / "other").rglob("*") if p.is_file()}
    assert left == {"out.onnx", "w/c.data"}


def test_the_mode_of_a_file_that_is_replaced_stays(folder: Path) -> None:
    (folder / "out.onnx").chmod(0o640)
    (folder / "r.json").write_text("{}")
    (folder / "r.json").chmod(0o600)
    assert run(folder, "b.onnx", "--report", "r.json").code == 0
    (data,) = load(folder / "out.onnx").external
    assert [(folder / n).stat().st_mode & 0o777 for n in ("out.onnx", data, "r.json")] == [0o640, 0o640, 0o600]


@pytest.mark.parametrize("command", ["inspect", "verify", "bench"])
def test_every_command_is_terminated_as_it_is_interrupted(tmp_path: Path, command: str) -> None:
    """The signal comes when it opens its inputs."""
    onnx.save(builders.mlp((40, 16, 3)), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=builders.random(4, 40))
    models = ["m.onnx"] * (2 if command == "verify" else 1)
    stop = Stop(1, signal.SIGTERM, "open", "x.npz")
    done = apart(command, *models, "--data", "x.npz", cwd=tmp_path, stop=stop)
    assert done.code == 1
    assert done.err == "onnx-condense: error: interrupted: nothing was written\n"


def test_a_signal_that_comes_twice_is_one() -> None:
    """As `timeout` sends it, to a process and to its group: the second must not stop what is undone after the first."""
    stopped, undone = False, False
    with terminated_like_interrupted():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            stopped = True
            signal.raise_signal(signal.SIGTERM)
            undone = True
    assert stopped
    assert undone
