"""How far models are trusted that come from anywhere: what a run of them may take, and what they may bring along."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import mmap

from onnx_condense.flags import Heading, must, option

GIGABYTE = 2**30

FREE = 3 * GIGABYTE // 2
"""Bytes of memory that every run may take."""

TIMES = 16
"""How many times the bytes of the files that it reads, and of its inputs, it may take beside that."""

INPUTS = 2**26
"""Numbers that generated inputs of a model hold at most."""

PACKED = 64
"""How many times larger than in their file arrays may be that take more than a quarter of what is free."""

NUMBER = struct.Struct("q")

BOARD = NUMBER.size + 1
"""Bytes that a watched process is seen by: how much memory it may take, and whether it noticed a signal."""

_limit = must(lambda value: 0 <= value < math.inf, "{option} must be a number of at least 0 (no limit), not {value:g}")


@dataclass(frozen=True)
class Trust:
    """What models may do. Each field has the name of its command-line option.

    Attributes:
        limit_seconds: of one run of a model with loops; 0: any number.
        limit_memory: gigabytes that the whole run may take, where the command line watches it (on Linux); 0: any
            number; None: until a model was opened and run once, 1.5, and 16 times what the files that are read, and the
            inputs, take.
        limit_nodes: nodes that a model has at most once its functions are written out, and bodies of its If, Loop and
            Scan; 0: any number.
        custom_ops: a shared library with operators, which onnxruntime loads: it is a program that runs.
    """

    limit_seconds: float = option(
        5.0, "of one run of a model that loops; 0: no limit", Heading.TRUST, "S", float, _limit
    )
    limit_memory: float | None = option(
        None,
        "memory that is taken at most; 0: no limit",
        Heading.TRUST,
        "GB",
        float,
        _limit,
        unset="1.5, and 16 times what is read, until the model was run",
    )
    limit_nodes: int = option(
        10_000, "nodes that functions are written out to; 0: no limit", Heading.TRUST, "N", int, _limit
    )
    custom_ops: str | None = option(
        None, "a shared library with operators, which is run as a program", Heading.TRUST, "LIBRARY"
    )

    @property
    def nodes(self) -> float:
        """As a number that any count can be compared with."""
        return self.limit_nodes or math.inf


@dataclass
class _Now:
    """What holds in this process.

    board: where one that watches it reads how much memory it may take, and whether it noticed a signal. read: bytes of
    what was read. loops: whether a model that was read does. ran: whether the model was opened and run, so that what
    follows is our own work.
    """

    trust: Trust
    board: mmap | None = None
    read: int = 0
    loops: bool = False
    ran: bool = False

    def post(self) -> None:
        """Says how many bytes may be taken, 0 for any number."""
        if self.board is not None:
            own = self.trust.limit_memory
            unset = 0 if self.ran else FREE + TIMES * self.read
            self.board[: NUMBER.size] = NUMBER.pack(unset if own is None else int(own * GIGABYTE))


_now = _Now(Trust())


def trusted() -> Trust:
    """What holds now."""
    return _now.trust


@contextmanager
def within(trust: Trust) -> Iterator[None]:
    """Lets other limits hold in this process while the block runs."""
    before, _now.trust = _now.trust, trust
    _now.post()
    try:
        yield
    finally:
        _now.trust = before
        _now.post()


def watched_on(board: mmap) -> None:
    """Lets a board of `BOARD` bytes say how much memory may be taken, from now on."""
    _now.board, _now.ran = board, False
    _now.post()


def allowed(board: mmap) -> int:
    """How many bytes of memory a board says may be taken, 0 for any number."""
    return int(NUMBER.unpack(board[: NUMBER.size])[0])


def hears() -> None:
    """Says that a signal was noticed that asks for the end: what is begun is being undone, and must not be killed."""
    if _now.board is not None:
        _now.board[NUMBER.size] = 1


def has_heard(board: mmap) -> bool:
    """Whether a board says so."""
    return bool(board[NUMBER.size])


def takes_in(size: int, loops: bool = False) -> None:
    """Says that so many bytes are read: large models may take more memory than small ones. loops: whether one does."""
    _now.read += size
    _now.loops = _now.loops or loops
    _now.post()


def has_run() -> None:
    """Says that the model was opened and run: from here on no memory is denied that the caller did not limit."""
    _now.ran = True
    _now.post()


def has_read_loops() -> bool:
    """Whether a model that was read has loops."""
    return _now.loops
