"""Completion of command lines in bash, zsh and fish, by argcomplete (extra `completion`)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from onnx_condense.cli.arguments import COMPLETE
from onnx_condense.cli.commands import COMMANDS


def complete() -> None:
    """Prints what may follow, and ends the process; returns where the extra is missing."""
    try:
        import argcomplete
        from argcomplete.completers import FilesCompleter
    except ImportError:
        return
    skipped = int(os.environ[COMPLETE])
    words = os.environ.get("COMP_LINE", "").split(" ")[skipped:]
    name = words[0] if len(words) > 1 and words[0] in COMMANDS else ""
    if name:
        os.environ[COMPLETE] = str(skipped + 1)
    parser = COMMANDS[name].parser()

    def begin(prefix: str, **given: Any) -> Iterable[str]:
        commands = [word for word in COMMANDS if word.startswith(prefix)] if len(words) == 1 else []
        return [*filter(None, commands), *FilesCompleter(["onnx"])(prefix, **given)]

    for action in parser.places:
        vars(action)["completer"] = begin
    argcomplete.autocomplete(parser, validator=lambda word, prefix: word.startswith(prefix))
