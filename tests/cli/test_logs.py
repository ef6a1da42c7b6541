"""What is logged, and how far a run is."""

from __future__ import annotations

import io
import logging
import re
from typing import cast

import pytest
from support import builders
from support.cli import Cli, Save

from onnx_condense import Options, condense
from onnx_condense.cli.bar import Bar
from onnx_condense.cli.streams import Stream
from onnx_condense.cli.terminal import Shown
from onnx_condense.progress import Step


class Terminal(io.StringIO):
    """What is a terminal, and holds what it was shown."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


MODEL = builders.mlp((8, 16, 3), clusters=4)


def test_the_library_logs_its_stages(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "onnx_condense"):
        condense(MODEL, Options(threshold=0.9))
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert re.search(r"load took [\d.]+ s", text)
    assert re.search(r"verify took [\d.]+ s", text)


@pytest.mark.parametrize("option", ["-v", "--verbose", "--log-level=debug"])
def test_stages_are_shown_where_they_are_asked_for(cli: Cli, save: Save, option: str) -> None:
    save(MODEL)
    lines = cli.ok("m.onnx", "--threshold", "0.9", option, "--force").err.splitlines()
    assert any(re.search(r"debug: prepare: plan took", line) for line in lines)


def test_warnings_go_with_errors_alone(cli: Cli, save: Save) -> None:
    save(builders.mlp((8, 16, 3)))
    options = ("m.onnx", "--threshold", "0.1", "--force")
    assert "warning" in cli.ok(*options).err
    assert cli.ok(*options, "--log-level", "error").err == ""


def test_steps_say_how_far_they_are() -> None:
    found: list[str] = []
    condense(MODEL, Options(budget=("error", 0.5)), progress=found.append)
    steps = [stage for stage in found if isinstance(stage, Step)]
    assert {step.kind for step in steps} == {"plan", "evaluate"}
    assert all(0 <= step.done < step.total for step in steps)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_bar_fits_its_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    written = Terminal()
    bar = Bar(Shown(cast(Stream, written)), moving=False)
    with bar.shown():
        bar(Step("evaluate", 1, 12, "a layer of a very long name " * 5))
        bar(Step("evaluate", 4, 12, "[bold]66.7%[/bold], 33.3%\x1b[31m"))
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue()).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= width
    assert any("left" in line and "evaluate 4/12: [" in line for line in lines)
