"""How a field of a dataclass is written on a command line: said once, beside the field.

A dataclass whose fields are made by `option` knows its flags (`flags_of`): the parser, the checks, the JSON and the
tables of options in the documentation are made from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum, StrEnum
from numbers import Integral
from typing import Any, Concatenate, ParamSpec

from onnx_condense.errors import UsageError
from onnx_condense.expected import is_number, shown

P = ParamSpec("P")

FLAG = "flag"
"""The key of a Flag in a field's metadata."""

Check = Callable[[str, Any], None]
"""Raises UsageError for a value out of range; takes the option and its value."""


class Heading(StrEnum):
    """Headings of the help."""

    MODEL = "models"
    REMOVE = "what to remove"
    WELL = "how well"
    FAST = "how fast"
    WHERE = "where"
    INPUTS = "inputs"
    TRAINER = "trainer"
    SCORES = "scores to reach"
    TRAINING = "training"
    THRESHOLDS = "thresholds"
    END = "when to stop"
    OUTPUT = "output"
    TRUST = "trust"


class InPlan(Enum):
    """What a plan has to do with an option."""

    STATED = "the plan states it, and a replay takes it from there"
    STATED_LATER = "as STATED, but plans of earlier versions lack it"
    ANSWERED = "the plan is the answer to it: a replay does not ask again"
    OPEN = "a replay may ask for it"


@dataclass(frozen=True)
class Flag:
    """One option of the command line.

    Attributes:
        help: what it does, without its default.
        heading: the one that it stands under.
        metavar: what its value looks like; "" for a switch, and where there are `choices`.
        read: makes a value of a text. A ValueError is bad usage.
        check: of a value that is not None.
        plan: what a plan has to do with it.
        choices: the texts that it takes, where they are few.
        gather: where it may be repeated, makes the field's value of a list of values.
        unset: what holds without it, where the field's own default does not say it.
        wants: what a text that `read` does not take should have been, where the metavar does not say it.
        name: as it is written, where that is not the field's name with dashes.
        short: a second name of one letter.
        positional: whether it is known by its place and not by its name.
        told: whether reports and plans tell its value.
    """

    help: str
    heading: Heading
    metavar: str = ""
    read: Callable[[str], Any] = str
    check: Check | None = None
    plan: InPlan = InPlan.OPEN
    choices: tuple[str, ...] = ()
    gather: Callable[[list[Any]], Any] | None = None
    unset: str = ""
    wants: str = ""
    name: str = ""
    short: str = ""
    positional: bool = False
    told: bool = True


def _field_with(make: Callable[P, Flag]) -> Callable[Concatenate[Any, P], Any]:
    """A function of a default and of what `make` takes; a dict as the default is made anew each time."""

    def made(default: Any, /, *given: P.args, **named: P.kwargs) -> Any:
        metadata = {FLAG: make(*given, **named)}
        if isinstance(default, dict):
            return field(default_factory=default.copy, metadata=metadata)
        return field(default=default, metadata=metadata)

    return made


option = _field_with(Flag)
"""A field of a dataclass that is an option: its default (MISSING: none), then what its Flag says."""


def flags_of(kind: type[Any]) -> dict[str, Flag]:
    """Field -> flag, of a dataclass."""
    return {f.name: f.metadata[FLAG] for f in fields(kind) if FLAG in f.metadata}


def defaults_of(kind: type[Any]) -> dict[str, Any]:
    """Field -> default, of the fields that have one."""
    found = {f.name: f.default for f in fields(kind) if f.default is not MISSING}
    return found | {f.name: f.default_factory() for f in fields(kind) if f.default_factory is not MISSING}


def written(name: str, flag: Flag) -> str:
    """The option as a command line has it."""
    return "--" + (flag.name or name).replace("_", "-")


def unset_words(flag: Flag, default: Any, unset: str = "") -> str:
    """What holds without an option, in words; "" where that goes without saying."""
    if unset or flag.unset:
        return unset or flag.unset
    if isinstance(default, bool) or not isinstance(default, str | int | float):
        return ""
    return default if isinstance(default, str) else f"{default:g}"


def check(values: object) -> None:
    """Raises UsageError for the first field of a dataclass that is of another kind, or out of range."""
    defaults = defaults_of(type(values))
    for name, flag in flags_of(type(values)).items():
        value = getattr(values, name)
        kind = _KINDS.get(bool if defaults.get(name) is False else flag.read)
        if kind is not None and value is not None and not kind[0](value):
            raise UsageError(f"{written(name, flag)} is {kind[1]}, not {shown(value)}")
        if flag.check is not None and value is not None:
            flag.check(written(name, flag), value)


_KINDS: dict[Callable[..., Any], tuple[Callable[[Any], bool], str]] = {
    bool: (lambda value: isinstance(value, bool), "True or False"),
    int: (lambda value: is_number(value) and isinstance(value, Integral), "a whole number"),
    float: (is_number, "a number"),
}
"""By what reads a field's text: whether a value is of that kind, and what kind that is."""


def must(holds: Callable[[Any], bool], says: str) -> Check:
    """A check; in what it says, {option} and {value} are filled in."""

    def checked(option: str, value: Any) -> None:
        if not holds(value):
            raise UsageError(says.format(option=option, value=value))

    return checked


def to_json(value: Any) -> Any:
    """A value of a field as JSON has it: lists for tuples, strings for enums."""
    if isinstance(value, Mapping):
        return {name: to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value.value if isinstance(value, StrEnum) else value


def from_json(value: Any) -> Any:
    """The inverse of `to_json`, but for enums."""
    return tuple(from_json(item) for item in value) if isinstance(value, list) else value


# ---------------------------------------------------------------------------------------------------- reading texts


def _pair(text: str, convert: Callable[[str], Any]) -> tuple[str, Any]:
    """NAME=VALUE. Raises ValueError."""
    name, _, value = text.rpartition("=")
    if not name:
        raise ValueError(text)
    return name, convert(value)


def named_number(text: str) -> tuple[str, float]:
    """NAME=NUMBER."""
    return _pair(text, float)


def named_sizes(text: str) -> tuple[str, tuple[int, ...]]:
    """NAME=1x3x224x224, or with commas."""

    def sizes(value: str) -> tuple[int, ...]:
        return tuple(int(size) for size in value.replace(",", "x").split("x") if size or "x" in value)

    return _pair(text, sizes)


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them. Raises ValueError."""
    return tuple(float(part) for part in text.split(","))


def multiple(text: str) -> int | str:
    """A number where it is one; else the text, of which the option's check says what is wrong with it."""
    try:
        return int(text)
    except ValueError:
        return text
