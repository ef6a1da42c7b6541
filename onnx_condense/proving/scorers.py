"""What a search measures on a candidate: its error, or the score that a command or a function gives it."""

from __future__ import annotations

import math
import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from onnx_condense import processes
from onnx_condense.errors import EvaluationError, InputError, UsageError, VerificationError, first_line
from onnx_condense.model import files
from onnx_condense.model.held import filled
from onnx_condense.model.inputs import Feed
from onnx_condense.options import PLACE, Options
from onnx_condense.proving.compare import NOTHING_TOLD, Results, compare, results

Scorer = Callable[[onnx.ModelProto], float]
"""The error or the score of a model."""


@dataclass(frozen=True)
class ApproximationError:
    """What `Verification.error` says of a model against what the original gives (`expected`) on the feeds.

    told: whether that is anything (see `is_told`).
    """

    expected: Results
    feeds: Sequence[Feed]
    told: bool

    def __call__(self, model: onnx.ModelProto) -> float:
        """Raises VerificationError where the model does not run, or where the error of nothing is asked for."""
        if not self.told:
            raise VerificationError(NOTHING_TOLD)
        try:
            return compare(self.expected, results(model, self.feeds)).error
        except InputError as error:
            raise VerificationError(
                f"the rewritten model does not run ({error}): nothing is written; please report this model"
            ) from error


class CommandScore:
    """The number in the last line that a command prints; it runs in the current folder, without a shell."""

    def __init__(self, command: str) -> None:
        """Raises UsageError for a command that cannot be read, or that does not say where the model's path goes."""
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"--evaluate {command} cannot be read ({error}): check its quotes") from error
        if not any(PLACE in word for word in self._words):
            raise UsageError(
                f"--evaluate {command} does not name the model: write {PLACE} where its path goes, "
                f'as in --evaluate "python score.py {PLACE}"'
            )

    def __call__(self, model: onnx.ModelProto) -> float:
        """Raises EvaluationError, and UsageError where the command cannot be started."""
        with tempfile.TemporaryDirectory(prefix="onnx-condense-") as name:
            folder = Path(name)
            path, printed = folder / "model.onnx", folder / "stdout"
            files.save(model, path)
            words = [word.replace(PLACE, str(path)) for word in self._words]
            processes.run(processes.Program(words, "--evaluate", _failed), printed, errors=folder / "stderr")
            line = processes.last_line(printed)
        try:
            return _finite(float(line))
        except ValueError as error:
            raise _failed(f"printed no score: its last line is to be a number, not {line!r}") from error


@dataclass(frozen=True)
class FunctionScore:
    """The number that a function gives; it gets a copy of the model."""

    function: Scorer

    def __call__(self, model: onnx.ModelProto) -> float:
        """Raises EvaluationError."""
        given = type(model)()
        given.CopyFrom(filled(model))
        try:
            score = self.function(given)
        except Exception as error:  # it may raise anything
            raise _failed(f"raised {type(error).__name__}: {first_line(error)}") from error
        if isinstance(score, bool) or not isinstance(score, int | float | np.number):
            raise _failed(f"gave no score: it is to return a number, not {score!r}")
        return _finite(float(score))


def scorer(options: Options) -> Scorer | None:
    """What scores candidates; None where the options ask for no score. Raises UsageError."""
    if options.evaluate is None:
        return None
    return CommandScore(options.evaluate) if isinstance(options.evaluate, str) else FunctionScore(options.evaluate)


def _finite(score: float) -> float:
    if not math.isfinite(score):
        raise _failed(f"gave the score {score}: it is to be a finite number, higher is better")
    return score


def _failed(what: str) -> EvaluationError:
    return EvaluationError(f"the evaluation {what}; nothing is written: mend --evaluate and run it again")
