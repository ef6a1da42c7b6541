"""Data in every form that is taken, of the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import numpy_helper

from support.builders import Array

FLOAT = np.dtype(np.float32)


@dataclass(frozen=True)
class Port:
    """An input as readers see it."""

    name: str
    dims: tuple[int | str, ...]
    dtype: np.dtype[Any] = FLOAT


def as_npz(folder: Path, x: Array) -> str:
    np.savez(folder / "d.npz", x=x)
    return "d.npz"


def as_npy(folder: Path, x: Array) -> str:
    np.save(folder / "d.npy", x)
    return "d.npy"


def as_csv(folder: Path, x: Array) -> str:
    np.savetxt(folder / "d.csv", x, delimiter=",", fmt="%.9g")
    return "d.csv"


def as_sets(folder: Path, x: Array) -> str:
    for number, row in enumerate(x):
        (folder / f"sets/test_data_set_{number}").mkdir(parents=True)
        tensor = numpy_helper.from_array(row[None], "x")
        (folder / f"sets/test_data_set_{number}/input_0.pb").write_bytes(tensor.SerializeToString())
    return "sets"


def as_loader(folder: Path, x: Array) -> str:
    np.save(folder / "rows.npy", x)
    code = "import numpy\n\ndef rows():\n    for row in numpy.load('rows.npy'):\n"
    (folder / "loader.py").write_text(code + "        yield {'x': row[None], 'label': 0}\n")
    return "loader.py:rows"


def as_folder(folder: Path, x: Array) -> str:
    (folder / "files").mkdir()
    for number, rows in enumerate(np.array_split(x, 3)):
        np.save(folder / f"files/{number}.npy", rows)
    return "files"


FORMS: Mapping[str, Callable[[Path, Array], str]] = {
    "npz": as_npz,
    "npy": as_npy,
    "csv": as_csv,
    "sets": as_sets,
    "loader": as_loader,
    "folder": as_folder,
}
"""Functions of a folder and of samples [samples, numbers] for x, that write them there, and name them."""
