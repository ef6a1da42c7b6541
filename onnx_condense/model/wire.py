"""Messages as they lie in files: read without the numbers of large tensors, written and measured bit by bit.

What protobuf would write is written, byte for byte; but no message holds the weights, and none is made to be measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import onnx
from google.protobuf.message import Message

from onnx_condense.documents import Bytes
from onnx_condense.model.held import LEAST, byte_count, content, forget, holds, is_held

GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = (
    onnx.TensorProto.DESCRIPTOR.fields_by_name[name].number for name in ("raw_data", "external_data", "data_location")
)
"""Numbers of fields."""

FIXED = {1: 8, 5: 4}
"""Wire type -> bytes of its values."""

VARINT, BYTES = 0, 2
"""Wire types of numbers, and of what has a length."""


class Malformed(Exception):
    """Bytes that are no message, or one that is written in an unusual way."""


class Field(NamedTuple):
    """One field of a message: from `start` to `end`, its content from `content` on."""

    number: int
    kind: int
    start: int
    content: int
    end: int


def fields(data: Bytes, start: int, end: int) -> Iterator[Field]:
    """The fields of a message that lies in some bytes. Raises Malformed."""
    while start < end:
        tag, place = _varint(data, start, end)
        number, kind = tag >> 3, tag & 7
        if kind == BYTES:
            length, place = _varint(data, place, end)
            stop = place + length
        elif kind == VARINT:
            _, stop = _varint(data, place, end)
        elif kind in FIXED:
            stop = place + FIXED[kind]
        else:
            raise Malformed
        if stop > end or not number:
            raise Malformed
        yield Field(number, kind, start, place, stop)
        start = stop


def _varint(data: Bytes, start: int, end: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for place in range(start, min(start + 10, end)):
        byte = data[place]
        value |= (byte & 127) << 7 * (place - start)
        if byte < 128:
            return value, place + 1
    raise Malformed


class Outline(NamedTuple):
    """A model without the numbers of some tensors. holes: index of the initializer -> where they are, from and to."""

    model: bytes
    holes: dict[int, tuple[int, int]]


def outline(data: Bytes) -> Outline:
    """What is left of a serialized model without large raw tensors of its graph. Raises Malformed."""
    holes: dict[int, tuple[int, int]] = {}
    parts: list[Bytes] = []
    graphs = 0
    for field in fields(data, 0, len(data)):
        if field.number != GRAPH:
            parts.append(data[field.start : field.end])
            continue
        graphs += 1
        inner = b"".join(_graph(data, field, holes))
        parts += [_head(GRAPH, len(inner)), inner]
    if graphs != 1:
        raise Malformed
    return Outline(b"".join(parts), holes)


def _graph(data: Bytes, graph: Field, holes: dict[int, tuple[int, int]]) -> Iterator[Bytes]:
    count = 0
    for field in fields(data, graph.content, graph.end):
        if field.number != INITIALIZER:
            yield data[field.start : field.end]
            continue
        raw = _raw(data, field)
        if raw is None:
            yield data[field.start : field.end]
        else:
            before, after = data[field.content : raw.start], data[raw.end : field.end]
            yield from (_head(INITIALIZER, len(before) + len(after)), before, after)
            holes[count] = raw.content, raw.end
        count += 1


def _raw(data: Bytes, tensor: Field) -> Field | None:
    """The numbers of a tensor where they are many, and all of them there."""
    if tensor.end - tensor.content < LEAST:
        return None
    found = [*fields(data, tensor.content, tensor.end)]
    raw = [field for field in found if field.number == RAW_DATA]
    places = [field for field in found if field.number in (EXTERNAL_DATA, DATA_LOCATION)]
    elsewhere = any(field.number == EXTERNAL_DATA or data[field.end - 1] for field in places)
    return raw[0] if len(raw) == 1 and not elsewhere and raw[0].end - raw[0].content >= LEAST else None


def _head(number: int, length: int) -> bytes:
    """What a field of this length begins with."""
    return _number(number << 3 | BYTES) + _number(length)


def _number(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def pieces(model: onnx.ModelProto) -> list[Bytes]:
    """The deterministic bytes of a model, held numbers in their places, one piece after the other."""
    if not holds(model):
        return [model.SerializeToString(deterministic=True)]
    outer, graph = onnx.ModelProto(), onnx.GraphProto()
    outer.CopyFrom(model)
    graph.CopyFrom(outer.graph)
    outer.ClearField("graph")
    graph.ClearField("initializer")
    tensors = [piece for tensor in model.graph.initializer for piece in _framed(INITIALIZER, _tensor(tensor))]
    before, after = _split(graph, INITIALIZER)
    inner = [before, *tensors, after]
    before, after = _split(outer, GRAPH)
    return [before, *_framed(GRAPH, inner), after]


def _tensor(tensor: onnx.TensorProto) -> list[Bytes]:
    if not is_held(tensor):
        return [tensor.SerializeToString(deterministic=True)]
    stated = onnx.TensorProto()
    stated.CopyFrom(tensor)
    forget(stated)
    before, after = _split(stated, RAW_DATA)
    return [before, *_framed(RAW_DATA, [content(tensor)]), after]


def _framed(number: int, inner: Sequence[Bytes]) -> list[Bytes]:
    return [_head(number, sum(map(len, inner))), *inner]


def _split(message: Any, number: int) -> tuple[bytes, bytes]:
    """The bytes of a message before and after a field that is not there."""
    data = message.SerializeToString(deterministic=True)
    place = next((field.start for field in fields(data, 0, len(data)) if field.number > number), len(data))
    return data[:place], data[place:]


def size(model: onnx.ModelProto) -> int:
    """Bytes of a model once it is written, held numbers in their places; tensor by tensor, node by node."""
    return sum(_size(field, value) for field, value in model.ListFields())


def _size(field: Any, value: Any) -> int:
    """Bytes of a field of a model or a graph."""
    if field.message_type is None:
        only = onnx.ModelProto() if field.containing_type is onnx.ModelProto.DESCRIPTOR else onnx.GraphProto()
        setattr(only, field.name, value)
        return int(only.ByteSize())
    messages = [value] if isinstance(value, Message) else value
    return sum(_whole(field.number, _inner(message)) for message in messages)


def _inner(message: Any) -> int:
    if isinstance(message, onnx.GraphProto):
        return sum(_size(field, value) for field, value in message.ListFields())
    if isinstance(message, onnx.TensorProto) and (is_held(message) or message.HasField("raw_data")):
        return _stated_size(message)
    return int(message.ByteSize())


def _stated_size(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor whose numbers are raw, by what it says of itself."""
    count = byte_count(tensor)
    if count < LEAST:
        return int(tensor.ByteSize())
    said = onnx.TensorProto(dims=tensor.dims, external_data=tensor.external_data)
    for name in ("name", "doc_string", "data_type", "data_location"):
        if tensor.HasField(name):
            setattr(said, name, getattr(tensor, name))
    if is_held(tensor):
        forget(said)
    return int(said.ByteSize()) + _whole(RAW_DATA, count)


def _whole(number: int, length: int) -> int:
    return _digits(number << 3 | BYTES) + _digits(length) + length


def _digits(value: int) -> int:
    """Bytes that a number takes, as `_number` writes it."""
    return max(1, -(-value.bit_length() // 7))
