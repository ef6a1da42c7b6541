"""Completion of command lines, as argcomplete's scripts for bash, zsh and fish ask for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("argcomplete")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("onnx-condense ins", {"inspect"}),
        ("onnx-condense b", {"bench", "b.onnx"}),
        ("onnx-condense inspect --inc", {"--include"}),
        ("onnx-condense b.onnx --merge d", {"delete"}),
    ],
)
def test_what_may_follow(tmp_path: Path, line: str, found: set[str]) -> None:
    (tmp_path / "b.onnx").touch()
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    environment = os.environ | asked | {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "found")}
    command = [sys.executable, "-m", "onnx_condense"]
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert set((tmp_path / "found").read_text().replace("\013", " ").split()) == found
