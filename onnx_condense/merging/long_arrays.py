"""Long arrays of a JSON document: their bytes in base64, with their type, their shape and their sha256."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnx_condense.data.archives import read_archive
from onnx_condense.documents import check_regular
from onnx_condense.errors import PlanError

INLINE = 256
"""Arrays of at most so many numbers are lists of them."""

AnyArray = np.ndarray[Any, Any]


def put(values: Any) -> Any:
    """What stands for an array: the list of its numbers, or, where it is long, itself (`packed` makes JSON of it)."""
    array = np.asarray(values)
    return array.tolist() if array.size <= INLINE else array


def packed(array: AnyArray) -> dict[str, Any]:
    """An array of any shape as a JSON object. Raises TypeError for what is no array."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{type(array).__name__} is no array")
    data = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).tobytes()
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "sha256": hashlib.sha256(data).hexdigest(),
        "base64": base64.b64encode(data).decode(),
    }


def take(value: Any) -> Any:
    """The array, or the list of numbers, that something stands for. Raises ValueError and KeyError for what is none."""
    if not isinstance(value, dict):
        return value
    try:
        kind = np.dtype(str(value["dtype"]))
        data = base64.b64decode(value["base64"], validate=True)
    except (TypeError, binascii.Error) as error:
        raise ValueError(f"an array is no array ({error})") from error
    if kind.kind not in "fi" and kind.name != "bfloat16":
        raise ValueError(f"an array is of {kind.name}")
    if hashlib.sha256(data).hexdigest() != value["sha256"]:
        raise ValueError("an array is not the one whose sha256 is stated")
    return np.frombuffer(data, kind.newbyteorder("<")).astype(kind).reshape(value["shape"])


def row(value: Any) -> tuple[Any, ...]:
    """[n] numbers as a tuple."""
    found = take(value)
    return tuple(found.tolist() if isinstance(found, np.ndarray) else found)


def beside(document: Path, named: Mapping[str, str]) -> dict[str, AnyArray]:
    """The arrays of any shape that lie in an .npz beside a plan of format 1. Raises PlanError where they are others."""
    path = document.with_name(named["file"])
    check_regular(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PlanError(f"the plan needs its arrays {path.name} beside it ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != named["sha256"]:
        raise PlanError(f"{path.name} is not the file that the plan names: write the plan again with --plan")
    return read_archive(io.BytesIO(data), path.name, "write the plan again with --plan")


def filled(content: Any, arrays: Mapping[str, AnyArray]) -> Any:
    """A document of format 1 with its arrays (of any shape) where it names them."""
    if isinstance(content, dict) and content.keys() == {"array"}:
        return arrays[content["array"]]
    if isinstance(content, dict):
        return {name: filled(value, arrays) for name, value in content.items()}
    return [filled(value, arrays) for value in content] if isinstance(content, list) else content
