"""The errors a caller may catch. Each message is one line that says what to do next."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)


class CondenseError(Exception):
    """Base class of every error that this package raises on purpose.

    `exit_code` is what the command line returns for it: 2 for bad input or usage, 1 when a verification,
    a tolerance or the surgery limit was not met.
    """

    exit_code = 2

    def __str__(self) -> str:
        """The message; names in it are data, and are shown as such."""
        return visible(super().__str__())


class InputError(CondenseError):
    """The model or its inputs cannot be used (unreadable, invalid, refused by onnxruntime)."""


class LimitError(CondenseError):
    """A model asks for more than it is trusted with; the message names the option that lifts the limit."""


class UsageError(CondenseError):
    """The options contradict each other, or name something that the model does not have."""


class PlanError(CondenseError):
    """A plan does not belong to the model that it is applied to, or is damaged."""


class VerificationError(CondenseError):
    """The result is not right: the surgery limit or the tolerance was not met. Nothing is written."""

    exit_code = 1


class TrainerError(CondenseError):
    """The trainer of `auto` failed, or gave back something else than the same graph with finite weights and a score."""

    exit_code = 1


class EvaluationError(CondenseError):
    """What `evaluate` was to score a model with failed, or gave no finite number. Nothing is written."""

    exit_code = 1


class WorkerError(CondenseError):
    """The workers of an executor died, or cannot be reached."""

    exit_code = 1


def visible(text: str) -> str:
    r"""A text whose characters that do not print are written out (as \x1b): no name moves a cursor or ends a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException | str) -> str:
    """The first line of an error's text, for messages of one line."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def unforeseen(error: Exception, place: str) -> str:
    """What a reason says of an error of ours, which costs the place where it happened, not the run.

    Its traceback is logged. Raises the error where it is no such one: a caller may catch it, or memory is used up.
    """
    if isinstance(error, CondenseError | MemoryError):
        raise error
    _log.debug("an error at %s, which stays as it is:", place, exc_info=error)
    return f"{type(error).__name__}: {first_line(error)}"


@contextmanager
def left_alone(place: str) -> Iterator[None]:
    """What runs inside may fail by an error of ours: then its place stays as it is. Raises what `unforeseen` does."""
    try:
        yield
    except Exception as error:  # of ours, whatever it is: what is meant to be raised goes on
        unforeseen(error, place)
