"""Inputs as the ONNX backend tests and the model zoo have them: test_data_set_N/input_K.pb."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from onnx_condense.arrays import Array
from onnx_condense.data.sources import tensor_folders
from onnx_condense.data.wanted import Batch, Wanted, listed, only, wants
from onnx_condense.errors import InputError
from onnx_condense.trust import takes_in


def read(path: str | os.PathLike[str], wanted: Sequence[Wanted]) -> list[Batch]:
    """Each set of tensors is a run of the model [1, ...], or a file is one for the only input. Raises InputError."""
    place = os.fspath(path)
    if not os.path.isdir(place):
        one = only(wanted, place, "a tensor")
        return [Batch(place, {one.name: _tensor(Path(place))[1][None]})]
    return [_set(Path(folder), wanted) for folder in tensor_folders(place)]


def _set(folder: Path, wanted: Sequence[Wanted]) -> Batch:
    """The tensors of a folder, by their names where all inputs are among them, else in the order of the inputs."""
    files = {int(m[1]): path for path in folder.iterdir() if (m := re.fullmatch(r"input_(\d+)\.pb", path.name))}
    tensors = [_tensor(files[number]) for number in sorted(files)]
    named = dict(tensors)
    if not all(one.name in named for one in wanted):
        if len(tensors) != len(wanted):
            held = listed(f"{path.name} ({name})" for path, name in zip(files.values(), named, strict=False))
            raise InputError(f"{folder} holds {held}; the model wants {wants(wanted)}: one input_N.pb for each")
        named = {one.name: array for one, (_, array) in zip(wanted, tensors, strict=True)}
    return Batch(str(folder), {one.name: named[one.name][None] for one in wanted})


def _tensor(path: Path) -> tuple[str, Array]:
    """The name and the numbers of any shape of a tensor in a file. Raises InputError."""
    tensor = onnx.TensorProto()
    try:
        takes_in(path.stat().st_size)
        tensor.ParseFromString(path.read_bytes())
        if tensor.data_location == onnx.TensorProto.EXTERNAL or not tensor.data_type:
            raise InputError(f"{path} holds no tensor: pass one with its numbers")
        return tensor.name, numpy_helper.to_array(tensor)
    except (OSError, DecodeError, ValueError, TypeError) as error:
        raise InputError(f"cannot read {path}, which is no tensor of ONNX: write it again") from error
