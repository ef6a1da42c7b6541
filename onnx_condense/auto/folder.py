"""What a run keeps in its folder: an append-only journal, and models under the sha256 of their bytes.

Every step is atomic. A model appears whole, by a rename, and is on the disk before the journal names it; a journal
line counts once its newline is on the disk; everything else in the folder can be made again from the two.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from onnx_condense.auto.state import Event
from onnx_condense.documents import sync, write_atomically
from onnx_condense.errors import InputError, UsageError
from onnx_condense.model import wire
from onnx_condense.model.protos import PROTOBUF_LIMIT, serialize
from onnx_condense.processes import end_orphan

JOURNAL, MODELS, LOCK, SCRATCH, RESULT, LOG = "journal.jsonl", "models", "lock", "trainer", "result.onnx", "trainer.log"
RECORD = "process"
"""Within SCRATCH: which trainer process runs."""
FAILED = ".failed"
"""Added to the log's name, it says where the output of the last call that failed is kept."""
OURS = {JOURNAL, MODELS, LOCK, SCRATCH, RESULT, LOG, LOG + FAILED}
LOCK_TRIES = 10
AGAIN = "make room and run the command again"
"""What to do about a disk that is full."""


class Folder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scratch = path / SCRATCH
        self.log = path / LOG

    # ------------------------------------------------------------------------------------------------ opening

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Makes the folder, locks it for one writer, and clears what an interrupted run left half-made.

        Raises UsageError when another run is at work in it, or when it holds other files and no run.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            sync(self.path.absolute().parent)
            names = {p.name for p in self.path.iterdir() if not _is_part(p)}
        except OSError as error:
            raise UsageError(f"--work {self.path} cannot be used ({error.strerror}): name a folder") from error
        if JOURNAL not in names and names - OURS:
            raise UsageError(f"--work {self.path} holds other files ({min(names - OURS)}): name a folder of its own")
        with self._locked():
            for place in (self.path, self.path / MODELS):
                place.mkdir(exist_ok=True)
                for part in filter(_is_part, place.iterdir()):
                    part.unlink()
            end_orphan(self.scratch / RECORD)
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.scratch.mkdir()
            self._drop_torn_line()
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UsageError(f"--work {self.path} cannot be written ({error.strerror}): check whose it is") from error
        try:
            for left in range(LOCK_TRIES, -1, -1):  # --status holds it for a moment
                if _lock(handle):
                    break
                time.sleep(0.05 if left else 0)
            else:
                raise UsageError(f"another run is at work in {self.path}: wait for it, or watch it with --status")
            yield
        finally:
            os.close(handle)

    def busy(self) -> bool:
        """Whether a run is at work here now."""
        try:
            handle = os.open(self.path / LOCK, os.O_RDWR)
        except OSError:
            return False
        try:
            return not _lock(handle)
        finally:
            os.close(handle)

    # ------------------------------------------------------------------------------------------------ journal

    def events(self) -> list[dict[str, Any]]:
        """The journal's lines, oldest first; a last line that is cut short does not count. Raises InputError."""
        try:
            lines = (self.path / JOURNAL).read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"cannot read the journal in {self.path} ({error.strerror}): check --work") from error
        found = []
        for number, line in enumerate(lines[:-1], 1):
            event = _parsed(line)
            if event is None:
                if number == len(lines) - 1:
                    break
                raise InputError(
                    f"line {number} of {self.path / JOURNAL} is damaged: restore it, or start a new --work"
                )
            found.append(event)
        return found

    def append(self, event: Event) -> dict[str, Any]:
        """Adds a line, with the time; when this returns, it is on the disk. Raises InputError."""
        line = dict(event) | {"at": round(time.time(), 3)}
        data = (json.dumps(line, allow_nan=False) + "\n").encode()
        path = self.path / JOURNAL
        new = not path.exists()
        try:
            with open(path, "ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if new:
                sync(self.path)
        except OSError as error:
            raise InputError(f"cannot write {path} ({error.strerror}): {AGAIN}") from error
        return line

    def _drop_torn_line(self) -> None:
        """Cuts off what follows the last whole line."""
        path = self.path / JOURNAL
        if not path.exists():
            return
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        last = whole[:-1].rfind(b"\n") + 1
        if whole and _parsed(whole[last:-1]) is None:
            whole = whole[:last]
        if len(whole) < len(data):
            with open(path, "r+b") as file:
                file.truncate(len(whole))
                os.fsync(file.fileno())

    # ------------------------------------------------------------------------------------------------ models

    def put(self, model: onnx.ModelProto) -> str:
        """Stores a model, weights included, and returns the sha256 of its bytes. Raises InputError."""
        if wire.size(model) >= PROTOBUF_LIMIT:
            raise InputError("the model is larger than 2 GB: the loop keeps models in one file each; split it")
        data = serialize(model)
        digest = hashlib.sha256(data).hexdigest()
        path = self._model(digest)
        if not path.exists():
            self._write(path, data)
        return digest

    def bytes_of(self, digest: str) -> bytes:
        """A stored model's bytes. Raises InputError where it is missing or damaged."""
        path = self._model(digest)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} is missing ({error.strerror}): restore it, or start a new --work") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise InputError(f"{path} is damaged: restore it, or start a new --work")
        return data

    def get(self, digest: str) -> onnx.ModelProto:
        """A stored model. Raises InputError where it is missing or damaged."""
        model = onnx.ModelProto()
        model.ParseFromString(self.bytes_of(digest))
        return model

    def prune(self, keep: Collection[str]) -> None:
        """Removes every stored model but these."""
        for path in (self.path / MODELS).iterdir():
            if path.stem not in keep:
                path.unlink()

    def publish(self, digest: str) -> None:
        """Makes RESULT a copy of a stored model."""
        self._write(self.path / RESULT, self.bytes_of(digest))

    def _write(self, path: Path, data: bytes) -> None:
        try:
            write_atomically(path, data)
        except InputError as error:
            raise InputError(f"{str(error).rpartition(':')[0]}: {AGAIN}") from error

    def _model(self, digest: str) -> Path:
        return self.path / MODELS / f"{digest}.onnx"


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and isinstance(content.get("event"), str) else None


def _is_part(path: Path) -> bool:
    """What `write_atomically` leaves when it is killed."""
    return path.name.startswith(".") and path.name.endswith(".part")


def _lock(handle: int) -> bool:
    try:
        import fcntl
    except ImportError as error:
        raise UsageError("auto needs the file locks of Linux or macOS: run it there, or in WSL") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
