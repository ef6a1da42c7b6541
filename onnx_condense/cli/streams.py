"""Standard output and standard error: what is printed reaches them as text that they can show, or says why not."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from onnx_condense.errors import InputError, visible

PROGRAM = "onnx-condense"

PLAIN = str.maketrans({"→": "->", "…": "...", "×": "x", "·": "*", "≤": "<=", "≥": ">=", "²": "2", "\u2013": "-"})
"""How characters of ours are written where an encoding lacks them."""


def fitting(text: str, encoding: str) -> str:
    """A text with what an encoding lacks in other characters, or written out."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    return text


@dataclass(frozen=True)
class Stream:
    """A standard stream, by its name in `sys`. A pipe that its reader closed takes everything, and says nothing."""

    name: str

    @property
    def encoding(self) -> str:
        """In which it takes text."""
        return getattr(self._stream(), "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        stream = self._stream()
        return stream is not None and bool(stream.isatty())

    def write(self, text: str) -> int:
        """Writes a text at once, lines of what is no terminal without trailing blanks. Raises InputError for stdout."""
        if not self.isatty():
            text = re.sub(r"[ \t]+(?=\n)", "", text)
        stream = self._stream()
        if stream is None:
            return len(text)
        try:
            stream.write(fitting(text, self.encoding))
            stream.flush()
        except OSError as error:
            self._let_go()
            if self.name == "stdout":
                _check(error)
        return len(text)

    def write_bytes(self, chunks: Iterable[bytes]) -> None:
        """Writes bytes as they are. Raises InputError."""
        if self._stream() is None:
            raise InputError("standard output is closed: name a file")
        try:
            with open(os.dup(self.fileno()), "wb") as file:
                file.writelines(chunks)
        except OSError as error:
            _check(error)

    def fileno(self) -> int:
        """Its number."""
        return int(self._stream().fileno())

    def _stream(self) -> Any:
        """The stream itself, where a live display stands before it; None where there is none."""
        stream = getattr(sys, self.name)
        return getattr(stream, "rich_proxied_file", stream)

    def flush(self) -> None:
        """Nothing is held back."""

    def _let_go(self) -> None:
        """What follows, and what is still held back, goes nowhere."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)


def _check(error: OSError) -> None:
    """Raises InputError, unless nobody reads on."""
    if not isinstance(error, BrokenPipeError):
        raise InputError(f"cannot write to standard output ({error.strerror}): send it elsewhere") from error


STDOUT, STDERR = Stream("stdout"), Stream("stderr")


def complain(kind: str, message: str) -> None:
    """Prints an error or a warning, one line."""
    STDERR.write(f"{PROGRAM}: {kind}: {visible(message)}\n")
