"""Runs a command in a process of its own: what crashes there, or takes too much memory, becomes a line.

onnx and onnxruntime are native code that reads files from anywhere; no exception comes out of a crash of theirs. The
process is forked before anything large is imported, so it costs a few milliseconds.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from mmap import mmap

from onnx_condense import trust

LOOKS = 0.05
"""Seconds between two looks at its memory."""

FORWARDED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)

DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux' prctl."""


def guarded(command: Callable[[], int], fail: Callable[[str, int], int]) -> int:
    """The exit code of a command that runs in a child, where the system has what that takes, else here.

    fail: says a line, and gives its second argument back.
    """
    if not sys.platform.startswith("linux") or threading.active_count() > 1:
        return command()
    board, parent = mmap(-1, trust.NUMBER.size), os.getpid()
    watched = {signal.SIGCHLD, *FORWARDED}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    child = os.fork()
    if child == 0:
        _end_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        trust.watched_on(board)
        return command()
    try:
        status, limit = _watch(child, board, watched)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    return fail(_words(os.WTERMSIG(status), limit), 2 if limit or os.WTERMSIG(status) in CRASHES else 1)


def _words(number: int, limit: int) -> str:
    """What to say of a process that a signal ended; `limit`: bytes that it took more than, 0 for none."""
    if limit:
        return f"it takes more than {limit / trust.GIGABYTE:.3g} GB of memory: allow more with --limit-memory"
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number in CRASHES:
        advice = "export it again, or pass inputs with --data"
        return f"the model crashes onnxruntime or onnx ({name}), so it is damaged or unsupported: {advice}"
    if number == signal.SIGKILL:
        return f"the run was killed ({name}), perhaps for want of memory: run it again where there is more"
    return f"interrupted ({name})"


def _end_with(parent: int) -> None:
    """Lets this process be killed where its parent ends before it."""
    with suppress(OSError, AttributeError, ImportError):
        import ctypes

        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def _watch(child: int, board: mmap, watched: set[signal.Signals]) -> tuple[int, int]:
    """(how a child ended, the limit that it was killed at or 0); signals to this process alone are sent on to it."""
    page, limit = os.sysconf("SC_PAGE_SIZE"), 0
    with open(f"/proc/{child}/statm", "rb", buffering=0) as memory:
        while True:
            sent = signal.sigtimedwait(watched, LOOKS)
            if sent is not None and sent.si_signo in FORWARDED and sent.si_code <= 0:  # a terminal sends to both
                os.kill(child, sent.si_signo)
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status, limit
            (allowed,) = trust.NUMBER.unpack(board[:])
            with suppress(OSError, ValueError, IndexError):
                memory.seek(0)
                resident, shared = (int(pages) for pages in memory.read().split()[1:3])
                if 0 < allowed < (resident - shared) * page and not limit:
                    limit = allowed
                    os.kill(child, signal.SIGKILL)
