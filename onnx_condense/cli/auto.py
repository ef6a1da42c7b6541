"""The command line of `auto`: arguments to Settings, a run or its status to the terminal."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from onnx_condense.auto.folder import RESULT, Folder
from onnx_condense.auto.identity import DEFAULT_MERGE
from onnx_condense.auto.loop import run
from onnx_condense.auto.machine import Event
from onnx_condense.auto.settings import Settings
from onnx_condense.auto.state import State
from onnx_condense.auto.status import closing, describe, fell_short, plot, show, status
from onnx_condense.auto.trainer import CommandTrainer
from onnx_condense.errors import UsageError
from onnx_condense.options import Options
from onnx_condense.processes import terminated_like_interrupted

__all__ = ["DEFAULT_MERGE", "add_arguments", "execute"]

DEFAULT = Settings()
DEFAULT_TIMEOUT = 3600.0
DEFAULT_RETRIES = 1

NUMBERS = {
    "last_criterion": ("S", "score for the last layer of a round, and for the classifier's (0.8, scaled)"),
    "deviation_score": ("S", "an attempt below it after --deviation-steps is reverted (0.5, scaled)"),
    "deviation_steps": ("N", "training steps before --deviation-score is asked for"),
    "criterion_period": ("T", "layer reductions until the criteria are at their lowest"),
    "learning_rate_period": ("T", "layer reductions until the learning rate is at its lowest"),
    "step_limit": ("N", "training steps after a reduction"),
    "step_limit_growth": ("N", "added to --step-limit for good after each failure"),
    "last_step_limit": ("N", "training steps for the last layer of a round, and for the classifier's"),
    "threshold_start": ("X", "a layer's first threshold is sigmoid(X)"),
    "threshold_up": ("X", "added to X after a failure"),
    "threshold_down": ("X", "taken from X after a reduction below --least-removed"),
    "least_removed": ("SHARE", "of the model's parameters, that counts as a reduction"),
    "test_every": ("N", "training steps between tests after a reduction"),
    "main_test_every": ("N", "training steps between tests before a round"),
    "main_step_limit": ("N", "training steps to reach the main criterion in"),
    "rounds": ("N", "how many rounds (default: as long as something goes)"),
    "patience": ("N", "stop after N rounds in a row below --least-removed"),
    "keep_rounds": ("N", "models of how many rounds stay in DIR/models"),
}
"""Settings that are one number: metavar and help."""

SPANS = {
    "criterion": "score that begins a round, first and lowest (0.88:0.85, scaled)",
    "layer_criterion": "score after a layer's reduction, first and lowest (0.84:0.81, scaled)",
    "learning_rate": "learning rate, first and lowest (0.01:0.0001)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything but the options that `auto` shares with other commands."""
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="the trained .onnx file; it is never changed")
    add("--work", required=True, metavar="DIR", help="the run's folder: its journal, its models, result.onnx")
    add("--trainer", metavar="CMD", help="called as CMD --model IN --output OUT --steps N --learning-rate LR ...")
    add("--trainer-timeout", type=float, default=DEFAULT_TIMEOUT, metavar="S", help="per call, 0 for none (3600)")
    add("--trainer-retries", type=int, default=DEFAULT_RETRIES, metavar="N", help="calls again after a failure (1)")
    for name, text in SPANS.items():
        add(_option(name), type=_span, default=getattr(DEFAULT, name), metavar="A:B", help=text)
    for name, (metavar, text) in NUMBERS.items():
        default = getattr(DEFAULT, name)
        kind = int if metavar in ("N", "T") else float
        shown = "" if default is None else f" (default {default:g})"
        add(_option(name), type=kind, default=default, metavar=metavar, help=text + shown)
    add("--until", type=_until, metavar="params=SHARE", help="stop when this share of the parameters is left")
    add(
        "--last-layer-threshold",
        type=_threshold,
        default=DEFAULT.last_layer_threshold,
        metavar="T|off",
        help="of the group that the classifier reads, reduced at the end (default 0.4); off: one among the others",
    )
    add("--status", action="store_true", help="show what a run has done; on a terminal, follow it")
    add("--json", action="store_true", help="with --status: as JSON")
    add("--plot", metavar="FILE.svg", help="with --status: draw score, parameters and thresholds (needs matplotlib)")
    add("--quiet", action="store_true", help="print errors only")


