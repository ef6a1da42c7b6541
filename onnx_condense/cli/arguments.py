"""Parsers from fields: every option of a command is a field of a dataclass, with its flag beside it."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import fill
from typing import Any, NamedTuple, NoReturn, TypeVar

from onnx_condense._version import __version__
from onnx_condense.cli.streams import PROGRAM, STDERR, STDOUT
from onnx_condense.errors import UsageError
from onnx_condense.flags import Flag, Heading, check, defaults_of, flags_of, unset_words, written

_T = TypeVar("_T")

COMPLETE = "_ARGCOMPLETE"
"""Set in the environment by a shell that completes a command line: how many words name the program."""


@dataclass(frozen=True)
class Fields:
    """The fields of a dataclass that a command takes; none named: all that have a flag.

    unset: by field, what holds in this command without the option, in words.
    """

    kind: type[Any]
    names: tuple[str, ...] = ()
    unset: Mapping[str, str] = field(default_factory=dict)

    def flags(self) -> Iterator[tuple[str, Flag]]:
        """(field, flag), in the order of the fields."""
        for name, flag in flags_of(self.kind).items():
            if not self.names or name in self.names:
                yield name, flag


class OptionRow(NamedTuple):
    """One option for a table of them: its heading, how it is written with its value, what holds without it."""

    heading: Heading
    option: str
    value: str
    unset: str
    help: str


@dataclass(frozen=True)
class Command:
    """One command: its name ("" for the program itself), what help says of it, what it takes, and other commands."""

    name: str
    description: str
    epilog: str
    parts: tuple[Fields, ...]
    others: tuple[Command, ...] = ()

    def parse(self, given: Sequence[str]) -> Arguments:
        """What was given. Raises UsageError, and SystemExit after --help and --version."""
        parser = self.parser()
        try:
            return Arguments(self, self._with_recipe(vars(parser.parse_args(given))))
        except UsageError as error:
            known = [name for part in self.parts for field, flag in part.flags() for name in _names(field, flag)]
            for word in (text.partition("=")[0] for text in given):
                if word.startswith("--") and word not in known:
                    raise UsageError(f"{error}{suggested(word, known)}") from error
            raise

    def _with_recipe(self, given: dict[str, Any]) -> dict[str, Any]:
        """What was given, and what a recipe says beside it. Raises UsageError and InputError."""
        if not given.get("recipe"):
            return given
        from onnx_condense.cli.recipes import texts_of  # few command lines name one

        for name, (flag, texts) in texts_of(given["recipe"], self.parts).items():
            if name not in given:
                values = texts if isinstance(texts, bool) else [_worded(name, flag)(text) for text in texts]
                given[name] = values[0] if isinstance(values, list) and flag.gather is None else values
        return given

    def rows(self) -> list[OptionRow]:
        """What it takes, by heading; no positional arguments."""
        found = []
        for part in self.parts:
            defaults = defaults_of(part.kind)
            for name, flag in part.flags():
                if not flag.positional:
                    value = flag.metavar or "|".join(flag.choices)
                    words = unset_words(flag, defaults.get(name), part.unset.get(name, ""))
                    found.append(OptionRow(flag.heading, written(name, flag), value, words, flag.help))
        return sorted(found, key=lambda row: list(Heading).index(row.heading))

    def parser(self) -> _Parser:
        """The parser of this command."""
        parser = _Parser(f"{PROGRAM} {self.name}".strip(), self.description, self.epilog)
        parser.others = {f"{PROGRAM} {other.name}": other.description for other in self.others}
        used = {flag.heading for part in self.parts for _, flag in part.flags() if not flag.positional}
        groups = {group: parser.add_argument_group(group) for group in Heading if group in used}
        for part in self.parts:
            for name, flag in part.flags():
                added = _add(parser if flag.positional else groups[flag.heading], part, name, flag)
                parser.places += [added] if flag.positional else []
        if not self.name:
            parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
        return parser


def suggested(word: str, known: Iterable[str]) -> str:
    """What may have been meant by a word, as the end of a sentence; "" where nothing is like it."""
    from difflib import get_close_matches  # few command lines are wrong

    close = get_close_matches(word, list(known), 1)
    return f": did you mean {close[0]}?" if close else ""


@dataclass(frozen=True)
class Arguments:
    """What was given on a command line, by field."""

    command: Command
    given: Mapping[str, Any]

    def of(self, kind: type[_T]) -> _T:
        """A part of the command with the values that were given. Raises UsageError for those out of range."""
        values = {}
        for part in self.command.parts:
            for name, flag in part.flags():
                if part.kind is kind and name in self.given:
                    value = self.given[name]
                    values[name] = flag.gather(value) if flag.gather is not None else value
        made = kind(**values)
        check(made)
        return made


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and that knows options by their whole names only."""

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        super().__init__(prog, description=description, epilog=epilog or None, allow_abbrev=False)
        self.others: dict[str, str] = {}
        self.places: list[argparse.Action] = []

    def format_help(self) -> str:
        """The help, with a line for each other command."""
        width, beside = shutil.get_terminal_size().columns - 2, " " * 26
        told = self.others.items()
        lines = [fill(text, width, initial_indent=f"  {name:<24}", subsequent_indent=beside) for name, text in told]
        return super().format_help() + ("\n".join(["\nother commands:", *lines, ""]) if lines else "")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")

    def _print_message(self, message: str, file: object = None) -> None:
        (STDERR if file is sys.stderr else STDOUT).write(message)


def said(flag: Flag, default: Any, unset: str = "") -> str:
    """What help says of an option: what it does, and what holds without it; `unset` are a command's words for that."""
    held = unset_words(flag, default, unset)
    return f"{flag.help} (default: {held})" if held else flag.help


def _add(to: argparse._ActionsContainer, part: Fields, name: str, flag: Flag) -> argparse.Action:
    """Adds one option; what is not given does not appear among the arguments, but for positional ones."""
    defaults = defaults_of(part.kind)
    default = defaults.get(name)
    more: dict[str, Any] = {"help": said(flag, default, part.unset.get(name, ""))}
    if not flag.positional:
        more |= {"dest": name, "default": argparse.SUPPRESS}
    if default is False:
        return to.add_argument(*_names(name, flag), action="store_true", **more)
    more |= {"type": _reader(name, flag), "metavar": flag.metavar or None}
    if flag.choices:
        more["choices"] = [str(choice) for choice in flag.choices]
    if flag.positional:
        nargs = "+" if flag.gather is not None else "?" if name in defaults else None
        return to.add_argument(name, nargs=nargs, **more)
    if flag.gather is not None:
        more["action"] = "append"
    return to.add_argument(*_names(name, flag), required=name not in defaults, **more)


def _names(name: str, flag: Flag) -> list[str]:
    return [*([flag.short] if flag.short else []), written(name, flag)]


def _reader(name: str, flag: Flag) -> Callable[[str], Any]:
    """Reads a text; argparse has words of its own for what is no number."""
    if flag.read in (str, int, float):
        return flag.read
    return _worded(name, flag)


def _worded(name: str, flag: Flag) -> Callable[[str], Any]:
    """Reads a text, and says what it should have been. Raises UsageError."""
    *most, last = flag.metavar.split("|")
    wants = flag.wants or " or ".join(filter(None, (", ".join(most), last)))

    def read(text: str) -> Any:
        try:
            return flag.read(text)
        except ValueError as error:
            raise UsageError(f"{written(name, flag)} wants {wants}, not {text}") from error

    return read
