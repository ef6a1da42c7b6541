"""The command line in forked children, with limits of time and memory, and what came of it."""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_condense.cli.main import main as program

PREFIX = "onnx-condense: error: "
INTERNAL = "internal error"
IDLE = 20
"""Times its seconds of computing that a child may take by the clock, beside others."""
TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Ran:
    """One run of the command line: its exit code, what it printed, and errors of ours that cost a layer."""

    code: int
    printed: str
    logged: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """What a failed run says."""
        lines = [text for text in self.printed.splitlines() if text.startswith(PREFIX)]
        return lines[-1].removeprefix(PREFIX) if lines else ""

    @property
    def fault(self) -> str:
        """An internal error, a traceback, an exit code without its line: empty where there is none."""
        if self.logged:
            return f"internal: {self.logged[0]}"
        if INTERNAL in self.line or TRACEBACK in self.printed:
            return f"internal: {self.line or self.printed[-300:]}"
        if self.code not in (0, 1, 2) or (self.code and not self.line):
            return f"exit code {self.code} without a line: {self.printed[-300:]}"
        return ""


def run(*arguments: object) -> Ran:
    """The command line inside this process; what it prints goes into a file meanwhile."""
    with tempfile.TemporaryFile("w+", errors="replace") as caught:
        kept = os.dup(1), os.dup(2)
        for number in (1, 2):
            os.dup2(caught.fileno(), number)
        try:
            with _logged() as logged, redirect_stdout(caught), redirect_stderr(caught):
                code = program([str(argument) for argument in arguments])
        finally:
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
        caught.flush()
        caught.seek(0)
        return Ran(code, caught.read(), tuple(logged))


def run_apart(*arguments: object) -> Ran:
    """The whole program, which guards itself: a native crash is a line of its own."""
    program = [sys.executable, "-m", "onnx_condense", *map(str, arguments)]
    done = subprocess.run(program, capture_output=True, text=True, errors="replace", check=False)
    return Ran(done.returncode, done.stdout + done.stderr)


@contextmanager
def _logged() -> Iterator[list[str]]:
    """What the package logs of errors that nobody foresaw: they cost a layer, and are faults all the same."""
    handler, logger = _Lines(), logging.getLogger("onnx_condense.errors")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.lines.append(f"{record.getMessage()} {error!r}")


def forked(work: Callable[[], Any], seconds: float, megabytes: int) -> tuple[Any, str]:
    """(what `work` returned, as JSON gives it back; "") in a child of ours, or (None, how the child ended).

    `seconds` of computing and `megabytes` limit it; sessions of onnxruntime must not have been opened in this process.
    """
    with tempfile.TemporaryDirectory() as name:
        answer = Path(name, "answer")
        process = os.fork()
        if not process:
            _child(work, answer, seconds, megabytes)
        ended = _ended(process, IDLE * seconds)
        if ended is None or (os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGXCPU):
            return None, f"stuck: not done after {seconds:g} s"
        if os.WIFSIGNALED(ended):
            return None, f"crashed: signal {os.WTERMSIG(ended)} ({signal.Signals(os.WTERMSIG(ended)).name})"
        found = json.loads(answer.read_text()) if answer.exists() else {"raised": "nothing came back"}
        return found.get("value"), found.get("raised", "")


def _child(work: Callable[[], Any], answer: Path, seconds: float, megabytes: int) -> None:
    """Never returns."""
    try:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        found = {"value": work()}
    except BaseException:
        found = {"raised": traceback.format_exc()[-1500:]}
    answer.write_text(json.dumps(found))
    os._exit(0)


def _ended(process: int, seconds: float) -> int | None:
    """The status of a child, None where it had to be killed."""
    end, wait = time.monotonic() + seconds, 0.001
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return status
        time.sleep(wait)
        wait = min(0.05, 2 * wait)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None
