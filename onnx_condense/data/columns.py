"""Tables of numbers: which columns are an input of the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from onnx_condense.arrays import Array, Shape
from onnx_condense.data.wanted import Batch, Wanted, listed, wants
from onnx_condense.errors import InputError


@dataclass(frozen=True)
class Choice:
    """Columns of a table, by number, that are one input, and the shape of one sample of it."""

    columns: tuple[int, ...]
    shape: Shape


def chosen(wanted: Sequence[Wanted], names: Sequence[str], source: str) -> dict[str, Choice]:
    """The columns of every input: those called NAME or NAME_0, NAME_1, ...; else all, where there is one input.

    Raises InputError where they are not as many as an input takes.
    """
    found = {}
    for one in wanted:
        columns = _named(one.name, names) or (tuple(range(len(names))) if len(wanted) == 1 else ())
        shape = _fitting(one, len(columns)) if columns else None
        if shape is None:
            raise _unlike(one, columns or range(len(names)), names, source, wanted)
        found[one.name] = Choice(columns, shape)
    return found


def batch(found: Mapping[str, Choice], column: Callable[[int], Array], source: str) -> Batch:
    """The inputs [samples, ...] of a table whose columns [samples], or [samples, numbers], are asked for by number."""
    arrays = {}
    for name, choice in found.items():
        table = np.column_stack([column(number) for number in choice.columns])
        arrays[name] = table.reshape(len(table), *choice.shape)
    return Batch(source, arrays)


def _named(name: str, names: Sequence[str]) -> tuple[int, ...]:
    """The column of this name, or those that are numbered, in the order of their numbers."""
    if name in names:
        return (names.index(name),)
    pattern = re.compile(re.escape(name) + r"[_.\[]?(\d+)\]?")
    numbered = ((int(found[1]), place) for place, column in enumerate(names) if (found := pattern.fullmatch(column)))
    return tuple(place for _, place in sorted(numbered))


def _fitting(wanted: Wanted, columns: int) -> Shape | None:
    """The shape of a sample of so many numbers: without the first axis, or with it where a model has no batch."""
    for dims in (wanted.dims[1:], wanted.dims):
        sizes = [size for size in dims if isinstance(size, int)]
        if len(sizes) == len(dims) and prod(sizes) == columns:
            return tuple(sizes)
    free = len(wanted.dims) == 2 and isinstance(wanted.dims[1], str)
    return (columns,) if free else None


def _unlike(
    one: Wanted, columns: Sequence[int], names: Sequence[str], source: str, wanted: Sequence[Wanted]
) -> InputError:
    held = listed(names[number] for number in columns)
    count = f"{len(columns)} column{'s' * (len(columns) != 1)}"
    return InputError(
        f"{source} has {count} ({held}) for {one.name}, the model wants {wants(wanted)}: keep the columns that it "
        f"takes, or call them {one.name}_0, {one.name}_1, ..."
    )
