"""A page of the documentation that is run: its commands, its programs, and the files that it shows."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.cli import Cli

BLOCK = re.compile(r'^```(sh|python)(?: title="([^"]+)")?\n(.*?)^```', re.S | re.M)


@dataclass(frozen=True)
class Block:
    """Code on a page: its language, the file that it is, and the text."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    """What a page shows that runs."""
    return [Block(*found) for found in BLOCK.findall(page.read_text())]


def commands(text: str) -> list[list[str]]:
    """The commands of a block, without comments."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run(page: Path, cli: Cli, names: dict[str, Any], instead: Mapping[str, str] | None = None) -> int:
    """Runs a page in the folder of `cli`; returns how many commands and programs ran.

    names: what its programs see. instead: texts in the place of others, where a reader would wait longer.
    """
    ran = 0
    with _ended() as background:
        for block in blocks(page):
            text = block.text
            for old, new in (instead or {}).items():
                text = text.replace(old, new)
            if block.title:
                Path(block.title).write_text(text)
            elif block.language == "python":
                with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                    warnings.simplefilter("ignore")
                    exec(text, names)
                ran += 1
            else:
                ran += sum(_command(words, cli, background) for words in commands(text))
    return ran


@contextlib.contextmanager
def _ended() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Programs that are ended at the end."""
    programs: list[subprocess.Popen[bytes]] = []
    try:
        yield programs
    finally:
        for program in reversed(programs):
            program.terminate()
            program.wait()


def _command(words: list[str], cli: Cli, background: list[subprocess.Popen[bytes]]) -> int:
    """Runs a command that is ours, a program in Python, or one in the background; what installs is not run."""
    if words[0] == "pip":
        return 0
    if words[0] == "onnx-condense":
        done = cli.run(*words[1:])
        assert done.code == 0, (words, done.err)
    elif words[-1] == "&":
        words[0] = os.path.join(os.path.dirname(sys.executable), words[0])
        background.append(subprocess.Popen(words[:-1], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    else:
        assert words[0] == "python", words
        made = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=False)
        assert made.returncode == 0, (words, made.stderr)
    return 1
