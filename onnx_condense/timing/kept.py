"""What was measured on this host before: seconds by a digest of what was timed, in the folder for caches."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import psutil

from onnx_condense.documents import head, write_atomically
from onnx_condense.errors import InputError
from onnx_condense.expected import is_number

_log = logging.getLogger(__name__)

VERSION = 4
"""Part of the name: what was measured in another way is not read."""

NUMBERS = 5
"""Of each measurement: see `kernels.Taken`."""

PLACE = "ONNX_CONDENSE_CACHE"
"""The variable that names another folder; empty: nothing is kept."""


def machine() -> dict[str, str]:
    """What measurements depend on."""
    return {
        "processor": _processor(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": str(psutil.cpu_count() or 1),
        "onnxruntime": onnxruntime.__version__,
    }


def folder() -> Path | None:
    """The folder for caches; None where nothing is kept."""
    named = os.environ.get(PLACE)
    if named is not None:
        return Path(named) if named else None
    home = Path(os.path.expanduser("~"))
    if sys.platform == "darwin":
        base = home / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "onnx-condense" if base.is_absolute() else None


@dataclass(frozen=True)
class Kept:
    """The measurements of this host with so many threads.

    path: of the file; None where nothing is kept.
    """

    path: Path | None

    @staticmethod
    def of(threads: int) -> Kept:
        """Those in the folder for caches."""
        place = folder()
        digest = hashlib.sha256(json.dumps([VERSION, machine(), threads]).encode()).hexdigest()
        return Kept(place / f"costs-{digest[:16]}.json" if place is not None else None)

    def read(self) -> dict[str, tuple[float, ...]]:
        """What was measured by what was timed; nothing where there is no such file, or a damaged one."""
        if self.path is None:
            return {}
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))["seconds"]
            return {str(key): tuple(map(float, row)) for key, row in found.items() if _is_row(row)}
        except (OSError, ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError):
            return {}

    def add(self, seconds: Mapping[str, Sequence[float]]) -> None:
        """Writes more beside what is there by now; where that cannot be, it is measured again the next time."""
        if self.path is None or not seconds:
            return
        content = head("measured", VERSION) | {"machine": machine(), "seconds": {**self.read(), **seconds}}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, json.dumps(content).encode())
        except (OSError, InputError) as error:
            _log.info("what was measured is not kept: %s", error)


def _is_row(row: object) -> bool:
    return isinstance(row, list) and len(row) == NUMBERS and all(is_number(one) and one >= 0 for one in row)


def _processor() -> str:
    """Its name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware")))
    return next(named, platform.processor())
