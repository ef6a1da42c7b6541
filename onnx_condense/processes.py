"""Programs that run in a process group of their own, and end with us: in time, on interruption, at the next start."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from onnx_condense import trust
from onnx_condense.errors import CondenseError, UsageError

LAST_WORDS = 4096
"""How many bytes of what a program printed last are searched for its last line."""

LONGEST = 300
"""Characters of that line that an error quotes."""


SAME = 0.5
"""Seconds within which two signals that ask for the end are one."""


@dataclass(frozen=True)
class Program:
    """A program that a user names.

    Attributes:
        command: the program and its arguments; no shell.
        option: the command-line option that states it.
        failed: makes the error to raise from what happened, as in "ended with code 1".
    """

    command: Sequence[str]
    option: str
    failed: Callable[[str], CondenseError]


def run(
    program: Program,
    log: Path,
    *,
    errors: Path | None = None,
    record: Path | None = None,
    timeout: float | None = None,
    more: Mapping[str, str] | None = None,
) -> None:
    """Runs a program to its end, or to the time limit; then its whole process group is killed.

    Args:
        program: what to run.
        log: gets what it prints.
        errors: gets what it prints on stderr; None: `log` does.
        record: says which process it is while it runs, for `end_orphan`.
        timeout: seconds; None for no limit.
        more: additions to the environment.

    Raises:
        UsageError: it cannot be started.
        CondenseError: what `failed` makes, where it took too long or ended with an error.
    """
    with ExitStack() as files:
        output = files.enter_context(open(log, "wb"))
        stderr = subprocess.STDOUT if errors is None else files.enter_context(open(errors, "wb"))
        process = None
        try:
            with _in_peace():
                process = _start(program, output, stderr, more or {})
            if record is not None:
                record.write_text(f"{process.pid} {_started(process.pid)}")
            code = process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise program.failed(f"took more than {timeout:g} s: see {program.option}-timeout") from error
        finally:
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if record is not None:
                record.unlink(missing_ok=True)
    if code != 0:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        words = last_line(errors or log) or last_line(log)
        raise program.failed(f'{how} ("{words[:LONGEST]}")' if words else how)


def _start(
    program: Program, output: IO[bytes], errors: IO[bytes] | int, more: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """The program in a process group of its own. Raises UsageError."""
    try:
        return subprocess.Popen(
            list(program.command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
            env=os.environ | dict(more),
        )
    except OSError as error:
        raise UsageError(
            f"{program.option} {program.command[0]} cannot be started ({error.strerror}): check it"
        ) from error


def end_orphan(record: Path) -> None:
    """Kills the process group of a program that outlived the run that started it, as after a SIGKILL of that run."""
    try:
        pid, _, started = record.read_text().partition(" ")
        if started and started == _started(int(pid)):
            os.killpg(int(pid), signal.SIGKILL)
    except (OSError, ValueError):
        return


def _started(pid: int) -> str:
    """When a process began, in clock ticks since boot, so that a number used again is not mistaken; "" off Linux."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def last_line(log: Path) -> str:
    """The last line that is not empty, near the end of what a program printed; "" for none."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - LAST_WORDS))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM and SIGHUP (a terminal that closes) end a run as Ctrl-C does, and so the program that it runs.

    Whoever watches the run is told that it noticed. A signal that comes right after another is the same one, sent to
    a process and to its group: what is begun is undone in peace.

    Signals are for the main thread: in another one nothing changes.
    """
    last = -math.inf

    def interrupt(*_: object) -> None:
        nonlocal last
        trust.hears()
        before, last = last, time.monotonic()
        if last - before > SAME:
            raise KeyboardInterrupt

    with _heard_by(interrupt):
        yield


@contextmanager
def _in_peace() -> Iterator[None]:
    """Signals that ask for the end come when this is over: a program that just starts is known by then, and ends."""
    waiting: list[int] = []
    try:
        with _heard_by(lambda number, frame: waiting.append(number)):
            yield
    finally:
        for number in waiting:
            signal.raise_signal(number)


@contextmanager
def _heard_by(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Signals that ask for the end are a handler's, but those that are ignored, as under nohup; of the main thread."""
    main = threading.current_thread() is threading.main_thread()
    numbers = [n for name in ("SIGINT", "SIGTERM", "SIGHUP") if main and (n := getattr(signal, name, None)) is not None]
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)
