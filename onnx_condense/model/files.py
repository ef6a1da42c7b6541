"""Model files: read, checked, written."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import uses_external_data

from onnx_condense._version import __version__
from onnx_condense.documents import Bytes, check_regular, remove_unheld, write_atomically, written
from onnx_condense.errors import InputError
from onnx_condense.expected import shown
from onnx_condense.model import data_files, wire
from onnx_condense.model.checking import checked, loops
from onnx_condense.model.held import HELD_FROM, Spill, byte_count, can_hold, parted, refer
from onnx_condense.model.protos import PROTOBUF_LIMIT, serialize
from onnx_condense.trust import takes_in

DIGITS = 16
"""How many of the sha256 name a file of weights."""


@dataclass(frozen=True)
class Source:
    """A model as it came in. `proto` is never changed.

    Attributes:
        proto: the model; large weights of a large one are held in files (`model/held.py`), all others are in it.
        sha256: of the file and of its external data files, in order of name; of the message for a model in memory.
        size: bytes on disk (external data included), or of the serialized message.
        path: the file, None for a model in memory.
        external: the files that hold weights, by their paths from its folder.
        plain: whether onnxruntime reads the file as we do: what lies in other files are initializers of the graph.
        step: at multiples of which its tensors begin in other files.
        spill: weights that are held in a temporary file, while this object lives.
        data: the bytes of a model that came through a pipe.
    """

    proto: onnx.ModelProto
    sha256: str
    size: int
    path: Path | None
    external: tuple[str, ...]
    plain: bool = True
    step: int = 1
    spill: Spill | None = None
    data: bytes = b""


class Stored(NamedTuple):
    """What was written: the sha256 and the bytes of a file and of its external data, as `Source` has them."""

    sha256: str
    size: int


Model = str | os.PathLike[str] | onnx.ModelProto | Source
"""A model, the path of its file, or what `load` made of either."""


def received(data: bytes) -> Source:
    """A model that came through a pipe. Raises InputError with what to do."""
    path = Path("standard input")
    proto = checked(_parsed(data, path), str(path))
    if data_files.outside(proto):
        raise InputError(f"the model on {path} keeps weights in other files: name its file")
    takes_in(len(data), loops(proto))
    return Source(proto, hashlib.sha256(data).hexdigest(), len(data), None, (), data=data)


def load(model: Model, hold: bool = True) -> Source:
    """Reads a model from a file, takes one in memory, or what was loaded. Raises InputError with what to do.

    `hold`: whether large weights of a large model may stay in files.
    """
    if isinstance(model, Source):
        return model
    if isinstance(model, onnx.ModelProto):
        data_files.check_inside(model)
        size = wire.size(model)
        if size >= PROTOBUF_LIMIT:
            raise InputError("the model in memory is larger than 2 GB: save it to a file and pass its path")
        takes_in(size, loops(model))
        return Source(checked(model, "the model"), digest_of(model), size, None, ())
    if not isinstance(model, str | os.PathLike):
        raise InputError(f"a model is the path of an .onnx file, or an onnx.ModelProto, not {shown(model)}")
    path = Path(model)
    if path.is_dir():
        raise InputError(f"{path} is a folder: pass an .onnx file")
    check_regular(path)
    read = _read(path, hold)
    proto = checked(read.proto, str(path))
    beside, moved, step = data_files.names(proto, path), data_files.outside(proto), data_files.alignment(proto)
    plain = len(moved) == sum(map(uses_external_data, proto.graph.initializer))
    digest, spill = hashlib.sha256(), Spill() if read.holes else None
    size = inside = _take(replace(read, proto=proto), path, digest, spill)
    if moved:
        held = hold and size + data_files.sizes(beside, path) >= HELD_FROM
        spill = spill or (Spill() if held else None)
        size += data_files.take_in(proto, path, digest, spill if held else None)
    takes_in(size - inside, loops(proto))
    return Source(proto, digest.hexdigest(), size, path, beside, plain, step, spill)


@dataclass(frozen=True)
class _Read:
    """A file that was read. data: its bytes; b"" where large tensors were left out, which lie at `holes`."""

    proto: onnx.ModelProto
    data: bytes
    holes: Mapping[int, tuple[int, int]]


def _read(path: Path, hold: bool) -> _Read:
    """Reads a file, but for large weights of a large one where `hold` says so. Raises InputError."""
    found = _outlined(path) if hold else None
    if found is not None:
        return found
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): check the path and its permissions") from error
    takes_in(len(data))
    return _Read(_parsed(data, path), data, {})


def _parsed(data: bytes, path: Path) -> onnx.ModelProto:
    """The message of a file. Raises InputError."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        why = "or it is cut short, or its bodies nest more than 30 deep"
        raise InputError(f"{path} is not an ONNX file ({why}): export the model again") from error
    return proto


