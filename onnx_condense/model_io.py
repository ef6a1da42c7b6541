"""Load and save ONNX files: the only room that turns messages into files and graphs, and back.

GraphSurgeon is the working representation. What it drops on the way (model version, domain, doc strings, metadata,
attribute kinds that it does not know, value_info) is put back here, so that only what was rewritten differs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from onnx_condense._version import __version__
from onnx_condense.errors import InputError

gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.CRITICAL

PROTOBUF_LIMIT = 2**31 - 1
"""Largest serialized message in bytes; beyond it weights must live in a file of their own."""

KINDS = onnx.AttributeProto
UNKNOWN_TO_GRAPHSURGEON = (
    KINDS.TENSORS,
    KINDS.GRAPHS,
    KINDS.SPARSE_TENSOR,
    KINDS.SPARSE_TENSORS,
    KINDS.TYPE_PROTO,
    KINDS.TYPE_PROTOS,
)
"""Attribute types that GraphSurgeon leaves out."""

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


def import_graph(proto: onnx.ModelProto) -> gs.Graph:
    """The working representation of a model. Raises InputError where GraphSurgeon cannot read it.

    It works on a copy: exporting a GraphSurgeon graph renames tensors of the message that it was imported from.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    try:
        return gs.import_onnx(copied)
    except Exception as error:  # GraphSurgeon raises whatever its reading trips over
        raise InputError(f"the graph cannot be read ({first_line(error)}): check it with onnx.checker") from error


def opset_of(imports: Iterable[onnx.OperatorSetIdProto]) -> int:
    """The version of the standard operators among the opsets of a model or function; 1 where none is stated."""
    return next((o.version for o in imports if o.domain in ("", "ai.onnx")), 1)


def unused_name(stem: str, taken: Collection[str]) -> str:
    """The stem, or with a number, as a name that no tensor has."""
    numbered = (f"{stem}_{i}" for i in range(1, len(taken) + 2))
    return next(name for name in (stem, *numbered) if name not in taken)


