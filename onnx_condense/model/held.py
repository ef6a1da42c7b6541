"""Weights that stay in files: a tensor names its place on the disk, and is looked at through a memory map.

Only initializers of the graph of a large model are held so. Nothing reads them before somebody asks for their numbers,
and copies of the message cost nothing; onnxruntime maps the same files (`model/runtime.py`).
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from math import prod
from pathlib import Path, PurePath
from typing import IO, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from onnx_condense.arrays import Array
from onnx_condense.documents import hold, remove_unheld
from onnx_condense.errors import InputError

HELD_FROM = 2**24
"""Bytes of a model and its external data from which its weights stay in files."""

LEAST = 2**16
"""Tensors of fewer bytes are in the message in any case."""

STEP = 4096
"""Where weights begin in a file of ours: at multiples of this, so that it can be mapped anywhere."""

ROOM_FROM = 2**28
"""Bytes of an array to be filled from which it lies in a file."""

AT_ONCE = 2**26
"""Bytes that are looked at before their memory is given back."""

ROOT = Path(tempfile.gettempdir()).anchor
"""The folder that places are stated from: the one that holds everything, on Windows the drive of temporary files."""

SAID = "checksum"
"""The key of a place under which it stands that the tensor had said that its numbers were in the message."""

PACKED = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
"""Bits per number of the types that share bytes."""

PREFIX, SUFFIX = "onnx-condense-", ".weights"
"""How the names of temporary files of weights begin and end."""


def byte_count(tensor: onnx.TensorProto) -> int:
    """How many bytes the numbers of a tensor take; -1 for what has no such size."""
    try:
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError):
        return -1
    if kind.hasobject or any(size < 0 for size in tensor.dims):
        return -1
    return -(-prod(tensor.dims) * PACKED.get(name, 8 * kind.itemsize) // 8)


def can_hold(tensor: onnx.TensorProto, path: Path, offset: int = 0) -> bool:
    """Whether a tensor may stay in a file, at an offset: it is large, its type is whole bytes, and numbers are aligned.

    Not where a file lies on another drive than ROOT, or where bytes of numbers are in another order than in files.
    """
    if byte_count(tensor) < LEAST or onnx.TensorProto.DataType.Name(tensor.data_type) in PACKED:
        return False
    itemsize = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return sys.byteorder == "little" and path.resolve().anchor == ROOT and offset % itemsize == 0


def is_held(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor of a model that was loaded names a place in a file."""
    return uses_external_data(tensor)


def holds(model: onnx.ModelProto) -> bool:
    """Whether weights of a model that was loaded stay in files."""
    return any(map(is_held, model.graph.initializer))


def refer(tensor: onnx.TensorProto, path: Path, offset: int) -> None:
    """Lets a tensor name its place in a file, in place of the numbers."""
    stated = {"location": path.resolve().relative_to(ROOT).as_posix(), "offset": offset, "length": byte_count(tensor)}
    if tensor.HasField("data_location"):
        stated[SAID] = tensor.data_location
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    for key, value in stated.items():
        tensor.external_data.add(key=key, value=str(value))
    tensor.data_location = onnx.TensorProto.EXTERNAL


def content(tensor: onnx.TensorProto) -> bytes | memoryview:
    """The bytes of a tensor's numbers, which are held, or raw in the message."""
    if not is_held(tensor):
        return bytes(tensor.raw_data)
    stated = {entry.key: entry.value for entry in tensor.external_data}
    start = int(stated["offset"])
    path = PurePath(ROOT, stated["location"])
    found = os.stat(path)
    return _mapped(path, found.st_ino, found.st_mtime_ns, found.st_size)[start : start + int(stated["length"])]


@lru_cache(16)
def _mapped(path: PurePath, *_: int) -> memoryview:
    """A file as bytes; what it was when it was mapped tells it from others that had its name."""
    with open(path, "rb") as file:
        found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _MAPS.add(found)
    return memoryview(found)


_MAPS: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def let_go() -> None:
    """Gives back the memory that was looked at through maps; what is looked at again is read again."""
    if hasattr(mmap, "MADV_DONTNEED"):
        for found in list(_MAPS):
            found.madvise(mmap.MADV_DONTNEED)


