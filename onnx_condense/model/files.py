"""Model files: read, checked, written."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import uses_external_data

from onnx_condense._version import __version__
from onnx_condense.documents import remove_unheld, write_atomically, written
from onnx_condense.errors import InputError
from onnx_condense.expected import shown
from onnx_condense.model import data_files
from onnx_condense.model.protos import PROTOBUF_LIMIT, serialize

DIGITS = 16
"""How many of the sha256 name a file of weights."""


@dataclass(frozen=True)
class Source:
    """A model as it came in. `proto` is never changed.

    Attributes:
        proto: the model, with external data loaded.
        sha256: of the file and of its external data files, in order of name; of the message for a model in memory.
        size: bytes on disk (external data included), or of the serialized message.
        path: the file, None for a model in memory.
        external: the files that hold weights, by their paths from its folder.
        plain: whether onnxruntime reads the file as we do: what lies in other files are initializers of the graph.
        data: the bytes of a model that came through a pipe.
    """

    proto: onnx.ModelProto
    sha256: str
    size: int
    path: Path | None
    external: tuple[str, ...]
    plain: bool = True
    data: bytes = b""


Model = str | os.PathLike[str] | onnx.ModelProto | Source
"""A model, the path of its file, or what `load` made of either."""


def received(data: bytes) -> Source:
    """A model that came through a pipe. Raises InputError with what to do."""
    path = Path("standard input")
    proto = _parsed(data, path)
    if data_files.outside(proto):
        raise InputError(f"the model on {path} keeps weights in other files: name its file")
    return Source(proto, hashlib.sha256(data).hexdigest(), len(data), None, (), data=data)


def load(model: Model) -> Source:
    """Reads a model from a file, takes one in memory, or what was loaded. Raises InputError with what to do."""
    if isinstance(model, Source):
        return model
    if isinstance(model, onnx.ModelProto):
        data_files.check_inside(model)
        data = model.SerializeToString(deterministic=True)
        return Source(model, hashlib.sha256(data).hexdigest(), len(data), None, ())
    if not isinstance(model, str | os.PathLike):
        raise InputError(f"a model is the path of an .onnx file, or an onnx.ModelProto, not {shown(model)}")
    path = Path(model)
    if path.is_dir():
        raise InputError(f"{path} is a folder: pass an .onnx file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): check the path and its permissions") from error
    proto = _parsed(data, path)
    digest = hashlib.sha256(data)
    beside, moved = data_files.names(proto, path), data_files.outside(proto)
    plain = len(moved) == sum(map(uses_external_data, proto.graph.initializer))
    size = len(data) + data_files.take_in(proto, path, digest)
    return Source(proto, digest.hexdigest(), size, path, beside, plain)


def _parsed(data: bytes, path: Path) -> onnx.ModelProto:
    """The message of a file, looked through. Raises InputError."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise InputError(f"{path} is not an ONNX file (or it is cut short): export the model again") from error
    if not proto.graph.node:
        raise InputError(f"{path} holds no ONNX graph: export the model again")
    _check_names(proto, path)
    _check_order(proto, path)
    return proto


def external_files(path: Path) -> tuple[str, ...]:
    """The files that hold weights of a model, by their paths from its folder; none where it cannot be read.

    Raises InputError where one is not in that folder.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError):
        return ()
    return data_files.names(model, path)


def _check_names(proto: onnx.ModelProto, path: Path) -> None:
    """Raises InputError where a name is not text, which every later step would trip over."""
    try:
        names = [t.name for t in proto.graph.initializer]
        names += [v.name for v in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info)]
        for node in proto.graph.node:
            names += [node.name, node.op_type, node.domain, *node.input, *node.output]
            names += [attribute.name for attribute in node.attribute]
        readable = all(isinstance(name, str) for name in names)
    except UnicodeDecodeError:
        readable = False
    if not readable:
        raise InputError(f"{path} has names that are not UTF-8 (is it damaged?): export the model again")


def _check_order(proto: onnx.ModelProto, path: Path) -> None:
    """Raises InputError for a node that comes before what it reads."""
    later = {name for node in proto.graph.node for name in node.output if name}
    for node in proto.graph.node:
        early = [name for name in node.input if name in later]
        if early:
            raise InputError(f"{path} reads {early[0]} before it is made: sort its nodes in topological order")
        later.difference_update(node.output)


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


def save(model: onnx.ModelProto, path: Path, external: bool = False, source: Path | None = None) -> int:
    """Writes a model so that, whatever happens, what was there before or the new one is there, whole.

    Weights go to a file of their own when the source kept them outside too, or when they do not fit into one message.
    Its name is that of the model with the sha256 of its content: the model is renamed last, and what it named before
    goes after that.

    Args:
        model: what is written.
        path: of the model.
        external: whether weights go to a file of their own, as far as they are large and `path` is no device or pipe.
        source: a model whose data stay in any case.

    Returns:
        The bytes written.
    """
    try:
        external = external and (path.is_file() or not path.exists())
        if not external and model.ByteSize() < PROTOBUF_LIMIT:
            return write_atomically(path, serialize(model))
        apart = onnx.ModelProto()
        apart.CopyFrom(model)
        moved = data_files.movable(apart)
        if not moved:
            return write_atomically(path, serialize(apart))
        digest = hashlib.sha256()
        for tensor in moved:
            digest.update(tensor.raw_data)
        location = f"{path.name}.{digest.hexdigest()[:DIGITS]}.data"
        with written(path.with_name(location), (tensor.raw_data for tensor in moved), like=path) as size:
            data_files.move_out(moved, location)
            return size + write_atomically(path, serialize(apart))
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
    if model.ByteSize() >= PROTOBUF_LIMIT:
        raise InputError("the model is larger than 2 GB, which no pipe takes as one message: name a file with -o")
    return serialize(model)


def copy(source: Source, target: Path) -> bool:
    """Copies a model file byte for byte, its external data too where the target lies in another folder.

    Where other data have their name there, those stay, and the same model is saved with a name of its own for its data.

    Returns:
        Whether it was copied byte for byte.
    """
    if source.path is None:
        write_atomically(target, source.data)
        return True
    elsewhere = source.path.absolute().parent != target.absolute().parent
    missing = [name for name in source.external if elsewhere and not _is_there(source.path, target, name)]
    if not all(_is_free(target, name) for name in missing):
        save(source.proto, target, external=True, source=source.path)
        return False
    before, undo = identity(target), ExitStack()
    try:
        for name in missing:
            _copy_data(undo, source.path, target, name)
        write_atomically(target, source.path.read_bytes())
    except BaseException:
        if identity(target) == before:
            undo.close()
        raise
    _tidy(target, source.path)
    return True


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
