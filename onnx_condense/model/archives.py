"""Archives of arrays (.npz): what they state is looked at before anything is read, since it may be anything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from threading import Lock
from typing import BinaryIO
from zipfile import ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy

from onnx_condense.arrays import Array
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
        version = npy.read_magic(member)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, kind = read(member)
        return member.tell() + math.prod(shape) * kind.itemsize, not kind.hasobject
