"""Pipes: `-` for models and documents, streams that are full, closed or of few characters, and what is said then."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import onnx
import pytest
from support import builders
from support.apart import apart
from support.cli import OUT, PREFIX, Cli, Save, listening, read, shell, snapshot

MODEL = builders.mlp((8, 16, 3), clusters=4)
PROGRAM = [sys.executable, "-m", "onnx_condense"]


def piped(folder: Path, *arguments: str, given: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command line with bytes on standard input."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        cwd=folder,
        env=os.environ | environment,
        input=given,
        capture_output=True,
        timeout=120,
    )


def test_a_model_goes_through_a_pipe(tmp_path: Path, save: Save) -> None:
    path = save(MODEL)
    assert apart("m.onnx", "--plan", "p.json", "--report", "r.json", cwd=tmp_path).code == 0
    before = snapshot(tmp_path)
    through = piped(tmp_path, "-", given=path.read_bytes())
    assert through.returncode == 0, through.stderr
    assert through.stdout == (tmp_path / OUT).read_bytes()
    assert b"Dependency groups" in through.stderr
    assert b"Wrote standard output" in through.stderr
    assert snapshot(tmp_path) == before
    again = apart("-", "--replay", "p.json", "--quiet", cwd=tmp_path, given=path.read_bytes())
    assert (again.code, again.out.encode(errors="surrogateescape"), again.err) == (0, through.stdout, "")
    report = apart("-", "-o", "o.onnx", "--report", "-", cwd=tmp_path, given=path.read_bytes())
    found = json.loads(report.out)
    assert found["output"]["sha256"] == read(tmp_path / "r.json")["output"]["sha256"]
    assert found["input"]["sha256"] == read(tmp_path / "r.json")["input"]["sha256"]
    assert "Dependency groups" in report.err


def test_a_model_that_stays_goes_through_byte_for_byte(tmp_path: Path, save: Save) -> None:
    path = save(builders.mlp((8, 16, 3)))
    through = piped(tmp_path, "/dev/stdin", "-o", "/dev/stdout", "--lossless", given=path.read_bytes())
    assert through.returncode == 0, through.stderr
    assert through.stdout == path.read_bytes()
    assert b"standard output is the input" in through.stderr


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Bytes on this process's standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize("arguments", [("inspect", "-"), ("verify", "-", "m.onnx"), ("bench", "-", "--seconds", "0.1")])
def test_other_commands_read_a_pipe(
    cli: Cli, save: Save, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    give(monkeypatch, save(MODEL).read_bytes())
    cli.ok(*arguments)


@pytest.mark.parametrize("given", [b"", b"abc", b"\x08\x09"])
def test_a_pipe_without_a_model(cli: Cli, monkeypatch: pytest.MonkeyPatch, given: bytes) -> None:
    give(monkeypatch, given)
    assert "standard input" in cli.fails(2, "-")
    give(monkeypatch, given)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert "standard input" in cli.fails(2, "-")


def test_one_pipe_takes_one_thing(cli: Cli, save: Save) -> None:
    save(MODEL)
    assert "twice" in cli.fails(2, "m.onnx", "-o", "-", "--report", "-")
    assert "twice" in cli.fails(2, "m.onnx", "--plan", "/dev/stdout", "--report", "-")


def test_a_file_called_dash_is_a_file(cli: Cli, save: Save) -> None:
    save(MODEL)
    assert cli.ok("m.onnx", "-o", "./-").written == {"-"}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_pipe_of_few_characters(tmp_path: Path, save: Save, encoding: str) -> None:
    save(MODEL)
    done = piped(tmp_path, "m.onnx", "--lossless", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert b"16 -> 4" in done.stdout
    assert not [line for line in done.stdout.splitlines() if line != line.rstrip()], "no trailing blanks"
    assert piped(tmp_path, "--help", PYTHONIOENCODING=encoding).returncode == 0


def ended(folder: Path, *arguments: str, to: str) -> tuple[int, str]:
    """Exit code and stderr of a run whose standard output goes to a pipe that is closed, or to a device."""
    out = os.open(to, os.O_WRONLY) if to != "closed" else closed_pipe()
    with subprocess.Popen([*PROGRAM, *arguments], cwd=folder, stdout=out, stderr=subprocess.PIPE, text=True) as done:
        os.close(out)
        _, errors = done.communicate(timeout=120)
    return done.returncode, errors


def closed_pipe() -> int:
    """The end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


