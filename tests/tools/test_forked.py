"""How tools run in children what may crash, hang or print."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from onnx_condense import errors

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
_forked: Any = importlib.import_module("_forked")


def forever() -> None:
    while True:
        pass


def test_what_a_child_returns_comes_back() -> None:
    assert _forked.forked(lambda: {"a": [1, 2.5]}, 10, 2048) == ({"a": [1, 2.5]}, "")


def test_how_a_child_ended_is_said() -> None:
    died = _forked.forked(lambda: os.kill(os.getpid(), signal.SIGKILL), 10, 2048)
    assert died == (None, "crashed: signal 9 (SIGKILL)")
    assert _forked.forked(forever, 0.5, 2048) == (None, "stuck: not done after 0.5 s")
    assert "ZeroDivisionError" in _forked.forked(lambda: 1 / 0, 10, 2048)[1]


def test_a_run_is_caught_with_what_it_printed(tmp_path: Path) -> None:
    done = _forked.run(tmp_path / "none.onnx")
    assert done.code == 2
    assert str(tmp_path) in done.line
    assert not done.fault


INTERNAL = f"{_forked.PREFIX}internal error (x)"


@pytest.mark.parametrize(
    ("code", "printed"), [(1, ""), (3, f"{_forked.PREFIX}x"), (0, _forked.TRACEBACK), (1, INTERNAL)]
)
def test_an_exit_code_needs_a_line_and_no_traceback(code: int, printed: str) -> None:
    assert _forked.Ran(code, printed).fault
    assert not _forked.Ran(2, f"{_forked.PREFIX}cannot read m.onnx: check the path\n").fault


def test_an_error_that_cost_a_layer_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def program(arguments: list[str]) -> int:
        errors.unforeseen(IndexError("7"), "layer3")
        return 0

    monkeypatch.setattr(_forked, "program", program)
    assert "IndexError" in _forked.run("m.onnx").fault
