"""Draws the pictures of docs/how-it-works.md.

    python tools/how_it_works.py [--check]

--check writes nothing: exit code 1 where a picture in docs/ is another one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"

STYLE = """
    .line { stroke: #546e7a; stroke-width: 1.5; fill: none }
    .heavy { stroke: #00796b; stroke-width: 3 }
    .box { fill: #eceff1; stroke: #90a4ae }
    .same { fill: #b2dfdb; stroke: #00796b }
    text { fill: #263238; font: 13px sans-serif; text-anchor: middle }
    .small { font-size: 11.5px; fill: #455a64 }
    @media (prefers-color-scheme: dark) {
      .line { stroke: #b0bec5 } .heavy { stroke: #4db6ac }
      .box { fill: #37474f; stroke: #78909c } .same { fill: #00574b; stroke: #4db6ac }
      text { fill: #eceff1 } .small { fill: #cfd8dc }
    }
"""


def svg(width: int, height: int, title: str, shapes: Iterable[str]) -> str:
    """A picture that follows the reader's light or dark."""
    inside = "\n".join(f"  {shape}" for shape in shapes)
    head = (
        '<marker id="to" markerUnits="userSpaceOnUse" refX="8" refY="4" markerWidth="9" markerHeight="9" orient="auto">'
    )
    marker = f'<defs>{head}<path d="M0 0 8 4 0 8z" fill="#78909c"/></marker></defs>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">\n'
        f"  <title>{title}</title>\n  <style>{STYLE}  </style>\n  {marker}\n{inside}\n</svg>\n"
    )


def line(x: int, y: int, to_x: int, to_y: int, kind: str = "", head: bool = False) -> str:
    """A line, perhaps with a head."""
    end = ' marker-end="url(#to)"' if head else ""
    return f'<path class="line {kind}" d="M{x} {y} {to_x} {to_y}"{end}/>'


def dot(x: int, y: int, kind: str = "box") -> str:
    """A neuron."""
    return f'<circle class="{kind}" cx="{x}" cy="{y}" r="14"/>'


def box(x: int, y: int, width: int, text: str, below: str = "", kind: str = "box") -> list[str]:
    """A box around a middle, with a word in it and smaller ones below that."""
    found = [f'<rect class="{kind}" x="{x - width // 2}" y="{y - 22}" width="{width}" height="44" rx="6"/>']
    found.append(word(x, y + (-2 if below else 4), text))
    return [*found, word(x, y + 14, below, "small")] if below else found


def word(x: int, y: int, text: str, kind: str = "") -> str:
    """Words around a middle."""
    return f'<text class="{kind}" x="{x}" y="{y}">{text}</text>'


def layer(x: int, hidden: list[tuple[int, str, str, str]]) -> list[str]:
    """Inputs, hidden neurons (height, kind, weight before, weight behind), and an output."""
    found = []
    for y, kind, before, behind in hidden:
        weight = "heavy" if kind == "same" else ""
        found += [line(x + 14, source, x + 106, y, weight) for source in (70, 150)]
        found += [line(x + 134, y, x + 226, 110, weight), dot(x + 120, y, kind)]
        found += [word(x + 92, y - 20, before, "small"), word(x + 170, y - 20, behind, "small")]
    return [*found, dot(x, 70), dot(x, 150), dot(x + 240, 110)]


def merge() -> str:
    """Two neurons become one."""
    before = [(45, "same", "w", "v"), (110, "same", "2 w", "u"), (175, "box", "", "")]
    after = [(77, "same", "w", "v + 2 u"), (175, "box", "", "")]
    shapes = [
        *layer(40, before),
        line(330, 110, 400, 110, head=True),
        word(365, 98, "merge", "small"),
        *layer(460, after),
    ]
    return svg(740, 215, "Two neurons with weight vectors w and 2 w become one, read with v + 2 u", shapes)


def group() -> str:
    """Layers of a residual sum narrow together."""
    arrows = [(95, 70, 150, 70), (260, 70, 315, 70), (425, 70, 472, 70), (520, 70, 575, 70), (685, 70, 740, 70)]
    shapes = [line(*arrow, head=True) for arrow in arrows]
    shapes += ['<path class="line heavy" d="M285 70 V140 H496 V96" marker-end="url(#to)"/>']
    for x, text, below, kind in (
        (60, "input", "3", "box"),
        (205, "Conv", "16 → 11", "same"),
        (370, "Conv", "16 → 11", "same"),
        (630, "Conv", "reads 11", "box"),
        (775, "output", "10", "box"),
    ):
        shapes += box(x, 70, 110 if kind == "same" or text == "Conv" else 70, text, below, kind)
    shapes += [
        '<circle class="same" cx="496" cy="70" r="20"/>',
        word(496, 75, "+"),
        word(390, 160, "the same channels", "small"),
    ]
    return svg(840, 180, "Two layers whose outputs are added lose the same channels", shapes)


def proof() -> str:
    """Original, twin and small model."""
    shapes = [*box(110, 60, 180, "original", "its weights"), *box(400, 60, 180, "expanded twin", "merged weights")]
    shapes += [*box(690, 60, 180, "small model", "fewer channels", "same")]
    shapes += [line(200, 60, 310, 60, head=True), line(490, 60, 600, 60, head=True)]
    shapes += [word(255, 48, "merge", "small"), word(545, 48, "rewrite", "small")]
    for x, name, what in (
        (255, "approximation error", "is told"),
        (545, "surgery error", "float rounding, or nothing is written"),
    ):
        shapes += [
            f'<path class="line" d="M{x - 130} 92 V112 H{x + 130} V92"/>',
            word(x, 132, name),
            word(x, 150, what, "small"),
        ]
    return svg(800, 165, "The small model equals its twin to rounding; the twin is compared with the original", shapes)


PICTURES = {"merge.svg": merge, "group.svg": group, "proof.svg": proof}


def main() -> int:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="the pictures of docs/how-it-works.md")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a picture is stale")
    given = parser.parse_args()
    drawn = {DOCS / name: draw() for name, draw in PICTURES.items()}
    if given.check:
        stale = [path.name for path, text in drawn.items() if not path.exists() or path.read_text() != text]
        print(f"{', '.join(stale)}: python tools/how_it_works.py" if stale else "the pictures are fresh")
        return 1 if stale else 0
    for path, text in drawn.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