def parted(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The same bytes in pieces; behind large ones, the memory that was looked at is given back."""
    for chunk in chunks:
        view = memoryview(chunk)
        for start in range(0, len(view), AT_ONCE):
            yield view[start : start + AT_ONCE]
            if len(view) >= AT_ONCE:
                let_go()


def parts_of(value: Array) -> Iterator[Array]:
    """An array of any shape; a large one in parts, behind which the memory that was looked at is given back."""
    if value.nbytes < AT_ONCE:
        yield value
        return
    for part in np.array_split(value, 1 + value.nbytes // AT_ONCE):
        yield part
        let_go()


def room(shape: Sequence[int], kind: np.dtype[Any]) -> Array:
    """An array of this shape to be filled. A large one lies in a file without a name, so `let_go` frees its memory."""
    size = prod(shape) * kind.itemsize
    if size < ROOM_FROM or not hasattr(os, "posix_fallocate"):
        return np.empty(shape, kind)
    try:
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, size)
            found = mmap.mmap(file.fileno(), size)
    except OSError:  # there is no room for such a file, or none of its kind: memory has to do
        return np.empty(shape, kind)
    _MAPS.add(found)
    return np.frombuffer(found, dtype=kind).reshape(shape)


def by_rows(value: Array, change: Callable[[Array], Array]) -> Array:
    """What becomes of an array of any shape whose rows are changed, their sizes and type are not.

    A large one is changed some rows at a time, as `room` says.
    """
    if value.nbytes < ROOM_FROM:
        return change(value)
    result, step = room(value.shape, value.dtype), max(1, AT_ONCE * len(value) // value.nbytes)
    for start in range(0, len(value), step):
        result[start : start + step] = change(value[start : start + step])
        let_go()
    return result


def numbers(tensor: onnx.TensorProto) -> Array:
    """The numbers of a tensor, of its shape; of a held one they are read when they are looked at, and not written."""
    if not is_held(tensor):
        found: Array = numpy_helper.to_array(tensor)
        return found
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.frombuffer(content(tensor), dtype=kind).reshape(tuple(tensor.dims))


def filled(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model with all of its numbers in the message; the model itself where they are."""
    if not holds(model):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        fill(tensor)
    return result


def fill(tensor: onnx.TensorProto) -> None:
    """Puts the numbers of a tensor into the message, in place."""
    if is_held(tensor):
        tensor.raw_data = bytes(content(tensor))
        forget(tensor)


def forget(tensor: onnx.TensorProto) -> None:
    """Lets a tensor say again, in place, what it said of where its numbers are when they were in the message."""
    said = any(entry.key == SAID for entry in tensor.external_data)
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    if said:
        tensor.data_location = onnx.TensorProto.DEFAULT


class Spill:
    """A temporary file of weights, which goes with this object, or with the next run where this one was killed."""

    def __init__(self) -> None:
        """Raises InputError where there is no place for it."""
        _clear_litter()
        while True:
            try:
                handle, name = tempfile.mkstemp(SUFFIX, PREFIX)
            except OSError as error:
                raise _no_room(error) from error
            if not hold(handle) or os.path.exists(name):  # else another run took it for litter before it was held
                break
            os.close(handle)
        self.path = Path(name).resolve()
        self._file = os.fdopen(handle, "wb")
        self._size = 0
        weakref.finalize(self, _remove, self.path, self._file)

    def add(self, chunks: Iterable[bytes | memoryview]) -> int:
        """Writes the bytes of a tensor; returns where they begin. Raises InputError where there is no room."""
        start = -(-self._size // STEP) * STEP
        try:
            self._size = self._file.seek(start)
            self._size += sum(map(self._file.write, chunks))
            self._file.flush()
        except OSError as error:
            raise _no_room(error) from error
        return start

    def keep(self, name: str, value: Array) -> onnx.TensorProto | None:
        """A tensor whose numbers, of any shape, are written there; None for one that belongs into the message."""
        tensor = onnx.TensorProto(
            name=name, data_type=helper.np_dtype_to_tensor_dtype(value.dtype), dims=tuple(value.shape)
        )
        if not can_hold(tensor, self.path):
            return None
        refer(tensor, self.path, self.add(parted([np.ascontiguousarray(value).reshape(-1).view(np.uint8).data])))
        return tensor


def _remove(path: Path, file: IO[bytes]) -> None:
    with suppress(OSError):
        path.unlink()
    with suppress(OSError):
        file.close()


def _no_room(error: OSError) -> InputError:
    place = tempfile.gettempdir()
    return InputError(f"cannot write weights to {place} ({error.strerror}): make room, or name a folder in TMPDIR")


def _clear_litter() -> None:
    """Removes what killed runs left."""
    with suppress(OSError):
        for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*{SUFFIX}"):
            remove_unheld(path)
