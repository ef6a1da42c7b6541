"""The command line: which command runs, and what becomes of its errors."""

from __future__ import annotations

import gc
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from onnx_condense.cli.arguments import COMPLETE, Arguments, suggested
from onnx_condense.cli.commands import COMMANDS, Shared
from onnx_condense.cli.guard import guarded
from onnx_condense.cli.logs import logged
from onnx_condense.cli.streams import complain
from onnx_condense.errors import CondenseError, UsageError, first_line
from onnx_condense.processes import terminated_like_interrupted
from onnx_condense.trust import Trust, within

DEBUG = "ONNX_CONDENSE_DEBUG"
"""Set in the environment, it shows tracebacks."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0 done, 1 not verified, 2 bad input or usage.

    The program's own arguments are run in a process of their own, others in this one.
    """
    if arguments is None:
        if COMPLETE in os.environ:
            from onnx_condense.cli.completion import complete  # when a shell asks

            complete()
        return guarded(lambda: main(sys.argv[1:]), _fail)
    given = list(arguments)
    name = given.pop(0) if given and given[0] and given[0] in COMMANDS else ""
    try:
        _check_word(given[0] if given and not name else "")
        with terminated_like_interrupted():
            parsed = COMMANDS[name].parse(given)
            with within(parsed.of(Trust)), _tracebacks(), logged(parsed.of(Shared).level):
                return _execute(name, parsed)
    except CondenseError as error:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        return _fail("; ".join([str(error), *_notes(error)]), error.exit_code)
    except KeyboardInterrupt as stopped:
        return _fail(f"interrupted: {_there(stopped)}", 1)
    except MemoryError as error:
        advice = "run it where there is more, on a smaller model, or on smaller inputs with --data"
        return _fail(f"not enough memory ({first_line(error)}): {advice}", 2)
    except Exception as error:  # the contract: one line and an exit code, never a traceback
        if os.environ.get(DEBUG):
            raise
        text = f"{type(error).__name__}: {first_line(error)}"
        return _fail(f"internal error ({text}): {_there(error)}; please report it with {DEBUG}=1", 1)


def _execute(name: str, arguments: Arguments) -> int:
    """Runs a command, whose imports wait until its arguments are known to be right: they take half a second.

    No garbage is looked for meanwhile: there is none among modules, and looking takes a fifth of it.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        execute = _imported(name)
    finally:
        if was:
            gc.enable()
    return execute(arguments)


def _imported(name: str) -> Callable[[Arguments], int]:
    match name:
        case "inspect":
            from onnx_condense.cli.inspect import execute
        case "verify":
            from onnx_condense.cli.verify import execute
        case "diff":
            from onnx_condense.cli.diff import execute
        case "bench":
            from onnx_condense.cli.bench import execute
        case "auto":
            from onnx_condense.cli.auto import execute
        case _:
            from onnx_condense.cli.condense import execute
    return execute


@contextmanager
def _tracebacks() -> Iterator[None]:
    """Shows those of errors that cost a layer, not the run, where they are asked for."""
    logger, handler = logging.getLogger("onnx_condense.errors"), logging.StreamHandler()
    level = logger.level
    if os.environ.get(DEBUG):
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _check_word(word: str) -> None:
    """Raises UsageError for a word that names no file, but is like a command."""
    if word.isalpha() and not os.path.lexists(word):
        meant = suggested(word, filter(None, COMMANDS))
        if meant:
            raise UsageError(f"{word} is no file{meant}")


def _notes(error: BaseException) -> list[str]:
    """What was noted on an error."""
    return list(getattr(error, "__notes__", ()))


def _there(error: BaseException) -> str:
    """What was written before an error."""
    return "; ".join(_notes(error)) or "nothing was written"


def _fail(message: str, code: int) -> int:
    complain("error", " ".join(message.split()))
    return code
