"""What a model wants, what data hold, and what is said where they do not meet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnx_condense.arrays import Array, Shape
from onnx_condense.errors import InputError

SHOWN = 8
"""Names that a message lists at most."""


class Wanted(Protocol):
    """An input of a model: its name, its type, and its dims: numbers, names of symbolic ones, or ""."""

    @property
    def name(self) -> str:
        """As the model has it."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """What it is converted to."""

    @property
    def dims(self) -> tuple[int | str, ...]:
        """Its sizes."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Arrays [samples, ...] by name, and where they come from."""

    source: str
    arrays: Mapping[str, Array]


def names_of(wanted: Iterable[Wanted]) -> str:
    """The names of inputs."""
    return ", ".join(one.name for one in wanted) or "none"


def sizes_of(dims: Sequence[int | str]) -> str:
    """Sizes in words: 1x3x?x? ."""
    return "x".join(str(size) if isinstance(size, int) else "?" for size in dims) or "scalar"


def wants(wanted: Sequence[Wanted]) -> str:
    """What the model wants, in words."""
    return listed(f"{one.name} ({sizes_of(one.dims)} {one.dtype.name})" for one in wanted)


def holds(found: Mapping[str, tuple[Shape, np.dtype[np.generic]]]) -> str:
    """What data hold, in words, by the shape and type of each array."""
    return listed(f"{name} ({sizes_of(shape)} {dtype.name})" for name, (shape, dtype) in found.items())


def listed(words: Iterable[str]) -> str:
    """A few of them, in a row."""
    every = list(words)
    more = [f"and {len(every) - SHOWN} more"] if len(every) > SHOWN else []
    return ", ".join([*every[:SHOWN], *more]) or "nothing"


def lacking(source: str, name: str, held: str, wanted: Sequence[Wanted]) -> InputError:
    """The error for data without an array of this name."""
    return InputError(
        f"{source} lacks input {name}: it holds {held}; the model wants {wants(wanted)}: use the model's names"
    )


def only(wanted: Sequence[Wanted], source: str, what: str) -> Wanted:
    """The one input that data without names feed. Raises InputError where there are others."""
    if len(wanted) != 1:
        raise InputError(
            f"{source} is {what}, which names no input; the model wants {wants(wanted)}: write an .npz with one array "
            f"per input, or loader.py:function"
        )
    return wanted[0]
