"""What was measured on this host before: seconds by a digest of what was timed, in the folder for caches."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import psutil

from onnx_condense.documents import head, write_atomically
from onnx_condense.errors import InputError
from onnx_condense.expected import is_number

_log = logging.getLogger(__name__)

VERSION = 1

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
        digest = hashlib.sha256(json.dumps([machine(), threads]).encode()).hexdigest()
        return Kept(place / f"costs-{digest[:16]}.json" if place is not None else None)

    def read(self) -> dict[str, float]:
        """Seconds by what was timed; nothing where there is no such file, or a damaged one."""
        if self.path is None:
            return {}
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))["seconds"]
            return {str(key): float(value) for key, value in found.items() if is_number(value) and value >= 0}
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            return {}

    def add(self, seconds: Mapping[str, float]) -> None:
        """Writes more beside what is there by now; where that cannot be, it is measured again the next time."""
        if self.path is None or not seconds:
            return
        content = head("measured", VERSION) | {"machine": machine(), "seconds": self.read() | dict(seconds)}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, json.dumps(content, indent=1).encode())
        except (OSError, InputError) as error:
            _log.info("what was measured is not kept: %s", error)


def _processor() -> str:
    """Its name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware")))
    return next(named, platform.processor())
