"""Programs that run in a process group of their own, and end with us: in time, on interruption, at the next start."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnx_condense.errors import TrainerError, UsageError

LAST_WORDS = 4096
"""How much of what a program printed last is searched for its reason."""


def run(
    command: Sequence[str], log: Path, record: Path, timeout: float | None = None, more: Mapping[str, str] | None = None
) -> None:
    """Runs a program to its end, or to the time limit; then its whole process group is killed.

    Args:
        command: the program and its arguments; no shell.
        log: gets what it prints.
        record: says which process it is while it runs, for `end_orphan`.
        timeout: seconds; None for no limit.
        more: additions to the environment.

    Raises:
        UsageError: it cannot be started.
        TrainerError: it took too long, or ended with an error.
    """
    with open(log, "wb") as output:
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | dict(more or {}),
            )
        except OSError as error:
            raise UsageError(f"--trainer {command[0]} cannot be started ({error.strerror}): check it") from error
        try:
            record.write_text(f"{process.pid} {_started(process.pid)}")
            code = process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TrainerError(f"the trainer took more than {timeout:g} s: see --trainer-timeout") from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            record.unlink(missing_ok=True)
    if code != 0:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise TrainerError(f"the trainer {how}{_last_words(log)}; all that it printed is in {log}")


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


def _last_words(log: Path) -> str:
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - LAST_WORDS))
        lines = file.read().decode(errors="replace").split("\n")
    words = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f' ("{words[:300]}")' if words else ""