def _outlined(path: Path) -> _Read | None:
    """A large file without its large weights; None for any other, and for what is not written as is usual."""
    try:
        if not path.is_file() or path.stat().st_size < HELD_FROM:
            return None
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            model, holes = wire.outline(memoryview(data))
        takes_in(path.stat().st_size)
        proto = onnx.ModelProto.FromString(model)
    except (OSError, DecodeError, wire.Malformed, BufferError):
        return None
    tensors = proto.graph.initializer
    lengths = [(tensors[index], end - start) for index, (start, end) in holes.items()]
    fits = all(can_hold(tensor, path) and byte_count(tensor) == length for tensor, length in lengths)
    return _Read(proto, b"", holes) if holes and fits else None


def _take(read: _Read, path: Path, digest: data_files.Digest, spill: Spill | None) -> int:
    """Takes a file's bytes into a digest, and copies what was left out to where it can be mapped; returns its size."""
    if spill is None:
        digest.update(read.data)
        return len(read.data)
    with open(path, "rb") as file:
        place = 0
        for index, (start, end) in sorted(read.holes.items(), key=lambda hole: hole[1]):
            for chunk in data_files.part(file, place, start - place):
                digest.update(chunk)
            offset = spill.add(_hashed(data_files.part(file, start, end - start), digest))
            refer(read.proto.graph.initializer[index], spill.path, offset)
            place = end
        for chunk in data_files.chunks(file):
            digest.update(chunk)
        return file.tell()


def _hashed(chunks: Iterable[Bytes], digest: data_files.Digest) -> Iterator[Bytes]:
    for chunk in parted(chunks):
        digest.update(chunk)
        yield chunk


def digest_of(model: onnx.ModelProto) -> str:
    """The sha256 of a model's bytes."""
    digest = hashlib.sha256()
    for piece in parted(wire.pieces(model)):
        digest.update(piece)
    return digest.hexdigest()


