"""The last lines of a run: what came of it, what else could be asked for, and what may come next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from onnx_condense.options import DEFAULT_ERROR
from onnx_condense.report.values import WARN_ABOVE, ModelFacts, Report

GOOD, FAIR, POOR = "green", "yellow", "red"
"""Colours of what was won, of what may matter, and of what does."""

HARDLY = 1.2
"""Times smaller, below which it is told as a share."""


def show_alternatives(console: Console, report: Report) -> None:
    """What else could be asked for, and what the error rests on."""
    if report.alternatives:
        told = "; ".join(_alternative(report, number) for number in range(len(report.alternatives)))
        _say(console, [(f"By default the error is at most {DEFAULT_ERROR:g}. Stated instead: {told}.", "")])
    if _lost_on_noise(report):
        _say(console, [("Generated inputs may mislead: --data INPUTS.npz measures the error on yours.", FAIR)])


def show_summary(console: Console, report: Report, models: Sequence[str]) -> None:
    """A sentence to remember, and what may come next. models: the two, as a command line names them."""
    if report.output is None or report.verification is None or not report.changed:
        return
    _say(console, [*_smaller(report.input, report.output), (", ", ""), *_error(report), (".", "")], "bold")
    bench = f" {shlex.join(['onnx-condense', 'bench', *models])};" if models else ""
    calibration = " --calibration INPUTS.npz for less loss;" if _lost_on_noise(report) else ""
    _say(console, [(f"Next:{bench}{calibration} --budget params=F for another size.", "")])


def _lost_on_noise(report: Report) -> bool:
    """Whether more than rounding was lost, on generated inputs."""
    found = report.verification
    return found is not None and found.generated and found.approximation_error > found.surgery_limit


def _say(console: Console, parts: Sequence[tuple[str, str]], style: str = "") -> None:
    """Prints a line of (text, style): wrapped between words on a terminal, whole elsewhere."""
    line = Text.assemble(
        *(console.render_str(text, style=part, highlight=False) for text, part in parts if text), style=style
    )
    console.print(line, soft_wrap=not console.is_terminal)


def _smaller(before: ModelFacts, after: ModelFacts) -> list[tuple[str, str]]:
    old, new = before.parameters, after.parameters
    sizes = f" ({old:,} → {new:,} parameters)"
    times = old / max(1, new)
    told = f"{times:.2g} times smaller" if times >= HARDLY else f"{1 - new / max(1, old):.1%} smaller"
    return [(told, GOOD if new < old else FAIR), (sizes, "")]


def _error(report: Report) -> list[tuple[str, str]]:
    assert report.verification is not None
    error, kind = report.verification.approximation_error, "generated" if report.verification.generated else "given"
    if math.isnan(error):
        return [("error unknown", POOR), (f" on {kind} inputs", "")]
    colour = GOOD if error <= DEFAULT_ERROR else FAIR if error <= WARN_ABOVE else POOR
    return [(f"error {error:.2g}", colour), (f" on {kind} inputs", "")]


def _alternative(report: Report, number: int) -> str:
    """One option, the share of parameters that it leaves, and the error."""
    found = report.alternatives[number]
    share = found.parameters / max(1, report.input.parameters)
    about = "about " if found.option.startswith("--budget") else ""
    return f"{found.option} leaves {about}{share:.0%} at error {found.error:.2g}"
