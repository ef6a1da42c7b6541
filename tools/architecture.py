"""The picture of the floors, from the imports: which package imports from which, and how many of its files do.

    python tools/architecture.py [--check]

Writes docs/architecture.svg. Floors are those of the import-linter contract in pyproject.toml, top to bottom; imports
are read from the source, none is run. --check writes nothing: exit code 1 where the picture is not that of the code.
"""

from __future__ import annotations

import argparse
import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from _marks import ROOT
from _pictures import themed

PACKAGE = "onnx_condense"
PICTURE = ROOT / "docs" / "architecture.svg"
OUTSIDE = ("onnx", "onnx_graphsurgeon", "onnxruntime")
"""Libraries that are drawn below the lowest floor."""

DARK = {
    "#000000": "#e8ebf0",
    "#ffffff": "#14171c",
    "#f3f5f9": "#1e232b",
    "#e8e8e8": "#3a414b",
    "#dbe7fb": "#24405f",
    "#555555": "#a9b3c1",
    "#c5cddb": "#55606f",
}
"""What colours become where it is dark."""

STEP, LINE = 30, 26
"""Pixels from box to box, to the right and down."""

LEFT, TOP, HEAD = 130, 12, 20
"""Pixels left of the first box, above it, and the height of a box."""

Floors = Sequence[Sequence[str]]
Imports = Mapping[tuple[str, str], int]


def floors() -> Floors:
    """The packages of each floor, top to bottom."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [layer.split(" | ") for layer in layers]


def imports(packages: Sequence[str]) -> Imports:
    """(package, what it imports from) -> how many of its files do; imports within a package are left out."""
    found: dict[tuple[str, str], int] = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        own = path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")
        for other in set(_targets(ast.parse(path.read_text()))) & {*packages, *OUTSIDE} - {own}:
            if own in packages:
                found[own, other] = found.get((own, other), 0) + 1
    return found


def _targets(tree: ast.Module) -> Iterator[str]:
    """What the imports of a file lead to: a package of ours, or a library."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for first, *rest in (name.split(".") for name in names):
            yield rest[0] if first == PACKAGE and rest else first


def picture(storeys: Floors, arrows: Imports) -> str:
    """The SVG: boxes on a staircase; an arrow goes right from what imports, and down into what is imported."""
    boxes = [name for storey in storeys for name in storey] + list(OUTSIDE)
    place = {name: (LEFT + STEP * i, TOP + LINE * i) for i, name in enumerate(boxes)}
    width, height = LEFT + STEP * len(boxes) + 10, TOP + LINE * len(boxes) + 28
    lines = [
        "<title>The floors of onnx-condense, from its imports</title>",
        '<defs><marker id="tip" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="5" markerHeight="5" orient="auto">'
        '<path d="M0 0L6 3L0 6z" fill="#7a8aa0"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    lines += [_band(place[storey[0]][1], len(storey), width) for storey in storeys[::2]]
    for paint in (_arrow, _count):
        lines += [paint(place[a], place[b], count) for (a, b), count in sorted(arrows.items())]
    lines += [_box(name, *place[name]) for name in boxes]
    text = "Numbers: how many files of a package import from the one below. Bands: floors. Grey boxes: libraries."
    lines += [f'<text x="10" y="{height - 8}" fill="#555555">{text}</text>', "</svg>"]
    style = 'font-family="sans-serif" font-size="11"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {style}>'
    return head + themed("\n".join(["", *lines]), DARK) + "\n"


def _band(top: int, count: int, width: int) -> str:
    return f'<rect y="{top - 3}" width="{width}" height="{LINE * count}" fill="#f3f5f9"/>'


def _box(name: str, x: int, y: int) -> str:
    """A box whose right end is its place on the staircase."""
    wide = 8 + 7 * len(name)
    fill, edge = ("#e8e8e8", "#999") if name in OUTSIDE else ("#dbe7fb", "#4a6fa5")
    return (
        f'<rect x="{x - wide}" y="{y}" width="{wide}" height="{HEAD}" rx="3" fill="{fill}" stroke="{edge}"/>'
        f'<text x="{x - wide / 2:g}" y="{y + 14}" text-anchor="middle">{escape(name)}</text>'
    )


def _bend(start: tuple[int, int], end: tuple[int, int]) -> tuple[int, int]:
    """Where an arrow turns down."""
    return end[0] - 8, start[1] + HEAD // 2


def _arrow(start: tuple[int, int], end: tuple[int, int], count: int) -> str:
    """Right to above the end, then down."""
    x, y = _bend(start, end)
    return f'<path d="M{start[0]} {y}H{x}V{end[1]}" fill="none" stroke="#c5cddb" marker-end="url(#tip)"/>'


def _count(start: tuple[int, int], end: tuple[int, int], count: int) -> str:
    """At the bend."""
    x, y = _bend(start, end)
    circle = f'<circle cx="{x}" cy="{y}" r="8" fill="#ffffff" stroke="#7a8aa0"/>'
    return f'{circle}<text x="{x}" y="{y + 4}" text-anchor="middle">{count}</text>'


def main() -> int:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="the picture of the floors, from the imports")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the picture is stale")
    given = parser.parse_args()
    storeys = floors()
    drawn = picture(storeys, imports([name for storey in storeys for name in storey]))
    if given.check:
        fresh = PICTURE.exists() and PICTURE.read_text() == drawn
        print("the picture is that of the code" if fresh else f"{PICTURE} is stale: python tools/architecture.py")
        return 0 if fresh else 1
    PICTURE.write_text(drawn)
    return 0


if __name__ == "__main__":
    sys.exit(main())
