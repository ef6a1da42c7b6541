"""Runs a model on feeds: a large one in a process of its own (`python -m onnx_condense.model.apart`).

So its memory is free again when its outputs are there, and where onnxruntime itself dies, this run goes on.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from onnx_condense.errors import InputError
from onnx_condense.model import wire
from onnx_condense.model.inputs import Feed
from onnx_condense.model.runtime import released, run, session, to_bytes

APART_FROM = 2**30
"""Bytes of a model from which it is run in a process of its own."""

Values = dict[str, Any]
"""Output name -> what onnxruntime gives."""


def outputs(model: onnx.ModelProto, feeds: Sequence[Feed], optimize: bool = True) -> list[Values]:
    """The outputs of a model, feed by feed. Raises InputError."""
    if wire.size(model) < APART_FROM:
        return here(model, feeds, optimize)
    with tempfile.TemporaryDirectory(prefix="onnx-condense-") as name:
        job, result = Path(name, "job"), Path(name, "result")
        with open(job, "wb") as file:
            pickle.dump((to_bytes(model), list(feeds), optimize), file)
        paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(job), str(result)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
            raise InputError(f"onnxruntime died of the model ({how}): is there memory for a copy of it?")
        with open(result, "rb") as file:
            found: list[Values] | str = pickle.load(file)
    if isinstance(found, str):
        raise InputError(found)
    return found


def here(model: onnx.ModelProto | bytes, feeds: Sequence[Feed], optimize: bool) -> list[Values]:
    """The outputs of a model that runs in this process, feed by feed. Raises InputError."""
    active = session(model, optimize=optimize)
    names = [output.name for output in active.get_outputs()]
    return [dict(zip(names, map(released, run(active, names, feed)), strict=True)) for feed in feeds]


def _work(job: Path, result: Path) -> None:
    """Does a job that lies in a file; what comes out, or why nothing does, goes to another one."""
    with open(job, "rb") as file:
        model, feeds, optimize = pickle.load(file)
    found: list[Values] | str
    try:
        found = here(model, feeds, optimize)
    except InputError as error:
        found = str(error)
    with open(result, "wb") as file:
        pickle.dump(found, file)


if __name__ == "__main__":
    _work(*map(Path, sys.argv[1:]))
