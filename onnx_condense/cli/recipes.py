"""Options in a file: a recipe holds those of a command, by their names, and is written beside a report."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_condense.errors import InputError, UsageError, first_line
from onnx_condense.extras import need
from onnx_condense.flags import Flag, defaults_of, flags_of, unset_words, written

if TYPE_CHECKING:
    from onnx_condense.cli.arguments import Fields

OPTION = "--recipe"

YAML = (".yaml", ".yml")
YAML_LINE = "threshold: 0.9"

SUFFIX = ".recipe.toml"
"""Of a recipe, in the place of its report's."""


def beside(report: str) -> Path:
    """Where the recipe of a report goes."""
    return Path(report).with_suffix(SUFFIX)


# ---------------------------------------------------------------------------------------------------- reading


def texts_of(path: str, parts: Iterable[Fields]) -> dict[str, tuple[Flag, list[str] | bool]]:
    """What a recipe says, by field: texts as a command line has them, or a switch. Raises InputError and UsageError."""
    known = {written(name, flag)[2:]: (name, flag, defaults_of(p.kind).get(name)) for p, name, flag in _flags(parts)}
    found = {}
    for key, value in _content(path).items():
        if key not in known:
            raise UsageError(f"{OPTION} {path} says {key}, which is no option of this command: drop it")
        name, flag, default = known[key]
        if (default is False) != isinstance(value, bool):
            wants = "true or false" if default is False else "a text, a number, or a list of them"
            raise UsageError(f"{OPTION} {path}: {key} is {wants}")
        found[name] = flag, value if isinstance(value, bool) else _texts(path, key, flag, value)
    return found


def _flags(parts: Iterable[Fields]) -> Iterator[tuple[Fields, str, Flag]]:
    for part in parts:
        for name, flag in part.flags():
            if not flag.positional and written(name, flag) != OPTION:
                yield part, name, flag


def _content(path: str) -> dict[str, Any]:
    is_yaml = Path(path).suffix.lower() in YAML
    try:
        text = Path(path).read_text(encoding="utf-8")
        return _of_yaml(path, text) if is_yaml else tomllib.loads(text)
    except OSError as error:
        raise InputError(f"cannot read {OPTION} {path} ({error.strerror}): check the path") from error
    except (ValueError, RecursionError) as error:  # no such text, nested too deep, a number or a date that is none
        kind, line = ("YAML", YAML_LINE) if is_yaml else ("TOML", "threshold = 0.9")
        raise InputError(f"{OPTION} {path} is no {kind} ({first_line(error)}): write lines like {line}") from error


def _of_yaml(path: str, text: str) -> dict[str, Any]:
    need(f"{OPTION} {path}", "yaml", ["yaml"])
    import yaml

    advice = f"write lines like {YAML_LINE}"
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{OPTION} {path} is no YAML ({first_line(error)}): {advice}") from error
    if not isinstance(found, dict):
        raise InputError(f"{OPTION} {path} names no options: {advice}")
    return found


def _texts(path: str, key: str, flag: Flag, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in values):
        raise UsageError(f"{OPTION} {path}: {key} is a text, a number, or a list of them")
    if flag.gather is None and len(values) != 1:
        raise UsageError(f"{OPTION} {path}: {key} is one value, not {len(values)}")
    texts = [f"{one:.17g}" if isinstance(one, float) else str(one) for one in values]
    wrong = [text for text in texts if flag.choices and text not in [str(choice) for choice in flag.choices]]
    if wrong:
        raise UsageError(f"{OPTION} {path}: {key} is {' or '.join(flag.choices)}, not {wrong[0]}")
    return texts


# ---------------------------------------------------------------------------------------------------- writing


def recipe(values: Iterable[object], head: str, more: Mapping[str, Any]) -> bytes:
    """The options of some values, one a line; those that are not set are comments, with what holds without them.

    head: a line that says what this is. more: other options, where they are set.
    """
    lines = [f"# {head}", *(f"{key} = {_toml(value)}" for key, value in more.items() if value is not None)]
    for value in values:
        defaults = defaults_of(type(value))
        lines.append("")
        for name, flag in flags_of(type(value)).items():
            key, found = written(name, flag)[2:], _plain(getattr(value, name))
            if isinstance(found, list) and flag.gather is None:
                found = ("x" if all(isinstance(one, int) for one in found) else ",").join(map(str, found))
            if found is None or found == []:
                words = unset_words(flag, defaults.get(name))
                lines.append(f"# {key} is not set" + (f": {words}" if words else ""))
            else:
                lines.append(f"{key} = {_toml(found)}")
    return ("\n".join(lines) + "\n").encode()


def _plain(value: Any) -> Any:
    """A value of a field as texts, numbers and lists of them; pairs are NAME=VALUE."""
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Mapping):
        return [f"{name}={'x'.join(map(str, sizes))}" for name, sizes in value.items()]
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int | float):
        return f"{value[0]}={value[1]:.17g}"
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
