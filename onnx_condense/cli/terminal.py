"""What a person sees: tables on standard output; stages, warnings and errors on standard error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, cast

from rich.console import Console
from rich.text import Text

from onnx_condense.cli.streams import STDERR, STDOUT, Stream, complain, fitting
from onnx_condense.errors import visible
from onnx_condense.prepare import Progress

FILE_WIDTH = 160
"""Columns of tables that go to a file or a pipe."""


class Shown(Console):
    """A console to which every text is data: nothing in it is markup, and what does not print is written out."""

    def __init__(self, stream: Stream) -> None:
        width = None if stream.isatty() else FILE_WIDTH
        super().__init__(file=cast(IO[str], stream), width=width, markup=False, emoji=False)

    def render_str(self, text: str, **how: Any) -> Text:
        """The one place where what is printed becomes text."""
        return super().render_str(fitting(visible(text), self.encoding), **how)


def output(stream: Stream = STDOUT) -> Shown:
    """Where tables go; wide enough for whole names where it is no terminal."""
    return Shown(stream)


def show_json(content: Mapping[str, Any]) -> None:
    """Prints JSON."""
    STDOUT.write(json.dumps(content, indent=1, allow_nan=False) + "\n")


def warn(warnings: Sequence[str]) -> None:
    """Prints warnings, a line each."""
    for warning in warnings:
        complain("warning", warning)


@contextmanager
def progress(quiet: bool = False, moving: bool = True) -> Iterator[Progress | None]:
    """The stage's name, on a terminal only: with a spinner, or without where its thread would disturb a measurement."""
    console = Shown(STDERR)
    if quiet or not console.is_terminal:
        yield None
        return
    if not moving:
        yield lambda stage: console.print(stage, style="dim")
        return
    with console.status("starting", spinner="line" if console.options.ascii_only else "dots") as status:
        yield lambda stage: status.update(Text(visible(stage)))