def execute(arguments: argparse.Namespace, options: Options, console: Console) -> int:
    """Runs `auto` and returns its exit code: 0 what was asked for is reached, 1 it ended before."""
    if arguments.status:
        return _status(arguments, console)
    if arguments.json or arguments.plot:
        raise UsageError("--json and --plot go with --status")
    if arguments.model is None or arguments.trainer is None:
        raise UsageError("auto needs MODEL and --trainer, or --status")
    if arguments.trainer_retries < 0 or not arguments.trainer_timeout >= 0:
        raise UsageError("--trainer-retries and --trainer-timeout are not negative")
    if Path(arguments.model).resolve().is_relative_to(Path(arguments.work).resolve()):
        raise UsageError(f"{arguments.model} lies in --work {arguments.work}: name another folder")
    names = (*SPANS, *NUMBERS, "until", "last_layer_threshold")
    settings = Settings(**{name: getattr(arguments, name) for name in names})
    folder = Folder(Path(arguments.work))
    trainer = CommandTrainer(arguments.trainer, folder.scratch, folder.log, timeout=arguments.trainer_timeout or None)

    def watch(state: State, event: Event) -> None:
        text = describe(state, event)
        if text is not None and not arguments.quiet:
            console.print(text, soft_wrap=True, markup=False, highlight=False)

    done = len(folder.events())
    if done and not arguments.quiet:
        console.print(f"going on in {folder.path} after {done} steps", soft_wrap=True, markup=False, highlight=False)
    with _warnings(arguments.quiet), terminated_like_interrupted():
        try:
            state = run(
                Path(arguments.model),
                trainer,
                folder.path,
                settings,
                options,
                retries=arguments.trainer_retries,
                watch=watch,
            )
        except KeyboardInterrupt:
            print("onnx-condense: error: interrupted: the same command goes on from here", file=sys.stderr)
            return 1
    if not arguments.quiet:
        where = f": {folder.path / RESULT}" if state.result is not None else ""
        console.print(closing(state) + where, soft_wrap=True, markup=False, highlight=False)
    return 1 if fell_short(state) else 0


def _status(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.model is not None or arguments.trainer is not None:
        raise UsageError("--status reads --work alone: drop MODEL and --trainer")
    if arguments.plot:
        plot(arguments.work, Path(arguments.plot))
    if arguments.json:
        print(json.dumps(status(arguments.work), indent=1, allow_nan=False))
    elif not arguments.quiet:
        try:
            show(console, arguments.work)
        except KeyboardInterrupt:
            return 0
    return 0


@contextmanager
def _warnings(quiet: bool) -> Iterator[None]:
    """Shows what the loop logs (a trainer that failed, a layer that stays) on stderr."""
    logger = logging.getLogger("onnx_condense.auto")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("onnx-condense: warning: %(message)s"))
    handler.setLevel(logging.ERROR if quiet else logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _span(text: str) -> tuple[float, float]:
    first, _, lowest = text.partition(":")
    try:
        return float(first), float(lowest or first)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"wants FIRST:LOWEST, for example 0.88:0.85, not {text}") from error


def _until(text: str) -> float:
    name, _, value = text.partition("=")
    try:
        if name != "params":
            raise ValueError
        return float(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"wants params=SHARE, for example params=0.115, not {text}") from error


def _threshold(text: str) -> float | None:
    try:
        return None if text == "off" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"wants a threshold or off, not {text}") from error
