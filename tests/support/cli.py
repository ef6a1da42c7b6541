"""The command line with its side effects watched, in this process or in one of its own."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from onnx_condense.cli.main import main

PREFIX = "onnx-condense: error: "

OUT = "m.condensed.onnx"
"""Where a run on m.onnx writes by default."""

Argument = str | Path
Save = Callable[..., Path]


def snapshot(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, hidden ones too, but for what Python keeps of modules."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@dataclass(frozen=True)
class Outcome:
    """One run of the command line; `written` names every file that it made or changed."""

    code: int
    out: str
    err: str
    written: frozenset[str] = field(default_factory=frozenset)

    @property
    def error(self) -> str:
        """The one line that a failed run leaves on stderr."""
        lines = self.err.splitlines()
        assert len(lines) == 1, f"one line on stderr was promised, got {self.err!r}"
        assert lines[0].startswith(PREFIX)
        assert len(lines[0]) > len(PREFIX) + 10
        assert "internal error" not in lines[0], lines[0]
        assert self.err.endswith("\n")
        return lines[0].removeprefix(PREFIX)


class Cli:
    """The command line inside this process, run in a folder of its own."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capfd = capfd

    def run(self, *arguments: Argument) -> Outcome:
        """Runs it; everything that reaches the file descriptors counts as printed."""
        before = snapshot(self.folder)
        self.capfd.readouterr()
        code = main([str(a) for a in arguments])
        printed = self.capfd.readouterr()
        after = snapshot(self.folder)
        assert before.keys() <= after.keys(), "a run must not delete files"
        written = frozenset(name for name, digest in after.items() if before.get(name) != digest)
        return Outcome(code, printed.out, printed.err, written)

    def ok(self, *arguments: Argument) -> Outcome:
        """A run that must succeed, and print no error."""
        outcome = self.run(*arguments)
        assert outcome.code == 0, outcome
        assert "error" not in outcome.err
        return outcome

    def fails(self, code: int, *arguments: Argument) -> str:
        """A run that must fail with one clear line, which it returns, and leave every file as it was."""
        outcome = self.run(*arguments)
        assert outcome.code == code, outcome
        assert not outcome.written, f"a failed run wrote {set(outcome.written)}"
        return outcome.error


def shell(*arguments: Argument, cwd: Path, program: tuple[str, ...] = (), **environment: str) -> Outcome:
    """The command line as a process of its own, `python -m onnx_condense` unless `program` says otherwise."""
    command = [*(program or (sys.executable, "-m", "onnx_condense")), *(str(a) for a in arguments)]
    before = snapshot(cwd)
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    after = snapshot(cwd)
    written = frozenset(name for name, digest in after.items() if before.get(name) != digest)
    return Outcome(done.returncode, done.stdout, done.stderr, written)


def read(path: Path | str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(path).read_text())
    return content


def widths(report: Path | str) -> dict[str, tuple[int, int]]:
    """First layer of each group -> width before and after."""
    return {g["layers"][0]: (g["width_before"], g["width_after"]) for g in read(report)["groups"]}


def gone(pid: int) -> bool:
    """Whether a process ended, or ends within five seconds."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def listening() -> None:
    """In a child before it starts: signals end it, also where these tests run under nohup or in the background."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
