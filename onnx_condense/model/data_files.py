"""External data: weights in files beside a model, within its folder, read by us alone and written again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import gcd
from pathlib import Path, PurePath
from typing import BinaryIO, Protocol

import onnx
from onnx.external_data_helper import uses_external_data

from onnx_condense.documents import Bytes
from onnx_condense.errors import InputError
from onnx_condense.model.held import Spill, byte_count, can_hold, content, is_held, refer
from onnx_condense.model.protos import tensors

CHUNK = 2**24
"""Bytes read at once where a file is only looked through."""

SMALLEST = 1024
"""Tensors of fewer bytes stay in the message."""

LARGEST = 2**30
"""Bytes of tensors that are no initializers and stay in the message: others read those that are in it more easily."""

PAGED = 2**20
"""Tensors of this many bytes and more begin at multiples of a page in a file of their own, as ONNX recommends."""

PAGE = 4096

MOST_ALIGNED = 2**16
"""The largest alignment that is taken over from an original."""


class Digest(Protocol):
    """What bytes are hashed into."""

    def update(self, data: Bytes, /) -> None:
        """Takes more bytes."""


def outside(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The tensors whose numbers lie in other files."""
    return [tensor for tensor in tensors(model) if uses_external_data(tensor)]


def names(model: onnx.ModelProto, path: Path) -> tuple[str, ...]:
    """The files that hold weights of a model, in order, by their paths from its folder.

    Raises InputError where one is not in that folder, or is only a link that leads out of it. No file is read.
    """
    found = sorted({_name(tensor, path) for tensor in outside(model)})
    for name in found:
        place(path, name)
    return tuple(found)


def place(path: Path, name: str) -> Path:
    """Where a file lies that a model at `path` names, links followed. Raises InputError where that is elsewhere."""
    stated, folder = PurePath(name), path.parent.resolve()
    try:
        found = (folder / stated).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, characters that no path has
        raise InputError(f"{path} needs its external data file {name!r}: put it beside the model") from error
    if stated.is_absolute() or ".." in stated.parts or not found.is_relative_to(folder):
        raise InputError(f"{path} keeps weights outside its folder ({name}): put the file itself beside the model")
    return found


@contextmanager
def opened(path: Path, name: str) -> Iterator[BinaryIO]:
    """A file that holds weights of the model at `path`. Raises InputError where it cannot be read."""
    found = place(path, name)
    try:
        if not found.is_file():
            raise FileNotFoundError
        with open(found, "rb") as file:
            yield file
    except OSError as error:
        raise InputError(f"{path} needs its external data file {name}: put it beside the model") from error


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """What is left of a file, bit by bit."""
    while chunk := file.read(CHUNK):
        yield chunk


def alignment(model: onnx.ModelProto) -> int:
    """The power of 2 at whose multiples all tensors begin that lie in other files; 1 where that says nothing."""
    offsets = [int(_stated(tensor, "offset") or 0) for tensor in outside(model) if _stated(tensor, "offset").isdigit()]
    found = gcd(MOST_ALIGNED, *offsets)
    return found if any(offsets) else 1


def sizes(found: Iterable[str], path: Path) -> int:
    """Bytes of the files of these names beside a model. Raises InputError where one is missing."""
    total = 0
    for name in found:
        with opened(path, name) as file:
            total += file.seek(0, 2)
    return total


def take_in(model: onnx.ModelProto, path: Path, digest: Digest, spill: Spill | None = None) -> int:
    """Reads weights into the message, in place, and their files, by name, into a digest; returns the files' bytes.

    Large initializers stay where they are, and are held, where a `spill` takes those that cannot.

    Raises InputError where a file is missing or too short.
    """
    inside: dict[str, list[onnx.TensorProto]] = {name: [] for name in names(model, path)}
    for tensor in outside(model):
        inside[_name(tensor, path)].append(tensor)
    stays = {id(tensor) for tensor in model.graph.initializer} if spill is not None else set()
    total = 0
    for name, members in inside.items():
        with opened(path, name) as file:
            for chunk in chunks(file):
                digest.update(chunk)
            size = file.tell()
            for tensor in members:
                offset = _offset(tensor, size, path)
                found = place(path, name)
                if spill is None or id(tensor) not in stays or not can_hold(tensor, found):
                    _fill(tensor, file, offset, path)
                elif can_hold(tensor, found, offset):
                    refer(tensor, found, offset)
                else:
                    refer(tensor, spill.path, spill.add(part(file, offset, byte_count(tensor))))
        total += size
    return total


