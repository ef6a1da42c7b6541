"""A progress bar on standard error: the stage, how far it is, the time that it took, and about what is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress import Progress as Display
from rich.table import Column
from rich.text import Text

from onnx_condense.cli.streams import fitting
from onnx_condense.cli.terminal import Shown
from onnx_condense.errors import visible
from onnx_condense.progress import Watch

BAR = 10
"""Columns of the bar."""


class Bar:
    """What is called with the name of each stage. moving: a thread draws it, too; else it is drawn at each call."""

    def __init__(self, console: Shown, moving: bool) -> None:
        self._console, self._moving, self._watch = console, moving, Watch()
        ascii_only = console.options.ascii_only
        self._display = Display(
            SpinnerColumn("line" if ascii_only else "dots"),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
            BarColumn(BAR),
            _Times(self._watch),
            console=console,
            auto_refresh=moving,
            transient=True,
            expand=True,
        )
        self._task = self._display.add_task("starting", total=None)

    def __call__(self, stage: str) -> None:
        """A stage begins."""
        if self._watch.begin(stage):
            self._display.reset(self._task, total=None)
        text = fitting(visible(stage), self._console.encoding)
        self._display.update(self._task, description=text, completed=self._watch.done, total=self._watch.total)
        if not self._moving:
            self._display.refresh()

    @contextmanager
    def shown(self) -> Iterator[Bar]:
        """Shows it while the block runs."""
        with self._display:
            yield self

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Takes it away while something else is printed."""
        self._display.stop()
        try:
            yield
        finally:
            self._display.start()


class _Times(ProgressColumn):
    """Time since the start, and about what is left of the stage."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        super().__init__(table_column=Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        """The column of the one task."""
        return Text(self._watch.times, style="dim")
