"""What a run reads and what it writes: no file is written over that is read, or that is there without --force."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx_condense.errors import InputError, UsageError
from onnx_condense.model import files

MODEL = "-o"
"""The option that names the model that is written."""


@dataclass(frozen=True)
class Destination:
    """A file that is written, and the option that says so; `shared`: only where nothing is there yet."""

    option: str
    path: Path
    shared: bool = False


def files_read(source: Path, *others: object) -> list[Path]:
    """The files that are read: a model with its external data, and others (paths; what is no path is skipped).

    Raises InputError where the model is not there, or keeps weights outside its folder.
    """
    if not source.exists():
        raise InputError(f"cannot read {source} (no such file): check the path")
    named = [Path(path) for path in others if isinstance(path, str) and path]
    return [source, *named, *(source.parent / name for name in files.external_files(source))]


def default_output(source: Path) -> Path:
    """Where the model is written to by default."""
    return source.with_name(f"{source.stem}.condensed.onnx")


def model_places(source: Path, output: Path) -> list[Destination]:
    """Where the files of a model go, those that it shares with its source among them.

    A file of weights that is made has the name of its content (`files.save`): it is written over nothing.
    """
    elsewhere = output.absolute().parent != source.absolute().parent
    copied = [output.parent / name for name in files.external_files(source)] if elsewhere else []
    return [*(Destination(MODEL, path, shared=True) for path in copied), Destination(MODEL, output)]


def document_places(plan: str | None, report: str | None) -> list[Destination]:
    """Where the documents of a run go."""
    return [Destination(option, Path(path)) for option, path in (("--plan", plan), ("--report", report)) if path]


def protect(inputs: Iterable[Path], places: Sequence[Destination], replaceable: bool = False) -> None:
    """Raises UsageError before anything that is read, or that exists, would be written over.

    `replaceable`: a model may be.
    """
    inputs = list(inputs)
    for position, place in enumerate(places):
        problem = _problem(place, inputs, places[:position], replaceable)
        if problem is not None:
            raise UsageError(problem)


def _problem(
    place: Destination, inputs: Sequence[Path], before: Sequence[Destination], replaceable: bool
) -> str | None:
    path, named = place.path, f"{place.option} {place.path}"
    if place.shared:
        return None
    if any(_same(path, other) for other in inputs):
        return f"{named} is an input: choose another place for it"
    if any(_same(path, other.path) for other in before):
        return f"{named} is written twice: choose another place for it"
    if path.is_dir():
        return f"{named} is a folder: name a file"
    if not path.absolute().parent.is_dir():
        return f"the folder of {named} does not exist: make it first"
    if place.option == MODEL and path.exists() and not replaceable:
        return f"{path} exists: replace it with --force, or choose another place with -o"
    return None


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve() or (a.exists() and b.exists() and a.samefile(b))
