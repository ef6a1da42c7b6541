"""The last lines of a run, on terminals of several widths."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import cast

import pytest
from support import builders

from onnx_condense import Options, condense
from onnx_condense.cli.streams import Stream
from onnx_condense.cli.summary import show_summary
from onnx_condense.cli.tables import ROWS, show_report
from onnx_condense.cli.terminal import Shown
from onnx_condense.report.values import Report

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

MODELS = ["a model.onnx", "small.onnx"]


class Terminal(io.StringIO):
    """What is a terminal, and holds what it was shown."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self.kind = encoding

    @property
    def encoding(self) -> str:
        return self.kind

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def report() -> Report:
    return condense(builders.mlp((8, 16, 16, 3), clusters=(5, 4)), Options(budget=("error", 0.5))).report


def shown(report: Report, width: int, monkeypatch: pytest.MonkeyPatch, encoding: str = "utf-8") -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal(encoding)
    console = Shown(cast(Stream, terminal))
    show_report(console, report)
    show_summary(console, report, MODELS)
    return terminal.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(report: Report, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ESCAPES.sub("", shown(report, width, monkeypatch)).splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert "27 times smaller (467 → 17 parameters), error" in text
    assert "Next: onnx-condense bench 'a model.onnx' small.onnx; --calibration INPUTS.npz for less loss;" in text


@pytest.mark.parametrize(("error", "colour"), [(0.001, 32), (0.05, 33), (0.5, 31), (float("nan"), 31)])
def test_colours_say_what_an_error_means(
    report: Report, error: float, colour: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert report.verification is not None
    changed = replace(report, verification=replace(report.verification, approximation_error=error))
    assert re.search(rf"\x1b\[1;{colour}merror ", shown(changed, 120, monkeypatch))


def test_a_terminal_of_ascii_is_sent_ascii(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    shown(report, 80, monkeypatch, "ascii").encode("ascii")


def test_of_many_groups_those_that_lost_channels_are_shown(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    first = next(group for group in report.groups if group.removed)
    others = tuple(replace(first, layers=(f"other{number}",), removed={}) for number in range(ROWS))
    lines = ESCAPES.sub("", shown(replace(report, groups=(*others, first)), 120, monkeypatch))
    assert first.layers[0] in lines
    assert "other1" not in lines
    assert f"{ROWS} more: --report FILE.json names all" in lines
    assert f"other{ROWS - 1}" in ESCAPES.sub("", shown(replace(report, groups=others), 120, monkeypatch))
