"""Functions of the user that yield inputs: loader.py:function. The file is a program: it is run."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import module_from_spec, spec_from_file_location
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from onnx_condense.arrays import Array, Shape
from onnx_condense.data.wanted import Batch, Wanted, listed, wants
from onnx_condense.errors import InputError, first_line
from onnx_condense.trust import takes_in


def read(path: str | os.PathLike[str], wanted: Sequence[Wanted]) -> list[Batch]:
    """What a function yields: dictionaries of arrays [samples, ...] by input name. Raises InputError.

    Those that fit together follow each other in one batch.
    """
    source = os.fspath(path)
    file, _, name = source.rpartition(":")
    with _running(file, source):
        found = [_named(one, source, wanted) for one in _yielded(_function(Path(file), name, source)())]
    if not found:
        raise InputError(f"{source} yields nothing: yield dictionaries, one array per input ({wants(wanted)})")
    ranks = {one.name: len(one.dims) for one in wanted}
    return [batch for _, group in groupby(found, _shape) for batch in _joined(source, list(group), ranks)]


@contextmanager
def _running(file: str, source: str) -> Iterator[None]:
    """Runs code of the user: beside its file, printing to standard error, and its errors are one line."""
    folder = str(Path(file).resolve().parent)
    sys.path.insert(0, folder)
    try:
        with redirect_stdout(sys.stderr):
            yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # it is somebody else's program
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if _same(frame.filename, file)]
        where = f", line {lines[-1]}" if lines else ""
        raise InputError(f"{source} fails ({type(error).__name__}: {first_line(error)}{where}): mend it") from error
    finally:
        sys.path.remove(folder)


def _same(a: str, b: str) -> bool:
    return os.path.abspath(a) == os.path.abspath(b)


def _function(file: Path, name: str, source: str) -> Any:
    """The function of this name in a file, which is run. Raises InputError."""
    if not file.is_file():
        raise InputError(f"cannot read {source} (no file {file}): check the path")
    spec = spec_from_file_location(f"_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise InputError(f"{source} is no program in Python: check the path")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        there = listed(key for key, value in vars(module).items() if callable(value) and key[0] != "_")
        raise InputError(f"{file} has no function {name}, it has {there}: name one of them")
    return function


def _yielded(made: Any) -> Iterable[Any]:
    return [made] if isinstance(made, Mapping) or not isinstance(made, Iterable) else made


def _named(one: Any, source: str, wanted: Sequence[Wanted]) -> dict[str, Array]:
    """What a dictionary holds of what is wanted, as arrays [samples, ...]. Raises InputError where it is none."""
    if not isinstance(one, Mapping):
        line = f"yield {{{', '.join(f'{port.name!r}: ...' for port in wanted)}}}"
        raise InputError(f"{source} yields {type(one).__name__}, no dictionary of arrays: write {line}")
    names = [port.name for port in wanted if port.name in one]
    found = {str(name): np.asarray(one[name]) for name in (names if len(names) == len(wanted) else one)}
    takes_in(sum(array.nbytes for array in found.values()))
    return found


def _shape(arrays: Mapping[str, Array]) -> tuple[tuple[str, Shape | None], ...]:
    """What must be the same for dictionaries to follow each other."""
    return tuple((name, array.shape[1:] if array.ndim else None) for name, array in arrays.items())


def _joined(source: str, found: list[dict[str, Array]], ranks: Mapping[str, int]) -> list[Batch]:
    """One batch where the first axis of every array is that of samples, else one for each dictionary."""
    if len(found) == 1 or any(array.ndim < max(1, ranks.get(name, 1)) for name, array in found[0].items()):
        return [Batch(source, one) for one in found]
    return [Batch(source, {name: np.concatenate([one[name] for one in found]) for name in found[0]})]