def provenance(source: Source, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a condensed model says about its making: options that are off or empty go without saying."""
    said = {name: value for name, value in options.items() if value not in (None, False, [], {})}
    return {"version": __version__, "source_sha256": source.sha256, "options": said}


def file_of(source: Source, folder: Path, name: str) -> Path:
    """A file that onnxruntime reads as we do: the source's own, or one that is written into a folder."""
    if source.path is not None and source.plain:
        return source.path
    path = folder / name
    save(source.proto, path)
    return path


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from the one that takes its place; None where there is none."""
    if not path.exists():
        return None
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def save(
    model: onnx.ModelProto, path: Path, external: bool = False, source: Path | None = None, step: int = 1
) -> Stored:
    """Writes a model so that, whatever happens, what was there before or the new one is there, whole.

    Weights go to a file of their own when the source kept them outside too, or when they do not fit into one message.
    Its name is that of the model with the sha256 of its content: the model is renamed last, and what it named before
    goes after that.

    Args:
        model: what is written.
        path: of the model.
        external: whether weights go to a file of their own, as far as they are large and `path` is no device or pipe.
        source: a model whose data stay in any case.
        step: at multiples of which tensors begin in that file.
    """
    try:
        external = external and (path.is_file() or not path.exists())
        moved: list[onnx.TensorProto] = []
        if external or wire.size(model) >= PROTOBUF_LIMIT:
            apart = onnx.ModelProto()
            apart.CopyFrom(model)
            moved = data_files.movable(apart)
        if not moved:
            digest = hashlib.sha256()
            with written(path, _hashed(wire.pieces(model), digest)) as size:
                return Stored(digest.hexdigest(), size)
        offsets, digest = data_files.layout(moved, step), hashlib.sha256()
        for chunk in parted(data_files.stream(moved, offsets)):
            digest.update(chunk)
        location = f"{path.name}.{digest.hexdigest()[:DIGITS]}.data"
        data = path.with_name(location)
        with written(data, parted(data_files.stream(moved, offsets)), like=path) as size:
            data_files.move_out(moved, offsets, location)
            message, digest = serialize(apart), hashlib.sha256()
            size += write_atomically(path, message)
        with data_files.opened(path, location) as file:
            for chunk in chain([message], data_files.chunks(file)):
                digest.update(chunk)
        return Stored(digest.hexdigest(), size)
    finally:
        _tidy(path, source)


def _tidy(path: Path, source: Path | None) -> None:
    """Removes the data that earlier runs wrote for a model of this name and that no model beside it names."""
    ours = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{{DIGITS}}}\.data")
    stale = [file for file in path.parent.glob("*.data") if ours.fullmatch(file.name) and file.is_file()]
    if not stale:
        return
    readers = [path, *path.parent.glob("*.onnx"), *([source] if source is not None else [])]
    for file in stale:
        if not any(_mentions(reader, os.fsencode(file.name)) for reader in readers):
            remove_unheld(file)


def _mentions(path: Path, name: bytes) -> bool:
    """Whether the bytes of a file hold a name; so where it cannot be read."""
    if not path.is_file():
        return False
    try:
        before = b""
        with open(path, "rb") as file:
            for chunk in data_files.chunks(file):
                if name in before + chunk:
                    return True
                before = chunk[-len(name) :]
    except OSError:
        return True
    return False


def whole(model: onnx.ModelProto, source: Source) -> bytes:
    """A model as one message, with its weights; the source's own bytes where it is that. Raises InputError."""
    if model is source.proto and not source.external and source.path is not None:
        return source.path.read_bytes()
    if model is source.proto and source.data:
        return source.data
    if wire.size(model) >= PROTOBUF_LIMIT:
        raise InputError("the model is larger than 2 GB, which no pipe takes as one message: name a file with -o")
    return serialize(model)


def copy(source: Source, target: Path) -> tuple[bool, Stored]:
    """Copies a model file byte for byte, its external data too where the target lies in another folder.

    Where other data have their name there, those stay, and the same model is saved with a name of its own for its data.

    Returns:
        Whether it was copied byte for byte, and what was written.
    """
    if source.path is None:
        write_atomically(target, source.data)
        return True, Stored(source.sha256, source.size)
    elsewhere = source.path.absolute().parent != target.absolute().parent
    missing = [name for name in source.external if elsewhere and not _is_there(source.path, target, name)]
    if not all(_is_free(target, name) for name in missing):
        return False, save(source.proto, target, external=True, source=source.path, step=source.step)
    before, undo, digest = identity(target), ExitStack(), hashlib.sha256()
    try:
        for name in missing:
            _copy_data(undo, source.path, target, name)
        with open(source.path, "rb") as file, written(target, _hashed(data_files.chunks(file), digest)):
            pass
    except BaseException:
        if identity(target) == before:
            undo.close()
        raise
    _tidy(target, source.path)
    return True, Stored(source.sha256 if source.external else digest.hexdigest(), source.size)


def _is_there(source: Path, target: Path, name: str) -> bool:
    """Whether the data that a model names lie beside the target already, with the same content."""
    try:
        with data_files.opened(target, name) as there, data_files.opened(source, name) as here:
            same = os.fstat(there.fileno()).st_size == os.fstat(here.fileno()).st_size
            return same and all(a == b for a, b in zip_longest(data_files.chunks(there), data_files.chunks(here)))
    except InputError:
        return False


def _is_free(target: Path, name: str) -> bool:
    """Whether data of a name can be written beside the target, in its folder and over nothing."""
    try:
        return not data_files.place(target, name).exists()
    except InputError:
        return False


def _copy_data(undo: ExitStack, source: Path, target: Path, name: str) -> None:
    """Copies data, and says how to undo that."""
    place = target.parent / name
    try:
        for folder in reversed([folder for folder in place.parents if not folder.exists()]):
            folder.mkdir()
            undo.callback(_drop_empty, folder)
    except OSError as error:
        raise InputError(f"cannot write {place} ({error.strerror}): choose another place") from error
    undo.callback(place.unlink, missing_ok=True)
    with data_files.opened(source, name) as file, written(place, data_files.chunks(file)):
        pass


def _drop_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
