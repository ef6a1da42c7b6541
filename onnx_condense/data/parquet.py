"""Tables in columns: .parquet (extra `parquet`), whose columns may hold lists of numbers, too."""

from __future__ import annotations

import os
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from onnx_condense.arrays import Array
from onnx_condense.data.columns import batch, chosen
from onnx_condense.data.wanted import Batch, Wanted
from onnx_condense.errors import InputError, first_line
from onnx_condense.extras import need
from onnx_condense.trust import takes_in

NUMBER = 8
"""Bytes of a number, as they are held."""


def read(path: str | os.PathLike[str], wanted: Sequence[Wanted]) -> list[Batch]:
    """The columns of a table that the inputs want [samples, ...]. Raises InputError, UsageError without the extra."""
    source = str(path)
    need(f"reading {source}", "parquet", ["pyarrow"])
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(source) as file:
            names = list(file.schema_arrow.names)
            lists = {one.name for one in wanted if one.name in names and _is_list(file.schema_arrow.field(one.name))}
            found = chosen([one for one in wanted if one.name not in lists], names, source)
            numbers = sorted({number for choice in found.values() for number in choice.columns})
            takes_in(file.metadata.num_rows * len(numbers) * NUMBER)
            table = file.read(columns=[*{names[number] for number in numbers}, *sorted(lists)])
    except (ArrowException, OSError) as error:
        raise InputError(f"cannot read {source} ({first_line(error)}): write it again") from error
    made = batch(found, lambda number: _column(table, names[number], source), source)
    arrays = {one.name: _rows(table, one, source) for one in wanted if one.name in lists}
    return [Batch(source, {**made.arrays, **arrays})]


def _is_list(field: Any) -> bool:
    return hasattr(field.type, "value_type")


def _column(table: Any, name: str, source: str) -> Array:
    """A column [samples]; what is missing is NaN. Raises InputError for what is no number."""
    found = np.asarray(table.column(name).to_numpy())
    if found.dtype.kind not in "fiub":
        raise InputError(f"{name} of {source} is not numbers ({table.column(name).type}): leave it out")
    return found


def _rows(table: Any, one: Wanted, source: str) -> Array:
    """A column of lists [samples, numbers], in the shape of a sample where the model states it. Raises InputError."""
    try:
        found = np.array(table.column(one.name).to_pylist(), dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(f"{one.name} of {source} holds no lists of numbers of one length: mend it") from error
    sizes = [size for size in one.dims[1:] if isinstance(size, int)]
    whole = len(sizes) == len(one.dims) - 1 and prod(sizes) == prod(found.shape[1:])
    return found.reshape(len(found), *sizes) if whole else found
