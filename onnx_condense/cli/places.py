"""What a run reads and what it writes: no file is written over that is read, or that is there without --force."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_condense.cli.streams import PROGRAM, STDERR, STDOUT, Stream
from onnx_condense.documents import written
from onnx_condense.errors import InputError, UsageError
from onnx_condense.model import files
from onnx_condense.model.files import Source
from onnx_condense.report.formats import check_formats, encoded

MODEL = "-o"
"""The option that names the model that is written."""

PIPE = Path("/dev/stdout")
"""Standard output, as `-` names it."""

PIPES = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
SOURCES = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
"""Names of standard output, and of standard input."""


@dataclass(frozen=True)
class Destination:
    """A file that is written, and the option that says so; `shared`: only where nothing is there yet."""

    option: str
    path: Path
    shared: bool = False


def model_of(name: str) -> Source:
    """The model that an argument names: a file, or `-`, read to its end. Raises InputError and UsageError."""
    if name not in SOURCES:
        return files.load(name)
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(f"{name} is standard input, which is no pipe: send a model into it, or name a file")
    return files.received(sys.stdin.buffer.read())


def place_of(name: str) -> Path:
    """Where an option says that something goes."""
    return PIPE if name in PIPES else Path(name)


def files_read(model: str, *others: object) -> list[Path]:
    """The files that are read: a model, and others (paths; what is no path is skipped).

    Raises InputError where the model is not there.
    """
    named = [Path(path) for path in others if isinstance(path, str) and path]
    if model in SOURCES:
        return named
    try:
        os.stat(model)
    except OSError as error:
        reason = "no such file" if error.errno == errno.ENOENT else error.strerror
        raise InputError(f"cannot read {model} ({reason}): check the path, or see {PROGRAM} --help") from error
    return [Path(model), *named]


def data_read(source: Source) -> list[Path]:
    """The files with a model's weights."""
    return [source.path.parent / name for name in source.external] if source.path is not None else []


def default_output(model: str) -> Path:
    """Where the model is written to by default: beside itself, or on through the next pipe."""
    return PIPE if model in SOURCES else Path(model).with_name(f"{Path(model).stem}.condensed.onnx")


def data_places(source: Source, output: Path) -> list[Destination]:
    """Where a model's weights go that it shares with its source.

    A file of weights that is made has the name of its content (`files.save`): it is written over nothing.
    """
    if source.path is None or output == PIPE or output.absolute().parent == source.path.absolute().parent:
        return []
    return [Destination(MODEL, output.parent / name, shared=True) for name in source.external]


def document_places(plan: str | None, reports: Iterable[str], costs: str | None = None) -> list[Destination]:
    """Where the documents of a run go. Raises UsageError where a format takes what is not installed."""
    reports = [path for path in reports if path]
    check_formats(reports)
    plans = [Destination("--plan", place_of(plan))] if plan else []
    plans += [Destination("--costs-out", place_of(costs))] if costs else []
    return [*plans, *(Destination("--report", place_of(path)) for path in reports)]


def printed(reports: Iterable[str], json: bool) -> list[Destination]:
    """Where the reports of a command go that may print JSON, too. Raises UsageError."""
    return [*([Destination("--json", PIPE)] if json else []), *document_places(None, reports)]


def protect(inputs: Iterable[Path], places: Sequence[Destination], force: bool) -> None:
    """Raises UsageError before anything that is read, or that exists, would be written over; force: what exists may."""
    inputs = list(inputs)
    for position, place in enumerate(places):
        try:
            problem = _problem(place, inputs, places[:position], force)
        except OSError as error:
            problem = f"{place.option} {place.path} cannot be written ({error.strerror}): choose another place"
        if problem is not None:
            raise UsageError(problem)


def _problem(place: Destination, inputs: Sequence[Path], before: Sequence[Destination], force: bool) -> str | None:
    path, named = place.path, f"{place.option} {place.path}"
    if place.shared:
        return None
    if any(_same(path, other.path) for other in before):
        return f"{'standard output' if path == PIPE else named} is written twice: choose another place for one"
    if path == PIPE:
        terminal = place.option == MODEL and STDOUT.isatty()
        return "standard output is a terminal, which shows no model: name a file with -o" if terminal else None
    if any(_same(path, other) for other in inputs):
        return f"{named} is an input: choose another place for it"
    if path.is_dir():
        return f"{named} is a folder: name a file"
    if not path.absolute().parent.is_dir():
        return f"the folder of {named} does not exist: make it first"
    try:
        path.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
    if path.is_file() and not force:
        return f"{path} exists: replace it with --force, or choose another place with {place.option}"
    return None


def _same(a: Path, b: Path) -> bool:
    if PIPE in (a, b):
        return a == b
    return os.path.realpath(a) == os.path.realpath(b) or (a.exists() and b.exists() and a.samefile(b))


def tables(places: Iterable[Destination]) -> Stream:
    """Where tables go: standard output, unless something else goes there."""
    return STDERR if any(place.path == PIPE for place in places) else STDOUT


def deliver_reports(
    reports: Iterable[str], content: Mapping[str, Any], beside: Mapping[str, Any] | None = None
) -> None:
    """Writes a report to every place, in the format of its name (see `encoded`). Raises InputError."""
    for path in filter(None, reports):
        deliver(place_of(path), [encoded(Path(path), content, beside)])


def deliver(path: Path, chunks: Iterable[bytes]) -> None:
    """Writes a document. Raises InputError."""
    if path == PIPE:
        STDOUT.write_bytes(chunks)
        return
    with written(path, chunks):
        pass


@contextmanager
def said_what_is_there(places: Iterable[Destination]) -> Iterator[None]:
    """Notes on an error what was written before it."""
    paths = [place.path for place in places if not place.shared and place.path != PIPE]
    before = {path: files.identity(path) for path in paths}
    try:
        yield
    except BaseException as error:
        there = [str(path) for path in reversed(paths) if files.identity(path) != before[path]]
        if there:
            error.add_note(f"{' and '.join(there)} {'are' if there[1:] else 'is'} written, what was to follow is not")
        raise
