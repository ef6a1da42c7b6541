"""Data that were given, as arrays by input name: one reader for each kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from onnx_condense.arrays import Array
from onnx_condense.data import arrays, images, loaders, parquet, tables, tensors
from onnx_condense.data.sources import Kind, kind_of, parts_of
from onnx_condense.data.wanted import Batch, Wanted, holds, lacking
from onnx_condense.documents import check_regular
from onnx_condense.errors import InputError, first_line
from onnx_condense.expected import given_inputs

Given = str | os.PathLike[str] | Mapping[str, Array] | Batch
"""A path, arrays by input name, or what was read before."""

Reader = Callable[[str | os.PathLike[str], Sequence[Wanted]], list[Batch]]
"""Reads a path. Raises InputError."""

READERS: Mapping[Kind, Reader] = {
    Kind.ARCHIVE: arrays.read_named,
    Kind.ARRAY: arrays.read_one,
    Kind.CSV: tables.read,
    Kind.PARQUET: parquet.read,
    Kind.TENSORS: tensors.read,
    Kind.IMAGES: images.read,
    Kind.LOADER: loaders.read,
}

HELD = 2**28
"""Bytes of images that are held once they are decoded, which takes longer than to run most models on them."""

WHOLE = (Kind.TENSORS, Kind.IMAGES, Kind.LOADER)
"""Kinds whose readers take a folder, or find their files themselves."""


def read(wanted: Sequence[Wanted], given: Given) -> list[Batch]:
    """The arrays [samples, ...] that a model's inputs want, from what was given; others are left out.

    Raises InputError for what cannot be read, or lacks an input.
    """
    if isinstance(given, Batch):
        return [given]
    given_inputs("data", given)
    if isinstance(given, Mapping):
        return [_chosen(Batch("the data", _arrays(given)), wanted)]
    kind = kind_of(os.fspath(given))
    places = [given] if kind in WHOLE else parts_of(given) if Path(given).is_dir() else [given]
    found: list[Batch] = []
    for place in places:
        if kind is not Kind.LOADER:
            check_regular(Path(place))
        found += [_chosen(batch, wanted) for batch in READERS[kind](place, wanted)]
    return found


def parts(wanted: Sequence[Wanted], given: Given, holds: bool = True) -> list[Given]:
    """Parts of data that may be read one after the other, again and again; a loader is called once, here.

    holds: whether images that were decoded stay in memory, where they are few. Raises InputError.
    """
    if isinstance(given, Batch | Mapping):
        return [given]
    given_inputs("calibration", given)
    kind = kind_of(os.fspath(given))
    if kind is Kind.LOADER:
        return list(read(wanted, given))
    places = list(parts_of(given))
    return list(_decoded(wanted, places)) if kind is Kind.IMAGES and holds else places


def _decoded(wanted: Sequence[Wanted], places: Sequence[Given]) -> Iterator[Given]:
    """Parts as arrays, the first ones, as many as are held."""
    size = 0
    for place in places:
        batches = read(wanted, place) if size < HELD else [place]
        size += sum(array.nbytes for one in batches if isinstance(one, Batch) for array in one.arrays.values())
        yield from batches


def _arrays(given: Mapping[str, Array]) -> dict[str, Array]:
    try:
        return {name: np.asarray(value) for name, value in given.items()}
    except ValueError as error:
        raise InputError(f"the data is no array ({first_line(error)}): pass one array per input") from error


def _chosen(batch: Batch, wanted: Sequence[Wanted]) -> Batch:
    """The arrays that the model wants. Raises InputError where one is missing."""
    missing = [one.name for one in wanted if one.name not in batch.arrays]
    if missing:
        held = holds({str(name): (array.shape, array.dtype) for name, array in batch.arrays.items()})
        raise lacking(batch.source, missing[0], held, wanted)
    return Batch(batch.source, {one.name: batch.arrays[one.name] for one in wanted})
