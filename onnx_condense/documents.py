"""JSON documents: their head, what a number may be in them, and files that appear as a whole or not at all."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from onnx_condense._version import __version__
from onnx_condense.errors import InputError


def head(kind: str, version: int) -> dict[str, Any]:
    """How every document begins: its format and version, the tool that wrote it, and with which libraries."""
    return {
        "format": f"onnx-condense-{kind}",
        "version": version,
        "tool": {"name": "onnx-condense", "version": __version__},
        "host": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
    }


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


def finite(value: Any) -> Any:
    """JSON values with null for every number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
