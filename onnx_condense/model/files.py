"""Model files: read, checked, written."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from onnx_condense._version import __version__
from onnx_condense.documents import write_atomically
from onnx_condense.errors import InputError, first_line
from onnx_condense.model.protos import PROTOBUF_LIMIT, serialize

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A model as it came in. `proto` is never changed.

    Attributes:
        proto: the model, with external data loaded.
        sha256: of the file and of its external data files, in order of name; of the message for a model in memory.
        size: bytes on disk (external data included), or of the serialized message.
        path: the file, None for a model in memory.
        external: names of the files beside it that hold weights.
    """

    proto: onnx.ModelProto
    sha256: str
    size: int
    path: Path | None
    external: tuple[str, ...]


def load(model: str | os.PathLike[str] | onnx.ModelProto) -> Source:
    """Reads a model from a file, or takes one in memory. Raises InputError with what to do."""
    if isinstance(model, onnx.ModelProto):
        data = model.SerializeToString(deterministic=True)
        return Source(model, hashlib.sha256(data).hexdigest(), len(data), None, ())
    path = Path(model)
    if path.is_dir():
        raise InputError(f"{path} is a folder: pass an .onnx file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): check the path and its permissions") from error
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise InputError(f"{path} is not an ONNX file (or it is cut short): export the model again") from error
    if not proto.graph.node:
        raise InputError(f"{path} holds no ONNX graph: export the model again")
    _check_names(proto, path)
    _check_order(proto, path)
    digest, size = hashlib.sha256(data), len(data)
    external = sorted({_location(t) for t in proto.graph.initializer if uses_external_data(t)})
    for name in external:
        content = _external_bytes(path, name)
        digest.update(content)
        size += len(content)
    if external:
        try:
            load_external_data_for_model(proto, str(path.parent))
        except Exception as error:  # onnx raises several kinds for data that is short or out of place
            raise InputError(
                f"the external data of {path} is damaged ({first_line(error)}): export it again"
            ) from error
    return Source(proto, digest.hexdigest(), size, path, tuple(external))


def external_files(path: Path) -> tuple[str, ...]:
    """Names of the files beside a model that hold its weights; none where it cannot be read."""
    try:
        model = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError):
        return ()
    return tuple(sorted({_location(t) for t in model.graph.initializer if uses_external_data(t)}))


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


def _location(tensor: onnx.TensorProto) -> str:
    return next((str(entry.value) for entry in tensor.external_data if entry.key == "location"), "")


def _external_bytes(path: Path, name: str) -> bytes:
    try:
        return (path.parent / name).read_bytes()
    except OSError as error:
        raise InputError(f"{path} needs its external data file {name}: put it beside the model") from error


def provenance(source: Source, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a condensed model says about its making: options that are off or empty go without saying."""
    said = {name: value for name, value in options.items() if value not in (None, False, [], {})}
    return {"version": __version__, "source_sha256": source.sha256, "options": said}


def save(model: onnx.ModelProto, path: Path, external: bool = False) -> int:
    """Writes a model through a temporary file and a rename; returns the bytes written.

    Weights go to PATH.data when the source kept them outside too, or when they do not fit into one message.
    """
    if not external and model.ByteSize() < PROTOBUF_LIMIT:
        return write_atomically(path, serialize(model))
    location = path.name + ".data"
    outside = onnx.ModelProto()
    outside.CopyFrom(model)
    chunks: list[bytes] = []
    offset = 0
    for tensor in outside.graph.initializer:
        if len(tensor.raw_data) < 1024:
            continue
        data = tensor.raw_data
        chunks.append(data)
        del tensor.external_data[:]
        for key, value in (("location", location), ("offset", str(offset)), ("length", str(len(data)))):
            tensor.external_data.add(key=key, value=value)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
        offset += len(data)
    written = write_atomically(path.with_name(location), b"".join(chunks))
    return written + write_atomically(path, serialize(outside))


def copy(source: Source, target: Path) -> None:
    """Copies a model file byte for byte, its external data too where the target lies in another folder."""
    assert source.path is not None
    if source.path.absolute().parent != target.absolute().parent:
        for name in source.external:
            write_atomically(target.parent / name, _external_bytes(source.path, name))
    write_atomically(target, source.path.read_bytes())
