"""What a person sees: tables on standard output; stages, warnings and errors on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from onnx_condense.cli.arguments import PROGRAM
from onnx_condense.prepare import Progress

FILE_WIDTH = 160
"""Columns of tables that go to a file or a pipe."""


def output() -> Console:
    """Standard output; wide enough for whole names where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)


def warn(warnings: Sequence[str]) -> None:
    """Prints warnings, a line each."""
    for warning in warnings:
        print(f"{PROGRAM}: warning: {warning}", file=sys.stderr)


@contextmanager
def progress(quiet: bool = False, moving: bool = True) -> Iterator[Progress | None]:
    """The stage's name, on a terminal only: with a spinner, or without where its thread would disturb a measurement."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    if not moving:
        yield lambda stage: console.print(stage, style="dim")
        return
    with console.status("starting") as status:
        yield lambda stage: status.update(stage)
