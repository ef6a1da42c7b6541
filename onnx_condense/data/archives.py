"""Arrays as numpy writes them (.npz, .npy): what they state is looked at before they are read: it may be anything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from threading import Lock
from typing import IO, BinaryIO
from zipfile import ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy

from onnx_condense.arrays import Array, Shape
from onnx_condense.errors import InputError, LimitError
from onnx_condense.trust import FREE, GIGABYTE, PACKED, takes_in, trusted

SUFFIX = ".npy"

ENCRYPTED = 1
"""The flag of a member of an archive that is."""

_HEADERS = Lock()
"""numpy reads a header with `ast`, which has failed in several threads at once (SystemError, CPython 3.11)."""


def read_archive(file: BinaryIO, label: str, advice: str, names: Collection[str] | None = None) -> dict[str, Array]:
    """The arrays, of any shape, of an archive, or those of them that have one of these names.

    Raises InputError, with its label and advice, for what is damaged, and LimitError for what is suspiciously large.
    """
    try:
        with _HEADERS:
            with ZipFile(file) as archive:
                members = [info for info in archive.infolist() if names is None or _name(info) in names]
                _check_members(archive, members)
            file.seek(0)
            with np.load(file, allow_pickle=False) as loaded:
                return {_name(info): loaded[_name(info)] for info in members}
    except (InputError, LimitError) as error:
        raise type(error)(f"cannot read {label}: {error}") from error
    except Exception as error:  # zipfile, its decompressors and numpy raise whatever they trip over
        raise InputError(f"cannot read {label}: {advice}") from error


def read_array(file: BinaryIO, label: str, advice: str) -> Array:
    """The array, of any shape, of an .npy. Raises InputError, with its label and advice, for what is damaged."""
    try:
        with _HEADERS:
            begin, shape, kind = _header(file)
            size = file.seek(0, 2)
            file.seek(0)
            if kind.hasobject or size != begin + math.prod(shape) * kind.itemsize:
                raise InputError(f"cannot read {label}, which is damaged or holds no numbers: {advice}")
            takes_in(size)
            return np.asarray(np.load(file, allow_pickle=False))
    except InputError:
        raise
    except Exception as error:  # numpy raises whatever it trips over
        raise InputError(f"cannot read {label}: {advice}") from error


def contents(file: BinaryIO) -> dict[str, tuple[Shape, np.dtype[np.generic]]]:
    """The shape and the type of every array of an archive, of those that can be read."""
    found = {}
    with _HEADERS, ZipFile(file) as archive:
        for info in archive.infolist():
            with suppress(Exception), archive.open(info) as member:  # it may hold anything beside the arrays
                found[_name(info)] = _header(member)[1:]
    return found


def _name(info: ZipInfo) -> str:
    return info.filename.removesuffix(SUFFIX)


def _check_members(archive: ZipFile, members: list[ZipInfo]) -> None:
    """Raises InputError or LimitError where an archive should not be read."""
    twice = [name for name, count in Counter(map(_name, members)).items() if count > 1]
    if twice:
        raise InputError(f"it holds {twice[0]} twice, write it again with numpy.savez")
    for info in members:
        if info.flag_bits & ENCRYPTED:
            raise InputError("it is encrypted, write it again with numpy.savez")
        stated, numbers = _stated(archive, info)
        if not numbers:
            raise InputError(f"{_name(info)} is not an array of numbers")
        if stated != info.file_size:
            raise InputError(f"{_name(info)} is damaged or cut short, write it again with numpy.savez")
    size, packed = sum(info.file_size for info in members), sum(info.compress_size for info in members)
    own = trusted().limit_memory
    most = math.inf if own == 0 else (own or 0) * GIGABYTE
    if size > max(FREE // 4, most) and size > PACKED * packed:
        raise LimitError(f"it unpacks to {size / GIGABYTE:.3g} GB, allow more with --limit-memory")
    takes_in(size)


def _stated(archive: ZipFile, info: ZipInfo) -> tuple[int, bool]:
    """How many bytes an array says that it takes in the archive, and whether it holds numbers."""
    with archive.open(info) as member:
        begin, shape, kind = _header(member)
    return begin + math.prod(shape) * kind.itemsize, not kind.hasobject


def _header(file: IO[bytes]) -> tuple[int, Shape, np.dtype[np.generic]]:
    """Where the numbers of an array begin, its shape, and its type."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, kind = read(file)
    return file.tell(), shape, kind
