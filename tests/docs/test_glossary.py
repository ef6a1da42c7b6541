"""The examples of the glossary run as they stand."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "glossary.md").read_text()

WORDS = (
    "form",
    "atom",
    "unit",
    "label",
    "signal",
    "action",
    "slot",
    "group",
    "cell",
    "partition",
    "path",
    "reason",
    "outcome",
    "method",
    "strategy",
    "plan",
    "twin",
    "consumer",
)


def test_the_examples_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    examples = "\n".join(re.findall(r"```python\n(.*?)```", TEXT, re.S))
    test = doctest.DocTestParser().get_doctest(examples, {}, "glossary", "docs/glossary.md", 0)
    failed, tried = doctest.DocTestRunner().run(test)
    assert tried > len(WORDS)
    assert failed == 0, capsys.readouterr().out


@pytest.mark.parametrize("word", WORDS)
def test_the_words_are_there_with_an_example(word: str) -> None:
    (section,) = re.findall(rf"^\*\*{word}\*?\*?\W.*?(?=^\*\*|^## |\Z)", TEXT, re.S | re.M | re.I)
    assert ">>>" in section