def part(file: BinaryIO, offset: int, length: int) -> Iterator[bytes]:
    """A part of a file, bit by bit."""
    file.seek(offset)
    while length > 0 and (chunk := file.read(min(CHUNK, length))):
        length -= len(chunk)
        yield chunk


def _offset(tensor: onnx.TensorProto, size: int, path: Path) -> int:
    """Where a tensor begins in its file of so many bytes. Raises InputError where it does not lie in it."""
    label, needed = tensor.name or "a constant", byte_count(tensor)
    try:
        offset = int(_stated(tensor, "offset") or 0)
        length = int(_stated(tensor, "length") or needed)
    except ValueError:
        offset = length = -1
    if needed < 0 or length != needed or not 0 <= offset <= size - needed:
        raise InputError(
            f"the external data of {path} is damaged ({label} does not fit into {_name(tensor, path)}): export it again"
        )
    return offset


def _fill(tensor: onnx.TensorProto, file: BinaryIO, offset: int, path: Path) -> None:
    needed = byte_count(tensor)
    file.seek(offset)
    data = file.read(needed)
    if len(data) < needed:
        raise InputError(f"the external data of {path} changed while it was read: run the command again")
    tensor.raw_data = data
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def _stated(tensor: onnx.TensorProto, key: str) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == key), "")


def _name(tensor: onnx.TensorProto, path: Path) -> str:
    try:
        location = _stated(tensor, "location")
    except UnicodeDecodeError:
        location = ""
    if not location:
        raise InputError(f"the external data of {path} is damaged (a file has no name): export it again")
    return PurePath(location).as_posix()


def check_inside(model: onnx.ModelProto) -> None:
    """Raises InputError where a model in memory keeps weights in files: nobody knows in which folder."""
    found = outside(model)
    if found:
        name = found[0].name or "a constant"
        raise InputError(f"the model in memory lacks the numbers of {name}: pass its path, or read it with onnx.load")


def movable(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The tensors that go into a file of their own: initializers, and all others where those are too large to stay."""
    found = _large(model.graph.initializer)
    everything = _large(tensors(model))
    left = sum(len(content(tensor)) for tensor in everything) - sum(len(content(tensor)) for tensor in found)
    return found if left < LARGEST else everything


def _large(found: Iterable[onnx.TensorProto]) -> list[onnx.TensorProto]:
    return [tensor for tensor in found if is_held(tensor) or len(content(tensor)) >= SMALLEST]


def layout(moved: Iterable[onnx.TensorProto], step: int) -> list[int]:
    """Where tensors begin in a file of their own, one after the other: at multiples of `step`, large ones of a page."""
    found, end = [], 0
    for tensor in moved:
        length = len(content(tensor))
        unit = max(step, PAGE) if length >= PAGED else step
        found.append(-(-end // unit) * unit)
        end = found[-1] + length
    return found


def stream(moved: Sequence[onnx.TensorProto], offsets: Sequence[int]) -> Iterator[bytes | memoryview]:
    """The bytes of that file."""
    end = 0
    for tensor, offset in zip(moved, offsets, strict=True):
        yield bytes(offset - end)
        yield (data := content(tensor))
        end = offset + len(data)


def move_out(moved: Sequence[onnx.TensorProto], offsets: Sequence[int], location: str) -> None:
    """Makes tensors name the file that holds their numbers, in place of the numbers."""
    for tensor, offset in zip(moved, offsets, strict=True):
        length = len(content(tensor))
        del tensor.external_data[:]
        for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
