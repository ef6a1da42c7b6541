"""Pictures of the documents: their text can be searched, and they are dark where a reader's system is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

COLOURS = (
    "#3a7fc1",
    "#c9731f",
    "#3f9142",
    "#c94f4f",
    "#8d6ac4",
    "#9a6c4c",
    "#c65a9f",
    "#7d8590",
    "#87891f",
    "#1f949c",
    "#4a5fd0",
    "#6b7f9e",
)
"""Of methods, in their order: each can be told from white and from black."""

DARK = {
    "#000000": "#e8ebf0",
    "#ffffff": "#14171c",
    "#ebebeb": "#2b323b",
    "#b0b0b0": "#5b6470",
    "#cccccc": "#3b4450",
    "#4a5fd0": "#7f90f0",
}
"""What colours become where it is dark; others stay."""

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
}


def save(figure: Any, target: Path, title: str) -> None:
    """Writes a figure of matplotlib: the same bytes for the same numbers, with its title."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.S)
    start = body.index(">") + 1
    target.write_text(f'{body[: start - 1]} role="img">\n <title>{title}</title>{themed(body[start:], DARK)}')


def themed(body: str, dark: Mapping[str, str]) -> str:
    """What stands in an svg element, with those of its colours as variables that are others where it is dark."""
    body = f"<style>svg{{fill:#000000}}</style>{body}"  # of text, which states none
    used = [colour for colour in dark if re.search(rf"{colour}\b", body)]
    names = {colour: f"--c{number}" for number, colour in enumerate(used)}

    def named(found: re.Match[str]) -> str:
        return f"var({names[found[0]]})" if found[0] in names else found[0]

    light, night = ("".join(f"{names[colour]}:{to[colour]};" for colour in used) for to in ({c: c for c in used}, dark))
    style = f"<style>svg{{{light}}}@media (prefers-color-scheme: dark){{svg{{{night}}}}}</style>"
    return f"\n {style}" + re.sub(r"#[0-9a-fA-F]{3,6}\b", named, body)