COMMANDS = {
    "condense": (("m.onnx", "--force", "--lossless"), 0),
    "inspect": (("inspect", "m.onnx"), 0),
    "verify": (("verify", "m.onnx", "other.onnx", "--json"), 1),
    "help": (("--help",), 0),
    "report": (("m.onnx", "--report", "-", "--quiet", "--force", "--lossless"), 0),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_closed_pipe_is_no_error(tmp_path: Path, save: Save, command: str) -> None:
    save(MODEL)
    save(builders.mlp((8, 16, 3), seed=1), "other.onnx")
    arguments, code = COMMANDS[command]
    found, errors = ended(tmp_path, *arguments, to="closed")
    assert found == code, errors
    assert len(errors.splitlines()) == code, errors


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("arguments", [("m.onnx", "--lossless"), ("m.onnx", "-o", "-", "--lossless"), ("--help",)])
def test_a_full_disk_behind_the_output(tmp_path: Path, save: Save, arguments: tuple[str, ...]) -> None:
    save(MODEL)
    code, errors = ended(tmp_path, *arguments, to="/dev/full")
    assert code == 2
    last = errors.splitlines()[-1]
    assert last.startswith(PREFIX + "cannot write to standard output (No space left on device)")
    assert (f"{OUT} is written" in last) == (tmp_path / OUT).exists() == (arguments == ("m.onnx", "--lossless"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_what_is_there_is_said(cli: Cli, save: Save) -> None:
    save(MODEL)
    outcome = cli.run("m.onnx", "--plan", "p.json", "--report", "/dev/full")
    assert (outcome.code, outcome.written) == (2, {"p.json", OUT})
    assert f"{OUT} and p.json are written, what was to follow is not" in outcome.error
    assert "nothing" not in outcome.error
    outcome = cli.run("m.onnx", "--plan", "/dev/full", "--force")
    assert (outcome.code, outcome.written) == (2, set())
    assert "is written" not in outcome.error


def test_devices_and_pipes_are_written_to(tmp_path: Path, save: Save) -> None:
    save(MODEL)
    os.mkfifo(tmp_path / "pipe")
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    places = ("-o", "pipe", "--report", "/dev/null", "--plan", "/dev/stderr")
    done = shell("m.onnx", *places, "--lossless", cwd=tmp_path)
    reader.join(timeout=10)
    assert done.code == 0, done.err
    assert onnx.load_from_string(heard[0]).graph.node
    assert '"format": "onnx-condense-plan"' in done.err
    assert not Path("/dev/null").is_file()
    assert (tmp_path / "pipe").is_fifo()


def test_no_model_goes_to_a_terminal(cli: Cli, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    save(MODEL)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert "terminal" in cli.fails(2, "m.onnx", "-o", "-")


@pytest.mark.parametrize("module", ["onnx_condense.cli.main", "numpy", "onnxruntime"])
def test_an_interrupt_while_it_is_imported_is_a_line(tmp_path: Path, save: Save, module: str) -> None:
    save(MODEL)
    program = """
import os, signal, sys
def hook(happens, arguments):
    if happens == "import" and arguments[0] == MODULE:
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
sys.argv[0] = "onnx-condense"
from onnx_condense.__main__ import main
sys.exit(main())
""".replace("MODULE", repr(module))
    done = subprocess.run(
        [sys.executable, "-c", program, "m.onnx"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=listening,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (1, PREFIX + "interrupted: nothing was written\n")
