"""Pictures of the documents: their text can be searched, and they are dark where a reader's system is."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("tools", "tools/experiments", "docs")
SHOWN = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.svg"))]


@pytest.mark.parametrize("picture", SHOWN, ids=lambda path: path.name)
def test_a_picture_has_text_a_title_and_a_dark_side(picture: Path) -> None:
    read = ElementTree.parse(picture).getroot()
    names = [element.tag.rpartition("}")[2] for element in read.iter()]
    assert names.count("title") == 1
    assert names.count("text") > 5
    assert "prefers-color-scheme: dark" in picture.read_text()


def test_colours_become_others_where_it_is_dark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    sys.modules.pop("_pictures", None)
    import _pictures

    found = _pictures.themed(
        '<path id="#a" fill="#ffffff" stroke="#123456"/>', {"#ffffff": "#14171c", "#eeeeee": "#222222"}
    )
    assert re.search(r"svg\{--c0:#ffffff;\}@media \(prefers-color-scheme: dark\)\{svg\{--c0:#14171c;\}\}", found)
    assert '<path id="#a" fill="var(--c0)" stroke="#123456"/>' in found
    assert len(set(_pictures.COLOURS)) == len(_pictures.COLOURS) == 12
