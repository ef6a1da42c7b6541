"""JSON documents: their head, what a number may be in them, and files that appear as a whole or not at all."""

from __future__ import annotations

import math
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnxruntime

from onnx_condense._version import __version__
from onnx_condense.errors import InputError

Bytes = bytes | memoryview
"""What is written."""

PART = ".onnx-condense.part"
"""How the name of a file ends that is not whole yet."""

KINDS: Mapping[str, Callable[[int], bool]] = {
    "a pipe": stat.S_ISFIFO,
    "a socket": stat.S_ISSOCK,
    "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
}
"""What is no file, by the mode that the system states."""

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
"""How it is opened: where there is none, and, on Windows too, byte for byte."""


def head(kind: str, version: int) -> dict[str, Any]:
    """How every document begins: its format and version, the tool that wrote it, and with which libraries."""
    return {
        "format": f"onnx-condense-{kind}",
        "version": version,
        "tool": {"name": "onnx-condense", "version": __version__},
        "host": {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
    }


def check_regular(path: Path) -> None:
    """Raises InputError for what is there and cannot be read to an end, as pipes, sockets and devices."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # said by who reads it
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = next((word for word, holds in KINDS.items() if holds(mode)), "something else")
        raise InputError(
            f"{path} is {kind}, not a file: pass - to pipe a model in, or write to a file what comes there"
        )


def write_atomically(path: Path, data: bytes) -> int:
    """Writes a file as a whole or not at all; returns its size in bytes. Raises InputError.

    A symbolic link is followed; what is no regular file (a device, a pipe) is written to as it is. The permissions of a
    file that is replaced stay.
    """
    with written(path, [data]) as size:
        return size


@contextmanager
def written(path: Path, chunks: Iterable[Bytes], like: Path | None = None) -> Iterator[int]:
    """Writes a file as `write_atomically` does, and holds it: while the block runs, no other run takes it for litter.

    Args:
        path: of the file.
        chunks: what it holds, one after the other.
        like: the file whose permissions it gets where there is one, else `path` itself.

    Raises:
        InputError: it cannot be written.
    """
    with ExitStack() as stack:
        try:
            if path.exists() and not path.is_file():
                with open(path, "wb") as file:
                    size = sum(map(file.write, chunks))
            else:
                path = Path(os.path.realpath(path))
                size = _write(stack, path, chunks, _permissions(like or path))
        except OSError as error:
            raise InputError(f"cannot write {path} ({error.strerror}): choose another place") from error
        yield size


def _write(stack: ExitStack, path: Path, chunks: Iterable[Bytes], permissions: int) -> int:
    _clear_litter(path)
    file, part = _part(stack, path.parent)
    size = sum(map(file.write, chunks))
    file.flush()
    os.fsync(file.fileno())
    os.chmod(part, permissions)
    if os.name == "nt":  # where no open file is renamed
        file.close()
    os.replace(part, path)
    sync(path.parent)
    return size


def _part(stack: ExitStack, folder: Path) -> tuple[BinaryIO, Path]:
    """A new file in a folder, held until the stack unwinds; then, if it still has this name, it goes."""
    for last in (False, False, True):
        part = folder / f".{secrets.token_hex(8)}{PART}"
        stack.callback(part.unlink, missing_ok=True)
        file = stack.enter_context(os.fdopen(os.open(part, NEW, 0o600), "wb"))
        if (hold(file.fileno()) and part.exists()) or last:  # else another run took it for litter before it was held
            return file, part
    raise AssertionError("the last one is taken as it is")


def _permissions(path: Path) -> int:
    """Those of a file, or what a new one gets."""
    if path.is_file():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _clear_litter(path: Path) -> None:
    """Removes what killed runs left beside a file, half-written."""
    earlier = re.compile(rf"\.{re.escape(path.name)}\.\w{{8}}\.part")  # as version 0.1 named it
    with suppress(OSError), os.scandir(path.parent) as entries:  # a folder may be for writing only
        for entry in list(entries):
            ours = entry.name.startswith(".") and entry.name.endswith(PART)
            if (ours or earlier.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                remove_unheld(path.parent / entry.name)


def remove_unheld(path: Path) -> None:
    """Removes a file, unless a running process holds it or it cannot be removed."""
    with suppress(OSError), open(path, "rb") as file:
        if hold(file.fileno()):
            path.unlink()


def hold(handle: int) -> bool:
    """Locks an open file until it is closed; False where another process holds it, or where there are no such locks."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sync(folder: Path) -> None:
    """Puts a folder's entries on the disk, so that a rename in it survives a power cut, where a system can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def finite(value: Any) -> Any:
    """JSON values with null for every number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value
