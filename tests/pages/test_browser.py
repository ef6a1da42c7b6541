"""Pages in a headless Chromium: nothing is fetched, nothing is cut, light and dark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import builders
from support.browser import CHROMIUM, browser
from support.cli import OUT, Cli, Save

from onnx_condense.pages.page import page
from onnx_condense.pages.words import at

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]

NUMBERS = "Object.fromEntries([...document.querySelectorAll('data')].map(e => [e.dataset.at, JSON.parse(e.value)]))"

CUT = """[...document.querySelectorAll('h1, h2, p, li, caption, figcaption, summary, pre, code, data, th, td, text')]
.filter(e => !(innerWidth <= 800 && e.closest('thead')))
.filter(e => {
    const box = e.getBoundingClientRect();
    const block = e.ownerSVGElement === undefined && getComputedStyle(e).display !== 'inline';
    const over = block && e.scrollWidth > e.clientWidth + 1;
    return box.width && (over || box.right > innerWidth + 1 || box.left < -1);
}).filter(e => !e.classList.contains('skip')).map(e => e.tagName + ': ' + e.textContent)"""

OVERLAP = """[...document.querySelectorAll('svg')].flatMap(svg => {
    const boxes = [...svg.querySelectorAll('text')].map(e => [e.textContent, e.getBoundingClientRect()]);
    return boxes.flatMap(([name, a], i) => boxes.slice(i + 1)
        .filter(([, b]) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 6 && b.top < a.bottom - 6)
        .map(([other]) => name + ' / ' + other));
})"""

CONTRAST = """(() => {
    const light = c => { const [r, g, b] = c.match(/[0-9.]+/g).slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const paper = light(getComputedStyle(document.body).backgroundColor);
    const ratio = c => { const ink = light(c);
        return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05); };
    return Math.min(...[...document.querySelectorAll('p, caption, figcaption, td, th, summary, code, svg text')]
        .map(e => ratio(getComputedStyle(e)[e.tagName === 'text' ? 'fill' : 'color'])));
})()"""


BOTH = ("m.onnx", OUT)


def test_a_page_is_whole_at_every_width(cli: Cli, save: Save, tmp_path_factory: pytest.TempPathFactory) -> None:
    save(builders.convnet((3, 16, 16), clusters=5))
    cli.ok("m.onnx", "--budget", "error=0.2", "--trials", "3", "--report", "r.html", "--report", "r.json")
    content = json.loads(Path("r.json").read_text())
    long = json.loads(json.dumps(content))
    for number, group in enumerate(long["groups"]):
        group["layers"] = [f"/model/encoder/layer_{number}/" + "attention_" * 30 + "/Conv"] * (1 + 4 * number)
    Path("long.html").write_bytes(page(long))
    others = {"inspect": ("m.onnx",), "diff": BOTH, "bench": (*BOTH, "--seconds", "0.1", "--profile"), "verify": BOTH}
    for command, given in others.items():
        limit = ("--tolerance", "9") if command == "verify" else ()
        cli.ok(command, *given, *limit, "--report", f"{command}.html", "--report", f"{command}.json")
    documents = {f"{command}.html": json.loads(Path(f"{command}.json").read_text()) for command in others}
    with browser(tmp_path_factory.mktemp("profile")) as chromium:
        for name, document in ({"r.html": content, "long.html": long} | documents).items():
            chromium.open(Path(name).absolute())
            for width in (320, 810, 1280):
                for dark in (False, True):
                    chromium.look(width, dark)
                    assert chromium.ask(CUT) == []
                    assert chromium.ask("document.documentElement.scrollWidth <= innerWidth")
                    assert chromium.ask(OVERLAP) == []
                    assert chromium.ask(CONTRAST) >= 4.5
            for pointer, value in chromium.ask(NUMBERS).items():
                assert value == at(pointer, document)
            fetched = [address for address in chromium.requested if not address.startswith("data:")]
            assert fetched == [Path(name).absolute().as_uri()]
