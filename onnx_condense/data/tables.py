"""Tables in text (.csv, .tsv): with a line of names or without, parted by commas, semicolons, tabs or blanks."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Sequence

import numpy as np

from onnx_condense.arrays import Array
from onnx_condense.data.columns import batch, chosen
from onnx_condense.data.wanted import Batch, Wanted
from onnx_condense.errors import InputError, first_line
from onnx_condense.trust import takes_in

ENCODING = "utf-8-sig"

DELIMITERS = "\t;,"
"""What parts columns, where it occurs in the first line; else blanks do."""


def read(path: str | os.PathLike[str], wanted: Sequence[Wanted]) -> list[Batch]:
    """The columns of a table that the inputs want [samples, ...]. Raises InputError."""
    source = str(path)
    try:
        with open(path, encoding=ENCODING, newline="") as file:
            takes_in(os.path.getsize(path))
            first = file.readline()
        delimiter = next((one for one in DELIMITERS if one in first), None)
        words = _cells(first, delimiter)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {source} ({first_line(error)}): pass a .csv in UTF-8") from error
    named = not all(map(_is_number, words))
    names = words if named else [f"column {number}" for number in range(1, len(words) + 1)]
    if not words:
        raise InputError(f"{source} is empty: pass a .csv with a row for each sample")
    found = chosen(wanted, names, source)
    numbers = sorted({number for choice in found.values() for number in choice.columns})
    table = _numbers(source, delimiter, int(named), numbers)
    if table is None:
        raise InputError(_culprit(source, delimiter, int(named), numbers, names))
    if not len(table):
        raise InputError(f"{source} holds names and no numbers: pass a .csv with a row for each sample")
    return [batch(found, lambda number: table[:, numbers.index(number)], source)]


def _numbers(source: str, delimiter: str | None, skipped: int, columns: list[int]) -> Array | None:
    """Columns [samples, columns] of a table; None where something in it is no number."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a table without rows
            return np.loadtxt(
                source,
                delimiter=delimiter,
                skiprows=skipped,
                usecols=columns,
                ndmin=2,
                quotechar='"',
                encoding=ENCODING,
                comments=None,
            )
    except (ValueError, IndexError, OSError):
        return None


def _culprit(source: str, delimiter: str | None, skipped: int, columns: list[int], names: list[str]) -> str:
    """What is no number in a table."""
    try:
        with open(source, encoding=ENCODING, newline="") as file:
            for number, line in enumerate(file, 1):
                words = _cells(line, delimiter)
                for column in columns if words and number > skipped else ():
                    where = f"line {number} of {source}"
                    if column >= len(words):
                        return f"{where} has {len(words)} columns, the first has {len(names)}: mend it, or leave it out"
                    if not _is_number(words[column]):
                        what = f"{words[column]!r}, which is no number" if words[column] else "nothing"
                        return f"{where} holds {what}, in {names[column]}: mend it, or leave it out"
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return f"cannot read {source} ({first_line(error)}): pass a .csv in UTF-8"
    return f"cannot read {source}: pass a .csv with a row of numbers for each sample"


def _cells(line: str, delimiter: str | None) -> list[str]:
    if not line.strip():
        return []
    words = line.split() if delimiter is None else next(csv.reader([line], delimiter=delimiter))
    return [word.strip() for word in words]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
