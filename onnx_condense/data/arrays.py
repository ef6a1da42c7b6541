"""Arrays that numpy wrote: .npz by name, .npy for a model of one input."""

from __future__ import annotations

import os
from collections.abc import Sequence

from onnx_condense.data.archives import contents, read_archive, read_array
from onnx_condense.data.wanted import Batch, Wanted, holds, lacking, names_of, only
from onnx_condense.errors import InputError


def read_named(path: str | os.PathLike[str], wanted: Sequence[Wanted]) -> list[Batch]:
    """The arrays of an .npz. Raises InputError."""
    advice = f"pass an .npz with one array per input ({names_of(wanted)})"
    names = [one.name for one in wanted]
    try:
        with open(path, "rb") as file:
            found = read_archive(file, str(path), advice, names)
            missing = [name for name in names if name not in found]
            if missing:
                raise lacking(str(path), missing[0], holds(contents(file)), wanted)
    except OSError as error:
        raise InputError(f"cannot read {path}: {advice}") from error
    return [Batch(str(path), found)]


def read_one(path: str | os.PathLike[str], wanted: Sequence[Wanted]) -> list[Batch]:
    """The array of an .npy. Raises InputError."""
    one = only(wanted, str(path), "an array")
    advice = f"pass an .npy with an array for {one.name}, samples on axis 0"
    try:
        with open(path, "rb") as file:
            return [Batch(str(path), {one.name: read_array(file, str(path), advice)})]
    except OSError as error:
        raise InputError(f"cannot read {path}: {advice}") from error
