"""What a smaller Magika still says of files, as `tools/compare_real.py` asks it: of this machine's own files.

    python tools/magika/score.py NET MODEL [ORIGINAL]          a JSON line: of test files, what is kept
    python tools/magika/score.py NET --calibration N OUT.npz   N other files, as the model reads them

NET: any name; the model is fast_v2_1 (google/magika, Apache 2.0): the first and last 512 bytes of a file, white space
stripped, 256 where there are none, and 213 kinds of files. The files: a few of each suffix below FOLDERS, of which
every other one is for calibration. They have no labels: with ORIGINAL the kinds that it names count.
"""

from __future__ import annotations

import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

FOLDERS = (Path(sysconfig.get_paths()["stdlib"]), Path("/usr/share"), Path("/usr/lib"))
EACH, LEAST = 24, 64
"""Files of a suffix; and bytes of a file."""

PART, BLOCK, NOTHING = 512, 4096, 256
"""Bytes of each end that are read, the bytes in which white space is stripped, and what stands for no byte."""

Array = np.ndarray[Any, Any]


def features(content: bytes) -> Array:
    """[1024] both ends of a file."""
    found = np.full(2 * PART, NOTHING, dtype=np.int32)
    first, last = content[:BLOCK].lstrip()[:PART], content[-BLOCK:].rstrip()[-PART:]
    found[: len(first)] = list(first)
    found[2 * PART - len(last) :] = list(last)
    return found


def files(part: int) -> Iterator[Path]:
    """Every other one of them, from the first or the second on, suffixes in turn."""
    kinds: dict[str, list[Path]] = {}
    for folder in FOLDERS:
        for path in sorted(folder.rglob("*.*")):
            kind = kinds.setdefault(path.suffix.lower(), [])
            if len(kind) < EACH and path.is_file() and path.stat().st_size >= LEAST:
                kind.append(path)
    mine = [kind[part::2] for _, kind in sorted(kinds.items())]
    for turn in range(EACH):
        yield from (kind[turn] for kind in mine if turn < len(kind))


def read(part: int) -> Array:
    """[n, 1024] what there is of a part, each once."""
    return np.unique([features(path.read_bytes()) for path in files(part)], axis=0)


def outputs(model: str, inputs: Array) -> Array:
    """[n, 213] probabilities."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    parts = np.array_split(inputs, max(1, len(inputs) // 32))
    return np.concatenate([session.run(None, {session.get_inputs()[0].name: part})[0] for part in parts])


def main() -> None:
    """Prints or writes what is asked for."""
    _, first, *rest = sys.argv[1:]
    if first == "--calibration":
        np.savez(rest[1], bytes=np.random.default_rng(0).permutation(read(0))[: int(rest[0])])
        return
    tests = read(1)
    made = outputs(first, tests)
    found: dict[str, float] = {"files": len(tests), "sure": float(made.max(1).mean())}
    if rest:
        original = outputs(rest[0], tests)
        found["agreement"] = 100 * float((made.argmax(1) == original.argmax(1)).mean())
        found["relative_l2"] = float(np.linalg.norm(made - original) / np.linalg.norm(original))
        found["kinds"] = len(np.unique(original.argmax(1)))
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
