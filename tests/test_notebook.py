"""Progress in a notebook: one element, written anew with each stage, whose names are data."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from support import builders

from onnx_condense import Options, UsageError, condense
from onnx_condense.notebook import Progress
from onnx_condense.progress import Step, Watch


class Screen(ModuleType):
    """What stands for IPython.display: the texts that an element held, one after the other."""

    def __init__(self) -> None:
        super().__init__("IPython.display")
        self.shown: list[str] = []
        self.elements = 0

    def HTML(self, text: str) -> str:
        return text

    def display(self, text: str, display_id: bool) -> Screen:
        self.elements += 1
        self.update(text)
        return self

    def update(self, text: str) -> None:
        self.shown.append(text)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    found = Screen()
    monkeypatch.setattr("onnx_condense.notebook.find_spec", lambda name: found)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", found)
    return found


def test_one_element_says_how_far_a_run_is(screen: Screen) -> None:
    with Progress() as progress:
        condense(builders.mlp((8, 16, 3), clusters=4), Options(budget=("error", 0.5)), progress=progress)
    assert screen.elements == 1
    assert any('<progress max="12" value="' in text and "evaluate" in text for text in screen.shown)
    assert screen.shown[-1].startswith("<small>done after 0:0")


def test_names_are_data(screen: Screen) -> None:
    progress = Progress()
    progress(Step("plan", 1, 2, "<script>\x1b[31m"))
    assert "&lt;script&gt;\\x1b[31m" in screen.shown[-1]


def test_what_is_left_is_told_of_a_stage() -> None:
    now = [0.0]
    watch = Watch(lambda: now[0])
    assert watch.begin("load")
    now[0] = 5.0
    assert watch.begin(Step("plan", 1, 4, "a"))
    assert watch.times == "0:05"
    now[0] = 15.0
    assert not watch.begin(Step("plan", 2, 4, "b"))
    assert watch.times == "0:15, about 0:30 left"
    now[0] = 3700.0
    assert watch.begin("verify")
    assert watch.times == "1:01:40"


def test_elsewhere_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx_condense.notebook.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pass a function"):
        Progress()