def first_line(error: BaseException | str) -> str:
    """The first line of an error's text, for messages of one line."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def export_graph(
    graph: gs.Graph,
    original: onnx.ModelProto,
    origin: Mapping[int, int],
    edited: Iterable[int],
    shapes: Mapping[str, tuple[int, ...]],
    provenance: Mapping[str, Any],
) -> onnx.ModelProto:
    """The message for a rewritten graph, equal to the original wherever nothing was rewritten.

    Args:
        graph: the rewritten graph.
        original: the message that `graph` was imported from.
        origin: id of a GraphSurgeon node -> its index in the original message.
        edited: ids of the nodes whose inputs or attributes changed.
        shapes: the concrete shapes of the tensors that became smaller, for value_info.
        provenance: what goes into metadata_props.
    """
    edited = set(edited)
    result = onnx.ModelProto()
    result.CopyFrom(original)
    del result.graph.node[:]
    for node in graph.nodes:
        index = origin.get(id(node))
        known = onnx.NodeProto() if index is None else original.graph.node[index]
        result.graph.node.append(known if index is not None and id(node) not in edited else _exported(node, known))
    drop_unread(result, names_read(original.graph))
    _export_initializers(graph, original, result)
    _update_value_info(result, shapes)
    for key, value in provenance.items():
        _set_metadata(
            result, f"onnx_condense.{key}", value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        )
    return result


def _exported(node: gs.Node, original: onnx.NodeProto) -> onnx.NodeProto:
    """The message for a node that changed; attributes other than numbers and new constants never do."""
    proto = onnx.NodeProto()
    proto.CopyFrom(original)
    proto.op_type, proto.name, proto.domain = node.op, node.name, node.domain or ""
    proto.input[:] = [t.name for t in node.inputs]
    proto.output[:] = [t.name for t in node.outputs]
    del proto.attribute[:]
    stated = {name: value for name, value in node.attrs.items() if _is_plain(value) or _is_new(value)}
    proto.attribute.extend(
        a
        for a in original.attribute
        if a.type in UNKNOWN_TO_GRAPHSURGEON or (a.name in node.attrs and a.name not in stated)
    )
    for name, value in stated.items():
        content = numpy_helper.from_array(value.values) if isinstance(value, gs.Constant) else value
        proto.attribute.append(onnx.helper.make_attribute(name, content))
    return proto


def _is_new(value: object) -> bool:
    """A constant that was not read from the file."""
    return isinstance(value, gs.Constant) and isinstance(value._values, np.ndarray)


def _is_plain(value: object) -> bool:
    """An integer, a float, or a list of them that is not empty."""
    values = value if isinstance(value, list | tuple) else [value]
    return bool(values) and all(isinstance(v, int | float) for v in values)


def _export_initializers(graph: gs.Graph, original: onnx.ModelProto, result: onnx.ModelProto) -> None:
    """Keeps the order and the bytes of what stays, replaces what changed, appends what is new."""
    constants = {t.name: t for t in graph.tensors().values() if isinstance(t, gs.Constant)}
    used = names_read(result.graph)
    used_before = names_read(original.graph)
    del result.graph.initializer[:]
    known = set()
    for tensor in original.graph.initializer:
        known.add(tensor.name)
        if tensor.name in used_before and tensor.name not in used:
            continue
        constant = constants.get(tensor.name)
        if constant is None or not isinstance(constant._values, np.ndarray):
            result.graph.initializer.append(tensor)
            continue
        replaced = numpy_helper.from_array(constant.values, tensor.name)
        replaced.doc_string = tensor.doc_string
        result.graph.initializer.append(replaced)
    kept = {t.name for t in result.graph.initializer}
    known |= {t.values.name for t in original.graph.sparse_initializer}
    for name, constant in constants.items():
        if name not in known and name in used:
            added = numpy_helper.from_array(constant.values, name)
            result.graph.initializer.append(added)
            if result.ir_version < 4:  # every initializer had to be an input too
                result.graph.input.append(onnx.helper.make_tensor_value_info(name, added.data_type, added.dims))
    stale = [i for i in result.graph.input if i.name in known and i.name not in kept]
    for value in stale:
        result.graph.input.remove(value)
    sizes = {t.name: tuple(t.dims) for t in result.graph.initializer}
    for value in result.graph.input:
        if value.name in sizes:
            _set_dims(value, sizes[value.name])


def names_read(graph: onnx.GraphProto) -> set[str]:
    """Names of the tensors that nodes read, in bodies too, or that are outputs."""
    names = {output.name for output in graph.output}
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                names |= names_read(body)
    return names


def drop_unread(model: onnx.ModelProto, read_before: set[str]) -> None:
    """Removes, in place, nodes and initializers that were read before and are not any more."""
    graph, count = model.graph, -1
    while len(graph.node) != count:
        count, gone = len(graph.node), read_before - names_read(graph)
        for node in [n for n in graph.node if gone.issuperset(filter(None, n.output))]:
            graph.node.remove(node)
        for tensor in [t for t in graph.initializer if t.name in gone]:
            graph.initializer.remove(tensor)


def _update_value_info(result: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    produced = {name for node in result.graph.node for name in node.output}
    kept = [value for value in result.graph.value_info if value.name in produced]
    initializers = {t.name: tuple(t.dims) for t in result.graph.initializer}
    kept += [value for value in result.graph.value_info if value.name in initializers]
    for value in kept:
        shape = shapes.get(value.name, initializers.get(value.name))
        if shape is not None:
            _set_dims(value, shape)
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del result.graph.value_info[:]
    result.graph.value_info.extend(copies)


def _set_dims(value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> None:
    """Corrects the stated sizes; symbolic ones stay, and a wrong rank is dropped rather than repeated."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return
    if len(tensor.shape.dim) != len(shape):
        tensor.ClearField("shape")
        return
    for dim, size in zip(tensor.shape.dim, shape, strict=True):
        if dim.HasField("dim_value"):
            dim.dim_value = size


def _set_metadata(model: onnx.ModelProto, key: str, value: str) -> None:
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value
            return
    model.metadata_props.add(key=key, value=value)


def provenance(source: Source, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a condensed model says about its making: options that are off or empty go without saying."""
    said = {name: value for name, value in options.items() if value not in (None, False, [], {})}
    return {"version": __version__, "source_sha256": source.sha256, "options": said}


def serialize(model: onnx.ModelProto) -> bytes:
    """Deterministic bytes of a model."""
    return bytes(model.SerializeToString(deterministic=True))


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


def write_atomically(path: Path, data: bytes) -> int:
    """Writes a file as a whole or not at all; returns its size in bytes. Raises InputError.

    A symbolic link is followed; what is no regular file (a device, a pipe) is written to as it is.
    """
    path = path.resolve()
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return len(data)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}): choose another place") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}): choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)
    return len(data)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
