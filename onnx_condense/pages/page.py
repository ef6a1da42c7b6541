"""A document that a run writes, as one HTML file: templates, and pictures inside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from onnx_condense.errors import UsageError, visible
from onnx_condense.extras import need
from onnx_condense.pages import words

if TYPE_CHECKING:  # few runs make a page
    from jinja2 import Environment

NEEDED = ("jinja2", "matplotlib")

LARGEST = 2_000_000
"""Bytes that a page stays below."""

ROWS = (1000, 200, 50, 10)
"""Rows of a table and names of a row that a page may show: the first with which it stays small."""

PREFIX = "onnx-condense-"
"""How the formats of documents begin."""


@dataclass(frozen=True)
class Kind:
    """A kind of document. told: its title and what was done. draw: its pictures, by name."""

    told: Callable[[Mapping[str, Any]], words.Told]
    draw: str


KINDS = {
    "report": Kind(words.of_report, "of_report"),
    "analysis": Kind(words.of_analysis, "of_analysis"),
    "verification": Kind(words.of_verification, "of_nothing"),
    "difference": Kind(words.of_difference, "of_difference"),
    "benchmark": Kind(words.of_benchmark, "of_benchmark"),
    "auto-status": Kind(words.of_auto, "of_auto"),
}
"""By the format of a document; each has a template of its name."""


def check_installed(option: str) -> None:
    """Raises UsageError where the extra is missing. option: what asks for a page."""
    need(option, "report", NEEDED)


def page(document: Mapping[str, Any]) -> bytes:
    """The page of a document, the same bytes for the same one. Raises UsageError."""
    check_installed("a report in HTML")
    name = str(document.get("format", "")).removeprefix(PREFIX)
    if name not in KINDS:
        raise UsageError(f"no page is made of {visible(name) or 'a document without a format'}: take its JSON")
    from onnx_condense.pages import pictures

    kind = KINDS[name]
    drawn = getattr(pictures, kind.draw)(document)
    template = _environment().get_template(f"{name}.html")
    for rows in ROWS:
        text = template.render(doc=document, told=kind.told(document), pictures=drawn, most=rows).encode()
        if len(text) < LARGEST:
            break
    return text


def fragment(document: Mapping[str, Any]) -> str | None:
    """A report as a part of a page, for a notebook; None where the extra is missing."""
    if find_spec("jinja2") is None:
        return None
    return _environment().get_template("notebook.html").render(doc=document, most=ROWS[-1] * 5)


@cache
def _environment() -> Environment:
    """The templates, to which every text is data: escaped, and with what does not print written out."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

    def breakable(text: str) -> Markup:
        """A name that may go on in the next line behind a stroke or a dot."""
        return Markup(re.sub(r"(?<=[/._])(?=.)", "<wbr>", escape(shown(text))))

    def shown(value: Any) -> Any:
        if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
            return value
        return visible(value)

    loader = PackageLoader("onnx_condense.pages")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, finalize=shown, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "at": words.at,
        "told": words.number,
        "exactly": words.exactly,
        "clipped": words.clipped,
        "breakable": breakable,
        "advice": words.advice,
        "plain": words.plain,
    }
    environment.globals["command"] = words.command
    return environment
