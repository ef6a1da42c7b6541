"""Runs a command in a process of its own: what crashes there, or takes too much memory, becomes a line.

onnx and onnxruntime are native code that reads files from anywhere; no exception comes out of a crash of theirs. The
process is forked before anything large is imported, so it costs a few milliseconds.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from mmap import mmap

from onnx_condense import trust

LOOKS = 0.05
"""Seconds between two looks at its memory."""

GRACE = 1.0
"""Seconds in which it must notice a signal that asks for its end: native code that runs on, as in a loop, does not."""

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
    board, parent = mmap(-1, trust.BOARD), os.getpid()
    watched = {signal.SIGCHLD, *FORWARDED}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    child = os.fork()
    if child == 0:
        _end_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        trust.watched_on(board)
        return command()
    run = _Run(child, board)
    try:
        status = run.watch(watched)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    if run.limit:
        taken = f"{run.limit / trust.GIGABYTE:.3g} GB of memory"
        return fail(f"it takes more than {taken}: allow more with --limit-memory", 2)
    number = run.told if run.deaf else os.WTERMSIG(status)
    return fail(_words(number), 2 if number in CRASHES else 1)


def _words(number: int) -> str:
    """What to say of a process that a signal ended."""
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


@dataclass
class _Run:
    """A child that is watched.

    Attributes:
        child: its process.
        board: where it says how much memory it may take, and that it noticed a signal.
        limit: bytes that it took more than, so that it was killed; else 0.
        told: the last signal that asked for its end, else 0.
        until: when it must have noticed.
        deaf: whether it had not, and was killed.
    """

    child: int
    board: mmap
    limit: int = 0
    told: int = 0
    until: float = 0.0
    deaf: bool = False

    def watch(self, watched: set[signal.Signals]) -> int:
        """How the child ended; signals to this process alone are sent on to it."""
        with open(f"/proc/{self.child}/statm", "rb", buffering=0) as memory:
            while True:
                sent = signal.sigtimedwait(watched, LOOKS)
                if sent is not None and sent.si_signo in FORWARDED:
                    self._tell(sent)
                ended, status = os.waitpid(self.child, os.WNOHANG)
                if ended:
                    return status
                if self.told and not trust.has_heard(self.board) and time.monotonic() > self.until:
                    self.deaf = True
                    os.kill(self.child, signal.SIGKILL)
                with suppress(OSError, ValueError, IndexError):
                    memory.seek(0)
                    resident, shared = (int(pages) for pages in memory.read().split()[1:3])
                    self._weigh(resident - shared)

    def _tell(self, sent: signal.struct_siginfo) -> None:
        self.told, self.until = sent.si_signo, time.monotonic() + GRACE
        if sent.si_code <= 0:  # a terminal sends to both
            os.kill(self.child, sent.si_signo)

    def _weigh(self, pages: int) -> None:
        """Kills it where it takes more than it may."""
        allowed = trust.allowed(self.board)
        if 0 < allowed < pages * os.sysconf("SC_PAGE_SIZE") and not self.limit:
            self.limit = allowed
            os.kill(self.child, signal.SIGKILL)
