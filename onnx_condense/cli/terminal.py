"""What a person sees: tables on standard output; stages, warnings and errors on standard error."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.text import Text

from onnx_condense.cli.streams import STDERR, STDOUT, Stream, complain, fitting
from onnx_condense.errors import visible

if TYPE_CHECKING:
    from onnx_condense.cli.bar import Bar

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
def progress(quiet: bool = False, moving: bool = True) -> Iterator[Bar | None]:
    """A bar, on a terminal only. moving: a thread draws it; not so where that would disturb a measurement."""
    console = Shown(STDERR)
    if quiet or not console.is_terminal:
        yield None
        return
    from onnx_condense.cli.bar import Bar  # which is a console's

    with Bar(console, moving).shown() as bar:
        yield bar
