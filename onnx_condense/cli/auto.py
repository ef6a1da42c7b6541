"""`onnx-condense auto`: reduces and trains in turn, or shows what such a run has done."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console

from onnx_condense.auto.folder import JOURNAL, RESULT, Folder
from onnx_condense.auto.run import run
from onnx_condense.auto.settings import Settings
from onnx_condense.auto.state import Event, State
from onnx_condense.auto.status import closing, describe, fell_short, status, working
from onnx_condense.auto.trainer import CommandTrainer
from onnx_condense.cli import terminal
from onnx_condense.cli.arguments import Arguments
from onnx_condense.cli.auto_figure import plot
from onnx_condense.cli.auto_table import show
from onnx_condense.cli.bar import Bar
from onnx_condense.cli.commands import Auto
from onnx_condense.cli.inputs import options_of
from onnx_condense.cli.places import Destination, deliver_reports, model_of, printed, protect, tables
from onnx_condense.cli.streams import complain
from onnx_condense.errors import UsageError


def execute(arguments: Arguments) -> int:
    """Runs `auto` and returns its exit code: 0 what was asked for is reached, 1 it ended before.

    Raises UsageError for options that do not go together.
    """
    own, options = arguments.of(Auto), options_of(arguments)
    if own.status:
        return _status(own)
    if own.json or own.plot or own.report or own.force:
        raise UsageError("--json, --plot, --report and --force go with --status")
    if own.model is None or own.trainer is None:
        raise UsageError("auto needs MODEL and --trainer, or --status")
    if own.trainer_retries < 0 or not own.trainer_timeout >= 0:
        raise UsageError("--trainer-retries and --trainer-timeout are not negative")
    if Path(os.path.realpath(own.model)).is_relative_to(os.path.realpath(own.work)):
        raise UsageError(f"{own.model} lies in --work {own.work}: name another folder")
    settings = arguments.of(Settings)
    folder = Folder(Path(own.work))
    trainer = CommandTrainer(own.trainer, folder.scratch, folder.log, timeout=own.trainer_timeout or None)
    say = _Speaker(terminal.output(), own.quiet)
    done = len(folder.events())
    if done:
        say(f"going on in {folder.path} after {done} steps")
    with _warnings(own.quiet), say.showing():
        try:
            state = run(
                model_of(own.model),
                trainer,
                folder.path,
                settings,
                options,
                retries=own.trainer_retries,
                watch=say.step,
            )
        except KeyboardInterrupt:
            complain("error", "interrupted: the same command goes on from here")
            return 1
    say(closing(state) + (f": {folder.path / RESULT}" if state.result is not None else ""))
    return 1 if fell_short(state) else 0


class _Speaker:
    """Prints lines as they are, unless it is quiet."""

    def __init__(self, console: Console, quiet: bool) -> None:
        self._console, self._quiet = console, quiet
        self._bar: Bar | None = None

    def __call__(self, text: str) -> None:
        if self._quiet:
            return
        with self._bar.aside() if self._bar is not None else nullcontext():
            self._console.print(text, soft_wrap=True)

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Shows, on a terminal, what is at work."""
        with terminal.progress(self._quiet) as self._bar:
            try:
                yield
            finally:
                self._bar = None

    def step(self, state: State, event: Event) -> None:
        """What a step did, where that is worth a line, and what is at work."""
        text = describe(state, event)
        if text is not None:
            self(text)
        if self._bar is not None:
            self._bar(working(state))


def _status(own: Auto) -> int:
    if own.model is not None or own.trainer is not None:
        raise UsageError("--status reads --work alone: drop MODEL and --trainer")
    folder = Folder(Path(own.work))
    plots = [Destination("--plot", Path(own.plot))] if own.plot else []
    places = [*plots, *printed(own.report, own.json)]
    protect([folder.path / JOURNAL], places, own.force)
    if own.plot:
        plot(folder, Path(own.plot))
    if own.report:
        deliver_reports(own.report, status(folder.path))
    if own.json:
        terminal.show_json(status(folder.path))
    elif not own.quiet:
        try:
            show(terminal.output(tables(places)), folder)
        except KeyboardInterrupt:
            return 0
    return 0


class _Complaints(logging.Handler):
    """What is logged, on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record."""
        complain("warning", record.getMessage())


@contextmanager
def _warnings(quiet: bool) -> Iterator[None]:
    """Shows what the loop logs (a trainer that failed, a layer that stays) on stderr."""
    logger = logging.getLogger("onnx_condense.auto")
    handler = _Complaints()
    handler.setLevel(logging.ERROR if quiet else logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
