"""Long arrays of a JSON document: in it they are named, beside it they lie in an .npz whose sha256 it states."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnx_condense.documents import check_regular, write_atomically
from onnx_condense.errors import PlanError
from onnx_condense.model.archives import read_archive

INLINE = 256
"""Longer arrays go beside the document."""

AnyArray = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Beside:
    """The arrays beside a document, by name."""

    arrays: dict[str, AnyArray] = field(default_factory=dict)

    def put(self, name: str, values: Any) -> Any:
        """What stands in the document for an array: its numbers, or, where it is long, its name."""
        array = np.asarray(values)
        if array.size <= INLINE:
            return array.tolist()
        self.arrays[name] = array
        return {"array": name}

    def take(self, value: Any) -> Any:
        """The array, or the list of numbers, for which something stands in the document."""
        return self.arrays[value["array"]] if isinstance(value, dict) else value

    def row(self, value: Any) -> tuple[Any, ...]:
        """[n] numbers as a tuple."""
        found = self.take(value)
        return tuple(found.tolist() if isinstance(value, dict) else found)

    def save(self, path: Path) -> Mapping[str, str]:
        """Writes the arrays, and says by what a document names the file. Raises InputError."""
        buffer = io.BytesIO()
        np.savez(buffer, **self.arrays)  # type: ignore[arg-type]
        data = buffer.getvalue()
        write_atomically(path, data)
        return {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}

    @staticmethod
    def load(path: Path, digest: str) -> Beside:
        """Reads the arrays that a document names. Raises PlanError where they are not those."""
        check_regular(path)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise PlanError(f"the plan needs its arrays {path.name} beside it ({error.strerror})") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise PlanError(f"{path.name} is not the file that the plan names: write the plan again with --plan")
        return Beside(read_archive(io.BytesIO(data), path.name, "write the plan again with --plan"))
